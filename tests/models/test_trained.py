"""Every tool says the same of what cannot be asked anything."""

import pytest

import mmopt as mm

TOOLS = {
    "perturb": lambda mdata, model: mm.tl.perturb(mdata, "g0", model=model),
    "reprogram": lambda mdata, model: mm.tl.reprogram(mdata, "a", "b", model=model),
    "twin": lambda mdata, model: mm.tl.twin(mdata, time_key="day", model=model),
    "simulate": lambda mdata, model: mm.tl.simulate(mdata, start={"day": 0}, model=model),
    "landscape": lambda mdata, model: mm.tl.landscape(mdata, model),
    "curvature": lambda mdata, model: mm.tl.curvature(mdata, model),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_untrained_models_and_what_is_none_are_refused(tool, make_model):
    model = make_model()
    with pytest.raises(ValueError, match=r"not trained: call `model\.train\(\)`"):
        TOOLS[tool](model.adata, model)
    with pytest.raises(TypeError, match="trained TriVI"):
        TOOLS[tool](model.adata, "model.pt")

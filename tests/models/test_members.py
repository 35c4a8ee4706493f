"""Networks side by side: each is a model of its own, and together they say the mean."""

import numpy as np
import pytest
import torch

from mmopt.models import TriVI, trivi
from mmopt.models.module import TriModule

ALL = ("rna", "atac", "prot")
KEPT = ("measured_", "log_profile_", "n_cells")


@pytest.fixture(scope="module")
def batch(fitted):
    (tensors,) = fitted._make_data_loader(fitted.adata, batch_size=512)
    return tensors


@pytest.fixture(scope="module")
def apart(fitted):
    """Each member of the model as a network alone."""
    module = fitted.module
    sizes = {m: len(module.encoders[m][0].mean) for m in ALL}
    out = []
    for i in range(2):
        one = TriModule(sizes, 2, n_latent=2, n_hidden=16).eval()
        state = {k: v for k, v in module.state_dict().items() if k.startswith(KEPT)}
        for k, v in module.state_dict().items():
            kind, _, rest = k.partition(".")
            modality, _, rest = rest.partition(".")
            if kind in ("encoders", "decoders") and rest.startswith(f"{i}."):
                state[f"{kind}.{modality}.0.{rest[2:]}"] = v
        missing, surplus = one.load_state_dict(state, strict=False)
        assert not surplus
        assert all(k.startswith("depths.") for k in missing)
        out.append(one)
    return out


def test_the_embedding_is_theirs_side_by_side(fitted, apart, batch):
    for given in (None, ("rna",), ("prot", "atac")):
        whole = fitted.module.inference(batch, given=given, noise=torch.zeros(1))["qz"]
        each = [one.inference(batch, given=given, noise=torch.zeros(1))["qz"] for one in apart]
        torch.testing.assert_close(whole.loc, torch.cat([q.loc for q in each], 1))
        torch.testing.assert_close(whole.scale, torch.cat([q.scale for q in each], 1))


@pytest.mark.parametrize("gradient", [False, True])
def test_the_bound_is_the_mean_of_theirs(fitted, apart, batch, gradient):
    with torch.set_grad_enabled(gradient):  # the lean likelihoods and the others
        quiet = {"inference_kwargs": {"noise": torch.zeros(1)}}
        whole, *each = (m(batch, **quiet)[2] for m in (fitted.module, *apart))
    torch.testing.assert_close(whole.loss, sum(out.loss for out in each) / 2)
    for name, value in whole.reconstruction_loss.items():
        torch.testing.assert_close(value, sum(out.reconstruction_loss[name] for out in each) / 2)


def test_levels_are_the_mean_of_theirs(fitted, apart, batch):
    z = [one.inference(batch, noise=torch.zeros(1))["qz"].loc for one in apart]
    with torch.inference_mode():
        shares = [one._decode("rna", own, batch["batch"])[0].exp() for one, own in zip(apart, z, strict=True)]
        levels = [
            one.decoders["prot"][0].log_level(one._decode("prot", own, batch["batch"])[0])
            for one, own in zip(apart, z, strict=True)
        ]
    np.testing.assert_allclose(
        fitted.get_normalized("rna", library_size=1), sum(s.numpy() for s in shares) / 2, rtol=1e-4
    )
    np.testing.assert_allclose(
        np.log1p(fitted.get_normalized("prot")), sum(v.numpy() for v in levels) / 2, rtol=1e-4
    )


def test_a_draw_is_of_one_of_them_and_intervals_hold_both(make_model, train):
    """Two networks that disagree: the posterior is narrow, and what they say lies far apart."""
    model = train(make_model(), 1)
    with torch.no_grad():
        for encoder in model.module.encoders["prot"]:
            encoder.trunk.head.weight.zero_()
            encoder.trunk.head.bias[2:] = -8
        for i, decoder in enumerate(model.module.decoders["prot"]):
            decoder.log_background.fill_(1.0 + 2 * i)
            decoder.increment.weight.zero_()
            decoder.increment.bias.fill_(-20.0)
    cells = model.adata.obs_names.get_indexer(model.adata["prot"].obs_names)[:5]
    low, high = np.exp(1), np.exp(3)
    ask = {"given": "prot", "indices": cells}
    draws = model.get_normalized("prot", n_samples=200, return_samples=True, **ask)
    is_high = np.isclose(draws, high, rtol=1e-3)
    assert (is_high | np.isclose(draws, low, rtol=1e-3)).all()
    assert (is_high == is_high[..., :1]).all()  # one network speaks for all proteins of a cell
    assert 0.4 < is_high.mean() < 0.6
    interval = model.get_normalized("prot", interval=0.9, **ask)
    np.testing.assert_allclose(interval.lower, low, rtol=1e-3)
    np.testing.assert_allclose(interval.upper, high, rtol=1e-3)
    middle = np.expm1((np.log1p(low) + np.log1p(high)) / 2)
    np.testing.assert_allclose(model.get_normalized("prot", **ask), middle, rtol=1e-3)
    counts = model.get_predictive_interval("prot", level=0.8, n_samples=400, **ask)
    assert (counts.upper > high).all() and (counts.lower < high / 2).all()


def test_two_for_few_cells_where_the_dimensions_allow(make_model, monkeypatch):
    assert make_model().module.n_members == 2
    assert make_model(n_latent=3).module.n_members == 1
    monkeypatch.setattr(trivi, "FEW_CELLS", 80)
    assert make_model().module.n_members == 1
    assert make_model(n_members=4).module.n_members == 4


@pytest.mark.parametrize("asked", [0, 3, 2.0, "two"])
def test_refused(make_model, asked):
    with pytest.raises(ValueError, match=r"n_members must be a whole number that divides the 4 latent"):
        make_model(n_members=asked)


def test_files_and_queries_have_as_many(make_model, train, tmp_path, monkeypatch):
    train(make_model(n_members=4), 1).save(tmp_path / "model")
    monkeypatch.setattr(trivi, "FEW_CELLS", 0)
    assert TriVI.load(tmp_path / "model").module.n_members == 4
    mdata = make_model().adata
    mdata.obs["donor"] = "new"
    query = TriVI.load_query_data(mdata, tmp_path / "model")
    assert query.module.n_members == 4
    assert np.isfinite(query.get_normalized("prot")).all()

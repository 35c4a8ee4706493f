"""One small fit gives the same numbers on every supported set of versions, within rounding.

``reference_fit.json`` was written by this file: ``python tests/models/test_stacks.py``. Write it again when a change of
the model is meant to change its numbers, and say so in the change.
"""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("reference_fit.json")
EPOCHS, CELLS = 5, slice(0, 300, 20)


def small_fit(toy):
    import mmopt as mm

    mdata = toy[:300].copy()
    model = mm.tl.integrate(
        mdata,
        batch_key="donor",
        n_latent=4,
        n_networks=1,
        max_epochs=EPOCHS,
        accelerator="cpu",
        progress_bar=False,
    )
    return {
        "counts": {m: float(mdata[m].X.sum()) for m in mdata.mod},
        "elbo": model.history["elbo_validation"]["elbo_validation"].tolist(),
        "embedding": mdata.obsm["X_mmopt"][CELLS].tolist(),
        "protein": model.get_normalized("prot", given="rna")[CELLS, :5].tolist(),
        "weights": mdata.obs["mmopt_weight_rna"].to_numpy()[CELLS].tolist(),
    }


def test_the_fit_is_that_of_the_other_stack(toy_source):
    found, expected = small_fit(toy_source), json.loads(FILE.read_text())
    assert found["counts"] == expected["counts"]  # the simulator's random numbers
    np.testing.assert_allclose(found["elbo"], expected["elbo"], rtol=1e-4)
    for name in ("embedding", "weights", "protein"):
        scale = np.std(expected[name])
        np.testing.assert_allclose(found[name], expected[name], atol=0.01 * scale, rtol=0, err_msg=name)


if __name__ == "__main__":
    import mmopt as mm

    rounded = json.loads(
        json.dumps(small_fit(mm.datasets.toy())), parse_float=lambda text: float(f"{float(text):.7g}")
    )
    FILE.write_text(json.dumps(rounded) + "\n")

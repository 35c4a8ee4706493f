import numpy as np
import pytest
import torch

import mmopt as mm
from mmopt.models.frozen import frozen_loss


@pytest.fixture(scope="module")
def seen(fitted):
    mdata, model = fitted
    mdata = mdata.copy()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    mm.tl.landscape(mdata, model, n_points=5, n_cells=100, progress_bar=False)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert not model.module.training
    return mdata, model


def test_the_centre_is_the_fit(seen):
    mdata, model = seen
    slot = mdata.uns["landscape"]
    parameters, loss = frozen_loss(model, mdata, n_cells=100)
    with torch.no_grad():
        at_fit = loss(parameters)
    assert slot["x"][2] == slot["y"][2] == 0
    assert slot["loss"][2, 2] == float(at_fit["loss"])
    for part in ("rna", "atac", "prot", "kl"):
        assert slot[f"loss_{part}"][2, 2] == float(at_fit[part])


def test_the_parts_sum_to_the_loss_everywhere(seen):
    slot = seen[0].uns["landscape"]
    parts = sum(slot[f"loss_{part}"] for part in ("rna", "atac", "prot", "kl"))
    np.testing.assert_allclose(parts, slot["loss"], rtol=1e-4)
    assert slot["loss"].min() < slot["loss"].max()


def test_two_calls_agree_bit_for_bit(seen):
    mdata, model = seen
    first = mdata.uns["landscape"]["loss"].copy()
    mm.tl.landscape(mdata, model, n_points=5, n_cells=100, key_added="again", progress_bar=False)
    np.testing.assert_array_equal(mdata.uns["again"]["loss"], first)


def test_hessian_directions_curve_more_than_random_ones(seen):
    mdata, model = seen
    mm.tl.landscape(
        mdata, model, directions="hessian", span=0.02, n_points=3, n_cells=60, key_added="sharp", progress_bar=False
    )
    mm.tl.landscape(mdata, model, span=0.02, n_points=3, n_cells=60, key_added="plain", progress_bar=False)

    def bend(slot):
        line = slot["loss"][1]
        return line[0] - 2 * line[1] + line[2]

    assert bend(mdata.uns["sharp"]) > bend(mdata.uns["plain"])
    first, second = mdata.uns["sharp"]["hessian_eigenvalues"]
    assert first >= second


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"directions": "up"}, "random"), ({"n_points": 2}, "n_points"), ({"span": 0}, "span")],
)
def test_refusals(fitted, kwargs, message):
    mdata, model = fitted
    with pytest.raises(ValueError, match=message):
        mm.tl.landscape(mdata, model, **kwargs)

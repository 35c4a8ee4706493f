"""What calls leave to the next ones, and to those of other data."""

import numpy as np
import pytest

import mmopt as mm


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_view_gets_its_own_results(mdata):
    view = mdata[mdata.obs_names[:400]]
    mm.tl.perturb(view, "GATA1", n_null=5)
    assert "perturb" not in mdata.uns
    assert list(view.uns["perturb"]) == ["GATA1_knockout"]
    mm.tl.perturb(mdata, "SPI1", n_null=5)
    view = mdata[mdata.obs_names[:400]]
    mm.tl.perturb(view, "GATA1", n_null=5)
    assert list(view.uns["perturb"]) == ["SPI1_knockout", "GATA1_knockout"]
    assert list(mdata.uns["perturb"]) == ["SPI1_knockout"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_is_left_of_a_call_under_the_same_key(mdata):
    stale = "X_mmopt_GATA1_knockout", "X_mmopt_GATA1_knockout_null"
    for key in stale:
        mdata.obsm[key] = np.zeros((mdata.n_obs, 2))
    mdata.obs["perturb_score_GATA1_knockout"] = 1.0
    mm.tl.perturb(mdata, "GATA1", n_null=5)
    assert not {*stale} & {*mdata.obsm}
    assert "perturb_score_GATA1_knockout" not in mdata.obs


@pytest.mark.parametrize(
    ("call", "key"),
    [
        (lambda m, **k: mm.tl.simulate(m, start={"time": 0}, **k), "day2/4"),
        (lambda m, **k: mm.tl.twin(m, time_key="time", **k), "GATA1/OE"),
        (lambda m, **k: mm.tl.evaluate_twin(m, time_key="time", **k), "a/b"),
        (lambda m, **k: mm.tl.screen(m, ["GATA1"], **k), "a/b"),
        (lambda m, **k: mm.tl.reprogram(m, "monocyte", "erythrocyte", **k), "a/b"),
        (mm.tl.regulons, "a/b"),
        (mm.tl.integrate, "X_a/b"),
    ],
)
def test_no_slot_that_a_file_cannot_hold(mdata, call, key):
    with pytest.raises(ValueError, match=r"key_added='.*/.*read as a group by HDF5.*take '\w+'"):
        call(mdata, key_added=key)
    for none in ("", None, 3):
        with pytest.raises(ValueError, match=f"key_added={none!r}: a name is needed"):
            call(mdata, key_added=none)

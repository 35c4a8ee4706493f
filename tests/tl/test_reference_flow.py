"""What the move of a perturbed cell is compared with."""

import warnings

import numpy as np
import pytest

import mmopt as mm
from mmopt.tl._members import restore


@pytest.fixture
def mdata(twinned):
    return twinned.copy()


def perturb(mdata, **kwargs):
    """Scores of the cells and of all of them, and what they were compared with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.perturb(mdata, "GATA1", n_null=5, key_added="p", **kwargs)
    result = mdata.uns["perturb"]["p"]
    return (
        mdata.obs["perturb_score_p"].to_numpy(),
        result["groups"].loc[0, "perturbation_score"],
        result["params"]["flow"],
    )


def test_a_velocity_along_a_line_is_a_pseudotime(mdata):
    mdata.obs["age"] = np.random.default_rng(0).random(mdata.n_obs) + mdata.obs["time"]
    by_age, mean, name = perturb(mdata, pseudotime_key="age")
    assert name == "age" and np.isfinite(mean)
    mdata.obsm["X_line"] = mdata.obs[["age"]].to_numpy()
    mdata.obsm["velocity_line"] = np.full((mdata.n_obs, 1), -2.0)
    mdata.obsm["velocity_line"][:5] = np.nan
    backwards, _, name = perturb(mdata, flow="velocity_line")
    assert name == "velocity_line"
    assert np.isnan(backwards[:5]).all()
    np.testing.assert_allclose(backwards[5:], -by_age[5:], atol=1e-9)


def test_the_twin_is_the_reference_along_a_past(mdata):
    course, members = restore(mdata, "twin")
    mdata.obsm["velocity_pca"] = np.mean(
        [m.flow.velocity(course.states, course.times[course.point]) for m in members], axis=0
    )
    of_twin, mean, name = perturb(mdata, method="twin", flow="twin")
    assert name == "twin" and np.isfinite(mean)
    stored, *_ = perturb(mdata, method="twin", flow="velocity_pca")
    np.testing.assert_allclose(of_twin, stored)
    network, _, name = perturb(mdata, flow="twin")
    assert name == "twin" and not np.allclose(network, of_twin, equal_nan=True)


def test_with_a_twin_and_a_model_cells_have_a_score(fitted):
    source, model = fitted
    mdata = source.copy()
    mm.tl.regulons(mdata, prior=mdata.uns["truth"]["edges"][["source", "target", "sign"]], n_boot=5)
    mm.tl.twin(mdata, time_key="time", n_steps=20, progress_bar=False)
    scores, mean, name = perturb(mdata, method="twin", model=model)
    assert name == "twin"
    assert np.isfinite(scores).mean() > 0.5 and -1 <= mean <= 1


def test_references_that_are_none_are_refused(mdata):
    mdata.obsm["velocity_pca"] = np.zeros((mdata.n_obs, 2))
    for kwargs, error, message in (
        ({"flow": "velocity_umap"}, KeyError, "'velocity_umap' beside 'X_umap'.*'X_pca'"),
        ({"flow": "X_pca"}, KeyError, "flow='X_pca'"),
        ({"flow": "velocity_pca"}, ValueError, r"shape \(500, 2\).*\(500, 8\)"),
        ({"flow": "twin", "pseudotime_key": "time"}, ValueError, "leave one of them out"),
        ({"flow": "twin", "twin": "other"}, KeyError, "no twin"),
    ):
        with pytest.raises(error, match=message):
            mm.tl.perturb(mdata, "GATA1", **kwargs)

import re

import numpy as np
import pandas as pd
import pytest
from mudata import read_h5mu

import mmopt as mm


def fit(mdata, **kwargs):
    arguments = {"time_key": "day", "use_rep": "X_pca", "n_steps": 5, "progress_bar": False} | kwargs
    mm.tl.twin(mdata, **arguments)
    return mdata.uns["twin"]


def test_what_is_written_survives_a_file(twinned, tmp_path):
    twinned.write_h5mu(tmp_path / "twin.h5mu")
    again = read_h5mu(tmp_path / "twin.h5mu")
    for mdata in (again, twinned := twinned.copy()):
        mm.tl.simulate(
            mdata, start={"time": 2}, terminal_key="cell_type", progress_bar=False, key_added="second"
        )
    for table in ("fate", "features", "ood"):
        pd.testing.assert_frame_equal(
            again.uns["second"][table], twinned.uns["second"][table], check_categorical=False, atol=1e-6
        )
    np.testing.assert_allclose(again.obsm["fate_second"], twinned.obsm["fate_second"], atol=1e-6)


def test_other_cells_are_noticed(twinned, tmp_path):
    """Couplings know cells by their place: in another order they would give fates to the wrong ones."""

    def restored(mdata):
        return mm.tl.transitions(mdata).shape

    rng = np.random.default_rng(0)
    other = twinned[rng.permutation(twinned.n_obs)].copy()
    for call in (restored, lambda m: mm.tl.simulate(m, start={"time": 2}, progress_bar=False)):
        with pytest.raises(ValueError, match=r"in another order .*call `mm\.tl\.twin` again"):
            call(other)
    for call in (mm.tl.perturb, lambda m, p, **k: mm.tl.screen(m, [p], **k)):
        with pytest.raises(ValueError, match=r"call `mm\.tl\.twin` again"):
            call(other, "GATA1", method="twin")
    same = twinned.copy()
    same.obsm["X_pca"] = twinned.obsm["X_pca"].astype(np.float32)
    same.write_h5mu(tmp_path / "same.h5mu")
    assert restored(read_h5mu(tmp_path / "same.h5mu")) == (500, 500)
    for changed in (-same.obsm["X_pca"], same.obsm["X_pca"][::-1], 1.01 * same.obsm["X_pca"]):
        same.obsm["X_pca"] = changed
        with pytest.raises(ValueError, match=r"is not the embedding .*call `mm\.tl\.twin` again"):
            restored(same)
    del other.uns["twin"]["identity"]
    assert restored(other) == (500, 500), "a twin of an earlier version"


def test_slots(twinned):
    slot = twinned.uns["twin"]
    assert slot["times"].tolist() == [0, 2, 4, 6, 8]
    assert len(slot["members"]) == 5
    assert slot["params"]["units"] == "days"
    assert (slot["apart"][:3] <= 0.05).all()
    weights = [m["weights"] for m in slot["members"].values()]
    assert np.abs(weights[0] - weights[1]).max() > 0.001, "every member has a bootstrap of its own"


def test_shuffled_labels_are_noticed(course):
    mdata = course()
    mdata.obs["day"] = np.random.default_rng(1).permutation(mdata.obs["day"].to_numpy())
    with pytest.warns(UserWarning, match="no better than chance: are the labels in 'day' shuffled"):
        fit(mdata)
    assert any("shuffled" in w for w in mdata.uns["twin"]["warnings"])


def test_a_single_time_point(course):
    with pytest.raises(ValueError, match=r"has 1 time point .*at least two.*dpt_pseudotime"):
        fit(course(times=(3,)))


def test_few_cells(course):
    mdata = course(n=60)
    mdata = mdata[np.r_[0:60, 60:100, 120:180]].copy()
    with pytest.raises(ValueError, match=r"fewer than 50 cells at some time points \(1: 40\).*least_cells"):
        fit(mdata)
    assert fit(mdata, least_cells=40)["times"].tolist() == [0, 1, 2]


def test_pseudotime_has_no_days(course):
    mdata = course(n=100)
    mdata.obs["dpt_pseudotime"] = np.random.default_rng(0).random(300) + mdata.obs["day"].to_numpy()
    with pytest.raises(ValueError, match=r"is a pseudotime .* cannot be counted in days"):
        fit(mdata, time_key="dpt_pseudotime", units="days")
    with pytest.warns(UserWarning, match="an order without a clock"):
        slot = fit(mdata, time_key="dpt_pseudotime")
    assert slot["params"]["units"] == "pseudotime"
    assert len(slot["times"]) == 6


def test_times_that_are_words(course):
    mdata = course()
    mdata.obs["day"] = "day " + mdata.obs["day"].astype(str)
    with pytest.raises(ValueError, match=r"180 values are no finite numbers.*give numbers of one unit"):
        fit(mdata)


@pytest.mark.parametrize("kind", ["E", "day-", "timedelta"])
def test_the_remedy_for_times_that_are_no_numbers_keeps_them_apart(course, kind):
    mdata = course(times=(8, 8.5, 9))
    if kind != "timedelta":
        mdata.obs["day"] = (kind + mdata.obs["day"].astype(str)).astype("category")
    else:
        mdata.obs["day"] = pd.to_timedelta(mdata.obs["day"], unit="h")
    with pytest.raises(ValueError, match="values are no finite numbers") as error:
        fit(mdata)
    mdata.obs["day"] = eval(re.search(r"e\.g\. `(.+)`$", str(error.value)).group(1), {"mdata": mdata})
    np.testing.assert_allclose(fit(mdata)["times"], [8, 8.5, 9])


def test_cells_without_a_time_are_left_out(course):
    mdata = course()
    mdata.obs["day"] = np.where(np.arange(180) < 5, np.nan, mdata.obs["day"])
    assert (fit(mdata)["point"][:5] == -1).all()


def test_no_embedding(course):
    with pytest.raises(KeyError, match=r"mm.tl.integrate\(mdata\)` first, or name any embedding"):
        fit(course(), use_rep=None)
    mdata = course()
    mdata.obsm["X_pca"][3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit(mdata)


def test_growth(course):
    mdata = course()
    mdata.obs["growth"] = np.where(np.arange(180) % 2, 4.0, 1.0)
    plan = fit(mdata, growth_key="growth")["members"]["member0"]["couplings"]["interval0"]
    offspring = np.asarray(plan.sum(1)).ravel()
    plain = np.asarray(fit(mdata)["members"]["member0"]["couplings"]["interval0"].sum(1)).ravel()
    assert offspring[1:60:2].sum() > plain[1:60:2].sum() + 0.15
    mdata.obs["growth"] = 0.0
    with pytest.raises(ValueError, match="positive and finite, 1 for a cell that neither divides nor dies"):
        fit(mdata, growth_key="growth")


def test_given_couplings(course):
    mdata = course()
    given = [np.eye(60), np.roll(np.eye(60), 1, axis=1)]
    slot = fit(mdata, couplings=given)
    assert slot["params"]["couplings"] == "given"
    plan = slot["members"]["member0"]["couplings"]["interval1"].toarray()
    assert ((plan > 0) == (given[1] > 0)).all()
    with pytest.raises(ValueError, match="2 intervals need 2 matrices, got 1"):
        fit(mdata, couplings=given[:1])
    with pytest.raises(ValueError, match=r"from 0 to 1 it must be \(60, 60\)"):
        fit(mdata, couplings=[np.ones((60, 59)), given[1]])
    with pytest.raises(ValueError, match="no row or column all zero"):
        fit(mdata, couplings=[np.zeros((60, 60)), given[1]])


def test_arguments(course):
    with pytest.raises(ValueError, match="n_members must be at least 5"):
        fit(course(), n_members=2)
    with pytest.raises(ValueError, match="accelerator must be"):
        fit(course(), accelerator="tpu")
    with pytest.raises(ValueError, match="Unknown optimizer"):
        fit(course(), optimizer="newton")


def test_same_seed_same_twin(course):
    one, two, other = (fit(course(), random_state=s)["members"]["member1"]["flow"] for s in (1, 1, 2))
    np.testing.assert_array_equal(one["layers_0_weight"], two["layers_0_weight"])
    assert np.abs(one["layers_0_weight"] - other["layers_0_weight"]).max() > 1e-3


def test_transitions_lead_to_the_fates(twinned):
    matrix = mm.tl.transitions(twinned)
    np.testing.assert_allclose(np.asarray(matrix.sum(1)).ravel(), 1, atol=1e-6)
    time = twinned.obs["time"].to_numpy()
    rows, columns = matrix.nonzero()
    moved = rows != columns
    assert (time[columns[moved]] - time[rows[moved]] == 2).all()
    assert (time[rows[~moved]] == 8).all()
    with pytest.raises(KeyError, match=r"mm\.tl\.twin"):
        mm.tl.transitions(twinned, twin="none")

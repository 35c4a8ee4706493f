import numpy as np
import pytest
from mudata import MuData

import mmopt as mm

QUICK = {"time_key": "day", "use_rep": "X_pca", "n_members": 1, "n_steps": 300, "progress_bar": False}


def test_between_two_points_it_beats_both(course):
    mdata = course(n=120)
    table = mm.tl.evaluate_twin(mdata, **QUICK)
    here = table[table["space"] == "embedding"].set_index("prediction")
    assert set(here.index) == {
        "twin",
        "linear_interpolation",
        "previous_time",
        "next_time",
        "split_half_floor",
    }
    for score in ("w1", "w2", "mmd", "energy"):
        assert here.loc["twin", score] < 0.7 * here.loc["previous_time", score]
        assert here.loc["twin", score] < 0.7 * here.loc["next_time", score]
    assert here.loc["split_half_floor", "energy"] < 0.1
    assert here["n_cells"].nunique() == 1, "every prediction is compared with as many cells"
    assert set(table["space"]) == {"embedding", "genes"}
    assert mdata.uns["twin_evaluation"]["scores"].equals(table)


def test_a_course_that_jumps_is_not_predicted(course):
    """The held-out point lies nowhere between its neighbours, so the score has to say so."""
    mdata = course(n=120)
    inner = (mdata.obs["day"] == 1).to_numpy()
    mdata.obsm["X_pca"][inner, 1] += 12
    table = mm.tl.evaluate_twin(mdata, genes=False, **QUICK).set_index("prediction")
    assert table.loc["twin", "w1"] > 3 * table.loc["split_half_floor", "w1"]


def test_refusals(course):
    with pytest.raises(ValueError, match="to leave one out between two others takes three"):
        mm.tl.evaluate_twin(course(times=(0, 1)), **QUICK)
    with pytest.raises(ValueError, match="0 is none of the inner time points 1"):
        mm.tl.evaluate_twin(course(), hold_out=0, **QUICK)
    with pytest.raises(ValueError, match="n_members must be at least 1"):
        mm.tl.evaluate_twin(course(), **(QUICK | {"n_members": 0}))
    with pytest.raises(ValueError, match="accelerator must be"):
        mm.tl.evaluate_twin(course(), accelerator="tpu", **QUICK)


def test_flows_are_fitted_where_it_is_asked_for(course, monkeypatch):
    from mmopt.tl import _evaluate_twin

    seen, made = [], _evaluate_twin.fit_flow
    monkeypatch.setattr(_evaluate_twin, "torch_device", lambda accelerator: {"gpu": "meta"}[accelerator])
    monkeypatch.setattr(
        _evaluate_twin, "fit_flow", lambda *a, device, **k: seen.append(device) or made(*a, **k)
    )
    quick = QUICK | {"n_steps": 2, "genes": False, "n_members": 2}
    mm.tl.evaluate_twin(course(), accelerator="gpu", **quick)
    assert seen == ["meta"] * 2


def growing(course):
    """Two kinds of cells far apart, of which one doubles twice from each time point to the next."""
    mdata = course(n=150, step=1.0)
    day = mdata.obs["day"].to_numpy()
    up = np.concatenate([np.arange(150) < 150 * share for share in (0.2, 0.5, 0.8)])
    mdata.obsm["X_pca"][:, 1] += np.where(up, 5, -5)
    mdata.obs["growth"], mdata.obs["kind"] = np.where(up, 4.0, 1.0), np.where(up, "up", "down")
    assert np.bincount(day[up]).tolist() == [30, 75, 120]
    return mdata


def test_with_growth_as_many_start_as_will_be_there(course):
    mdata, quick = growing(course), QUICK | {"n_steps": 150}
    table = mm.tl.evaluate_twin(mdata, growth_key="growth", genes=False, **quick).set_index("prediction")
    plain = mm.tl.evaluate_twin(mdata, genes=False, **quick).set_index("prediction")
    for name in ("twin", "linear_interpolation"):
        assert table.loc[name, "energy"] < 0.3 < plain.loc["previous_time", "energy"]
    for name in ("previous_time", "next_time", "split_half_floor"):
        assert table.loc[name, "w1"] == plain.loc[name, "w1"], "these know of no growth"


def test_pools_of_genes_come_from_equally_many_cells(course, monkeypatch):
    """The nearest of many are alike, the nearest of few are not: else a small time point is out of anyone's reach."""
    from mmopt.tl import _evaluate_twin

    mdata, seen = course(n=200, times=(0, 1, 2, 3)), []
    few = mdata[(mdata.obs["day"] != 1) | (np.arange(800) % 200 < 60)].copy()
    made = _evaluate_twin._candidates
    monkeypatch.setattr(_evaluate_twin, "_candidates", lambda *a: seen.append(made(*a)) or seen[0])
    table = mm.tl.evaluate_twin(few, hold_out=1, **(QUICK | {"n_steps": 5}))
    assert (table["n_cells"] == 30).all()
    (sides,) = seen
    day = few.obs["day"].to_numpy()
    assert {len(np.unique(cells)) for cells in sides.values()} == {30}
    assert not set(sides["truth"]) & set(sides["split_half_floor"])
    times = {name: set(day[cells]) for name, cells in sides.items()}
    assert times["truth"] == times["split_half_floor"] == {1}
    assert (times["previous_time"], times["next_time"]) == ({0}, {2})
    assert times["twin"] == times["linear_interpolation"] == {0, 2}, "what is held out is not looked at"


def test_no_rna_at_the_held_out_time(course):
    mdata = course(n=60, times=(0, 1, 2, 3))
    rna = mdata["rna"][mdata.obs["day"].to_numpy() != 1].copy()
    peaks = mdata["rna"].copy()
    peaks.var_names = [f"chr1-{i}000-{i}500" for i in range(peaks.n_vars)]
    both = MuData({"rna": rna, "atac": peaks})[mdata.obs_names].copy()
    both.obs["day"] = mdata.obs["day"]
    both.obsm["X_pca"] = mdata.obsm["X_pca"]
    quick = QUICK | {"n_steps": 5, "hold_out": 1}
    with pytest.raises(ValueError, match=r"no cell at 1, or at a time beside it, has RNA; .*genes=False"):
        mm.tl.evaluate_twin(both, **quick)
    assert set(mm.tl.evaluate_twin(both, genes=False, **quick)["space"]) == {"embedding"}


def test_one_time_is_as_in_all(course):
    mdata = course(n=60, times=(0, 1, 2, 3))
    quick = QUICK | {"n_steps": 20, "genes": False}
    every = mm.tl.evaluate_twin(mdata, **quick)
    one = mm.tl.evaluate_twin(mdata, hold_out=2, **quick)
    np.testing.assert_allclose(every[every["time"] == 2]["w1"], one["w1"])


def branching(course):
    """A course that splits in two along the second axis."""
    rng = np.random.default_rng(1)
    mdata = course(n=150, times=(0, 1, 2))
    day, states = mdata.obs["day"].to_numpy(), mdata.obsm["X_pca"]
    up = rng.integers(0, 2, len(day))
    states[:, 1] += (2 * up - 1) * np.array([1.5, 3, 6])[day]
    mdata.obs["type"] = np.where(day == 2, np.where(up, "up", "down"), "early")
    clone = np.array(
        [f"{u}{c}" for u, c in zip(up, rng.integers(0, 30, len(day)), strict=True)], dtype=object
    )
    clone[rng.random(len(day)) < 0.2] = None
    mdata.obs["clone"] = clone
    return mdata


def test_fates_of_traced_cells(course):
    mdata = branching(course)
    keys = {"lineage_key": "clone", "terminal_key": "type", "hold_out": ()}
    table = mm.tl.evaluate_twin(mdata, **(QUICK | keys | {"n_members": 2}))
    assert set(table["space"]) == {"fate"}
    early = table[table["time"] == 0].set_index("prediction")
    assert set(early["resampled"]) == {"lineages"}
    # 1.5 standard deviations on each side of nothing: 93 % of the cells are told by their state, half by the shares
    for name in ("twin", "flow", "nearest_last", "nearest_traced"):
        assert early.loc[name, "accuracy"] > 0.8, name
        assert early.loc[name, "gain_lo"] > 0.1, name
    assert 0.35 < early.loc["measured_shares", "accuracy"] < 0.65
    assert early.loc["measured_shares", "accuracy"] == early.loc["majority", "accuracy"]
    assert early.loc["majority", "brier"] > early.loc["measured_shares", "brier"] > early.loc["twin", "brier"]
    late = table[table["time"] == 1].set_index("prediction")
    assert late.loc["twin", "accuracy"] > early.loc["twin", "accuracy"], "later is easier"
    assert mdata.uns["twin_evaluation"]["params"]["lineage_key"] == "clone"

    mdata.obs["clone"] = np.random.default_rng(2).permutation(mdata.obs["clone"].to_numpy())
    none = mm.tl.evaluate_twin(mdata, **(QUICK | keys)).set_index("prediction")
    assert (none["gain_lo"] < 0.06).all(), "shuffled lineages are not predicted"


def test_lineages_of_the_simulator(twinned):
    """Where each simulated cell will end is known; few lineages, so cells are drawn in the bootstrap."""
    mdata = twinned.copy()
    keys = {"lineage_key": "fate", "terminal_key": "cell_type", "hold_out": ()}
    table = mm.tl.evaluate_twin(mdata, **(QUICK | keys | {"time_key": "time"}))
    assert set(table["resampled"]) == {"cells"}
    last = table[table["time"] == 6].set_index("prediction")
    assert last.loc["twin", "gain_lo"] > 0.1
    assert last.loc["nearest_traced", "accuracy"] > last.loc["measured_shares", "accuracy"]


def test_fates_stand_beside_the_held_out_times(course):
    mdata = branching(course)
    quick = QUICK | {"n_steps": 20, "genes": False}
    alone = mm.tl.evaluate_twin(mdata, **quick)
    both = mm.tl.evaluate_twin(mdata, lineage_key="clone", terminal_key="type", **quick)
    assert set(both["space"]) == {"embedding", "fate"}
    np.testing.assert_array_equal(both[both["space"] == "embedding"]["w1"], alone["w1"])
    two = mdata[(mdata.obs["day"] > 0).to_numpy()].copy()
    only = mm.tl.evaluate_twin(two, lineage_key="clone", terminal_key="type", **quick)
    assert set(only["space"]) == {"fate"}, "two time points leave none out, but tell fates"


def test_refusals_of_lineages(course):
    mdata = branching(course)

    def run(**kwargs):
        return mm.tl.evaluate_twin(mdata, **(QUICK | {"hold_out": ()} | kwargs))

    with pytest.raises(ValueError, match="hold_out leaves nothing to evaluate"):
        run()
    with pytest.raises(ValueError, match="takes both `lineage_key`"):
        run(lineage_key="clone")
    with pytest.raises(ValueError, match="takes both `lineage_key`"):
        run(terminal_key="type")
    with pytest.raises(ValueError, match="cells would be scored on their own label"):
        run(lineage_key="type", terminal_key="type")
    with pytest.raises(KeyError, match="barcode"):
        run(lineage_key="barcode", terminal_key="type")
    mdata.obs["own"] = mdata.obs_names
    with pytest.raises(ValueError, match=r"0 cells before the last time point share a lineage"):
        run(lineage_key="own", terminal_key="type")
    mdata.obs["one"] = "cell"
    with pytest.raises(ValueError, match="1 label at the last time point"):
        run(lineage_key="clone", terminal_key="one")

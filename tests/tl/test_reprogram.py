import warnings

import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.grn.search import matched_sets
from mmopt.tl._journey import Place, journey, place
from mmopt.tl._reprogram_tables import SCREEN_CELLS, scored
from mmopt.tl._scene import set_stage

QUICK = {"n_starts": 2, "n_evaluations": 6, "n_null": 19}


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


@pytest.fixture(scope="module")
def done(regulated):
    """A reprogramming between two groups. Not to be changed."""
    mdata = regulated[0].copy()
    table = mm.tl.reprogram(mdata, "monocyte", "erythrocyte", groupby="cell_type", **QUICK)
    return mdata, table


def test_a_known_switch_is_found_and_beats_chance(done):
    """The default network: GATA1 makes erythroid cells and SPI1 myeloid ones, and each represses the other."""
    mdata, table = done
    slot = mdata.uns["reprogram"]
    best = table.iloc[0]
    assert "GATA1" in best["factors"] or "SPI1" in best["factors"]
    ways = dict(zip(best["factors"].split("+"), best["modes"].split("+"), strict=True))
    assert ways.get("GATA1", "overexpress") == "overexpress"
    assert ways.get("SPI1", "knockout") == "knockout"
    assert slot["significant"]
    assert best["null_p"] == pytest.approx(0.05)
    assert best["progress"] > slot["pareto"].query("n_factors == 2")["null95"].iloc[0] > 0
    assert best["q05"] <= best["progress"] <= best["q95"]


def test_what_the_tables_hold(done):
    mdata, table = done
    slot = mdata.uns["reprogram"]
    singles = table[table["n_factors"] == 1]
    assert len(singles) == slot["params"]["n_candidates"]
    assert not table.duplicated(["factors", "modes"]).any()
    order = table["progress"] - 0.02 * table["n_factors"]
    assert order.is_monotonic_decreasing
    assert table[["reached", "off_target", "top_share"]].to_numpy().min() >= 0
    assert (table["reached"] + table["off_target"] <= 1 + 1e-9).all()
    assert singles["top_share"].sum() == pytest.approx(1)
    pareto = slot["pareto"]
    assert pareto["n_factors"].tolist() == [0, 1, 1, 2, 2]
    assert pareto["method"].tolist() == ["nothing", *["search", "marker difference"] * 2]
    assert pareto["exhaustive"].all()
    assert set(slot["groups"]) == set(mdata.obs["cell_type"].unique())
    assert slot["groups"][0] == "erythrocyte"


def test_regret_is_logged(mdata, caplog):
    caplog.set_level("INFO", logger="mmopt")
    quick = QUICK | {"max_factors": 1, "optimizers": ["adam"]}
    mm.tl.reprogram(mdata, "monocyte", "erythrocyte", groupby="cell_type", **quick)
    searches = mdata.uns["reprogram"]["search"]
    said = next(r.getMessage() for r in caplog.records if "regret" in r.msg)
    assert "all sets were tried" in said and "not all" not in said
    for row in searches.itertuples():
        assert f"{row.method}: {row.regret:.3f}" in said


def test_regret_stands_beside_every_search_and_none_beats_trying_all(done):
    slot = done[0].uns["reprogram"]
    table = slot["search"].set_index("method")
    assert list(table.index) == [
        "exhaustive, 1",
        "exhaustive, 2",
        "marker difference, 1",
        "marker difference, 2",
        "asgdadam",
        "adam",
        "lbfgs",
    ]
    assert table["against_exhaustive"].all()
    assert (table["regret"] >= -1e-9).all()
    assert table.loc[["exhaustive, 1", "exhaustive, 2"], "regret"].min() == pytest.approx(0, abs=1e-9)
    trace = slot["trace"]
    assert trace.groupby(["optimizer", "rate"]).size().tolist() == [12] * 7
    first = trace[trace["evaluation"] == 0].groupby("start")["objective"]
    assert (first.max() - first.min() < 1e-6).all()  # the same starts
    for name in ("asgdadam", "adam", "lbfgs"):
        mine = trace[(trace["optimizer"] == name) & (trace["rate"] == table.loc[name, "rate"])]
        lowest = mine.groupby("start")["objective"].min()
        assert lowest.min() == pytest.approx(table.loc[name, "best_objective"])
        assert lowest.median() == pytest.approx(table.loc[name, "median_objective"])


def test_the_slot_survives_a_file_and_a_seed_repeats_it(done, tmp_path):
    mdata, table = done
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "x.h5mu")
        read = mudata.read_h5mu(tmp_path / "x.h5mu")
    for part in ("ranking", "pareto", "search", "trace"):
        pd.testing.assert_frame_equal(
            read.uns["reprogram"][part], mdata.uns["reprogram"][part], check_dtype=False
        )
    quick = {**QUICK, "optimizers": (), "max_factors": 1}
    once, again = (
        mm.tl.reprogram(mdata.copy(), "monocyte", "erythrocyte", groupby="cell_type", **quick) for _ in "ab"
    )
    pd.testing.assert_frame_equal(once, again)
    singles = table[table["n_factors"] == 1].set_index(["factors", "modes"])["progress"]
    np.testing.assert_allclose(once.set_index(["factors", "modes"])["progress"][singles.index], singles)


def test_cells_and_vectors_are_taken_as_groups_are(done):
    mdata, table = done[0].copy(), done[1]
    labels = mdata.obs["cell_type"].astype(str)
    quick = {**QUICK, "optimizers": (), "max_factors": 1}
    singles = table[table["n_factors"] == 1].set_index(["factors", "modes"])["progress"]
    by_cells = mm.tl.reprogram(
        mdata,
        mdata.obs_names[labels == "monocyte"],
        (labels == "erythrocyte").to_numpy(),
        groupby="cell_type",
        **quick,
    ).set_index(["factors", "modes"])["progress"]
    np.testing.assert_allclose(by_cells[singles.index], singles, atol=1e-9)

    rna = np.log1p(
        1e4
        * mdata["rna"].X[(labels == "erythrocyte").to_numpy()].toarray().sum(0)
        / mdata["rna"].X[(labels == "erythrocyte").to_numpy()].sum()
    )
    vector = pd.Series(rna, index=mdata["rna"].var_names)
    by_vector = mm.tl.reprogram(mdata, "monocyte", vector, groupby="cell_type", **quick)
    correlation = by_vector.set_index(["factors", "modes"])["progress"][singles.index].corr(
        singles, "spearman"
    )
    assert correlation > 0.5
    assert mdata.uns["reprogram"]["params"]["target"] == "target"
    from_vector = mm.tl.reprogram(mdata, vector, "monocyte", groupby="cell_type", **quick)
    assert from_vector["progress"].iloc[0] > 0


def test_the_few_cells_of_the_screening_are_drawn_from_all_of_the_source(done):
    """Data come sorted by sample or time: the first rows would be the cells of one of them."""
    mdata = done[0]
    stage = set_stage(mdata, regulons="regulons", groupby=None)
    rows = np.flatnonzero((mdata.obs["cell_type"] == "progenitor").to_numpy())
    start, end = Place("progenitor", rows), Place("cells", np.setdiff1d(np.arange(mdata.n_obs), rows))
    seen = []
    object.__setattr__(stage, "cells", lambda rows: seen.append(rows) or type(stage).cells(stage, rows))
    journey(mdata, stage, start, end, None, 0)
    drawn = np.searchsorted(rows, seen[1])
    few = drawn[SCREEN_CELLS]
    assert len(np.unique(drawn)) == len(drawn) == 60 < len(rows)
    assert abs(few.mean() / len(rows) - 0.5) < 0.2


@pytest.mark.parametrize("cell", [0, 40])
def test_matched_sets_are_scored_as_the_set_itself(done, monkeypatch, cell):
    """With a single cell in place of the sample the two would differ most."""
    one = slice(cell, cell + 1)
    monkeypatch.setattr("mmopt.tl._reprogram_tables.SCREEN_CELLS", one)
    mdata = done[0]
    stage = set_stage(mdata, regulons="regulons", groupby=None)
    ends = (
        place(mdata, stage, e, w, "cell_type") for e, w in (("monocyte", "source"), ("erythrocyte", "target"))
    )
    task, _ = journey(mdata, stage, *ends, "cell_type", 0)
    network = stage.scene.network
    sets = [((number, way),) for number in np.unique(network.source)[:6] for way in (-1, 1)]
    table = scored(task, stage, sets, np.zeros(19), 1.0, np.random.default_rng(1))
    rng, expected = np.random.default_rng(1), {}
    expression = stage.scene.cells.level[:, network.regulators].mean(0)
    for i in np.argsort(-table["progress"].to_numpy(), kind="stable")[:5]:
        others = matched_sets(sets[i], expression, np.unique(network.source), 100, rng)
        made = [
            np.mean([task.progress([s], m, 1.0, one)[0] for m in range(network.n_members)])
            for s in (sets[i], *others)
        ]
        expected[i] = np.mean(np.array(made) >= made[0] - 1e-9)
    np.testing.assert_allclose(table["matched_p"][list(expected)], list(expected.values()))
    assert table["matched_p"].notna().sum() == 5


def test_a_vector_without_a_regulator_says_nothing_of_it(done):
    mdata = done[0]
    stage = set_stage(mdata, regulons="regulons", groupby=None)
    regulators = stage.scene.network.regulators
    targets = np.setdiff1d(np.unique(stage.scene.network.target), regulators)
    targets = [c for c in targets if c < stage.features.blocks["rna"].stop]
    level = stage.scene.readout.logged(stage.scene.cells.level).mean(0)
    vector = pd.Series({stage.features.name(c): level[c] + 0.1 for c in [*targets, regulators[0]]})
    start = place(mdata, stage, "monocyte", "source", "cell_type")
    task, _ = journey(mdata, stage, start, place(mdata, stage, vector, "target", None), "cell_type", 0)
    assert np.flatnonzero(task.gap).tolist() == [0]


def test_modes_and_features_limit_the_search(mdata):
    table = mm.tl.reprogram(
        mdata,
        "monocyte",
        "erythrocyte",
        groupby="cell_type",
        features=["GATA1", "SPI1", "KLF1"],
        modes="overexpress",
        max_factors=3,
        penalty=0,
        **{**QUICK, "optimizers": ("asgdamsgrad",)},
    )
    assert set("+".join(table["factors"]).split("+")) == {"GATA1", "SPI1", "KLF1"}
    assert set("+".join(table["modes"]).split("+")) == {"overexpress"}
    assert sorted(table["n_factors"]) == [1, 1, 1, 2, 2, 2, 3]


def test_an_unreachable_target_is_said_to_be(mdata):
    """A decoy regulates nothing, so its false edges take no cell anywhere."""
    with pytest.warns(
        UserWarning, match="not reached: no set makes more progress than the best of a shuffled"
    ):
        table = mm.tl.reprogram(
            mdata,
            "monocyte",
            "erythrocyte",
            groupby="cell_type",
            features=["DECOY1"],
            max_factors=1,
            **{**QUICK, "optimizers": ()},
        )
    assert not table["significant"].any()
    assert not mdata.uns["reprogram"]["significant"]


SMALL = {"max_factors": 1, "optimizers": (), "n_null": 19, "features": ["GATA1", "SPI1"]}


@pytest.mark.parametrize("groupby", ["cell_type", None])
def test_from_a_group_to_itself_nothing_is_significant(mdata, groupby):
    cells = "monocyte" if groupby else mdata.obs_names[mdata.obs["cell_type"] == "monocyte"]
    with pytest.warns(UserWarning, match="source and target are the same cells: .* no set is significant"):
        table = mm.tl.reprogram(mdata, cells, cells, groupby=groupby, **SMALL)
    slot = mdata.uns["reprogram"]
    assert len(table) == 4 and not table["significant"].any()
    assert not slot["significant"] and not slot["pareto"]["significant"].any()
    assert slot["alike_p"] == 1 and len(slot["warnings"]) == 1


def test_what_can_not_be_told_apart_is_not_reached_whatever_chance_finds(mdata, monkeypatch):
    """Of shuffled networks all could do worse than the real one: there is still nothing to reach."""
    monkeypatch.setattr("mmopt.tl._reprogram.best_by_chance", lambda *a, n, **k: np.full((n, 1), -1.0))
    rows = np.flatnonzero((mdata.obs["cell_type"] == "monocyte").to_numpy())
    half = np.random.default_rng(0).permutation(rows)[: len(rows) // 2]
    ends = mdata.obs_names[half], mdata.obs_names[np.setdiff1d(rows, half)]
    with pytest.warns(UserWarning, match=r"can not be told apart: \d+% of random divisions"):
        table = mm.tl.reprogram(mdata, *ends, **SMALL)
    assert (table["null_p"] == 0.05).all() and not table["significant"].any()
    assert mdata.uns["reprogram"]["alike_p"] > 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        other = mm.tl.reprogram(mdata, "monocyte", "erythrocyte", groupby="cell_type", **SMALL)
    assert mdata.uns["reprogram"]["alike_p"] == 0.005
    assert other["significant"].any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.reprogram(mdata, mdata.obs_names[rows[:1]], mdata.obs_names[rows[1:4]], **SMALL)
    assert np.isnan(mdata.uns["reprogram"]["alike_p"]), (
        "with four ways to divide the cells nothing can be told"
    )


def test_the_share_outside_of_the_data_is_that_of_a_perturbation(mdata):
    few = mdata.obs_names[mdata.obs["cell_type"] == "monocyte"][:50]
    mdata.obs["part"] = np.where(mdata.obs_names.isin(few), "few", "others")
    with pytest.warns(UserWarning, match="of the cells lie beyond 99 % .* after the first choice"):
        table = mm.tl.reprogram(mdata, "few", "others", groupby="part", **SMALL)
    assert table["ood_fraction"].between(0, 1).all() and table["ood_fraction"].nunique() > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for row in table.iloc[[0, -1]].itertuples():
            mm.tl.perturb(mdata, row.factors, mode=row.modes, groupby="part", n_null=5, key_added="p")
            groups = mdata.uns["perturb"]["p"]["groups"].set_index("group")
            assert row.ood_fraction == groups.loc["few", "ood_fraction"], row.factors


def test_overlaps_are_named(mdata):
    is_source = mdata.obs["cell_type"].isin(["monocyte", "granulocyte"])
    n = int((mdata.obs["cell_type"] == "monocyte").sum())
    with pytest.warns(UserWarning, match=f"{n} cells are in the source and in the target") as caught:
        mm.tl.reprogram(mdata, is_source.to_numpy(), "monocyte", groupby="cell_type", **SMALL)
    assert caught[0].filename == __file__  # whose call it was


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_groups_by_number_and_masks_that_are_series(mdata):
    numbers, names = pd.factorize(mdata.obs["cell_type"])
    mdata.obs["cl"] = numbers
    source, target = (int(np.flatnonzero(names == n)[0]) for n in ("monocyte", "erythrocyte"))
    by_number = mm.tl.reprogram(mdata, source, target, groupby="cl", **SMALL)
    masks = [mdata.obs["cl"] == n for n in (source, target)]
    by_mask = mm.tl.reprogram(mdata, *masks, groupby="cl", **SMALL)
    pd.testing.assert_frame_equal(by_number, by_mask)


def test_a_random_cell_as_target_is_no_success(mdata):
    """Moving everything towards the mean looks good by the distance to a random cell; here it must not be significant
    progress away from all groups."""
    rng = np.random.default_rng(0)
    labels = mdata.obs["cell_type"].astype(str).to_numpy()
    same = rng.choice(np.flatnonzero(labels == "monocyte"), 25, replace=False)
    rest = np.setdiff1d(np.flatnonzero(labels == "monocyte"), same)
    with pytest.warns(UserWarning, match="can not be told apart"):
        table = mm.tl.reprogram(
            mdata, mdata.obs_names[rest], mdata.obs_names[same], max_factors=1, optimizers=(), n_null=19
        )
    assert not table["significant"].any()


def test_the_model_says_where_it_puts_the_cells(fitted):
    source, model = fitted
    mdata = source.copy()
    edges = mdata.uns["truth"]["edges"].rename(columns={"sign": "weight"})
    mm.tl.regulons(mdata, prior=edges, n_boot=5)
    mm.tl.reprogram(
        mdata,
        "monocyte",
        "erythrocyte",
        model=model,
        groupby="cell_type",
        features=["GATA1", "SPI1"],
        max_factors=1,
        optimizers=("adam",),
        random_state=np.int64(0),
        **{**QUICK, "n_evaluations": 3},
    )
    share = mdata.uns["reprogram"]["pareto"]["model_reached"]
    assert share.between(0, 1).all()
    assert share.iloc[0] < 0.5  # doing nothing leaves them where they were


def refused(mdata, error, match, *args, **kwargs):
    with pytest.raises(error, match=match):
        mm.tl.reprogram(mdata, *args, **{"groupby": "cell_type", **QUICK, **kwargs})
    assert "reprogram" not in mdata.uns


def test_refusals(mdata, toy):
    ends = ("monocyte", "erythrocyte")
    refused(toy, KeyError, r"call `mm.tl.regulons\(mdata, prior=...\)` first", *ends)
    refused(mdata, ValueError, "source='monocyte': to name a group say in which column", *ends, groupby=None)
    refused(
        mdata,
        KeyError,
        "target='erythrocyt': no such group .* nearest: 'erythrocyte'",
        "monocyte",
        "erythrocyt",
    )
    refused(mdata, KeyError, "source: cells: not in mdata.obs_names: 'nobody'", ["nobody"], "monocyte")
    refused(mdata, ValueError, "target: cells: a mask of 500 values", "monocyte", np.ones(3, bool))
    refused(mdata, TypeError, "target: a group's name, cells .* or a vector", "monocyte", 3.0)
    refused(mdata, ValueError, "target: the vector has NaN", "monocyte", {"GATA1": np.nan})
    refused(mdata, ValueError, "not z scores or raw counts", "monocyte", {"GATA1": -3.0, "SPI1": 0.0})
    refused(mdata, KeyError, "no feature 'GATA11'.*nearest: 'GATA1'", "monocyte", {"GATA11": 1.0})
    refused(mdata, KeyError, "no feature 'GATA11'.*nearest: 'GATA1'", *ends, features=["GATA11"])
    refused(mdata, ValueError, "'GENE9': no gene with an outgoing edge", *ends, features=["GENE9"])
    refused(mdata, ValueError, "features must be 'regulators' or a list", *ends, features="all")
    refused(mdata, ValueError, "modes must be among 'knockout', 'overexpress'", *ends, modes=["block"])
    refused(mdata, ValueError, "optimizers: no 'asgd'; there are .*'lbfgs'", *ends, optimizers=["asgd"])
    refused(mdata, ValueError, "max_factors must be 1 to 4", *ends, max_factors=5)
    refused(mdata, ValueError, "n_null must be at least 19", *ends, n_null=5)
    refused(mdata, ValueError, "n_starts and beam must be at least 1", *ends, beam=0)
    refused(mdata, ValueError, "identity from 0 to 1", *ends, identity=2)


def test_what_is_not_expressed_in_the_source_is_not_knocked_out(mdata):
    rows = (mdata.obs["cell_type"].astype(str) == "monocyte").to_numpy()
    counts = mdata["rna"].X.toarray()
    counts[rows, mdata["rna"].var_names.get_loc("GATA1")] = 0
    mdata["rna"].X = type(mdata["rna"].X)(counts)
    mm.tl.reprogram(
        mdata, "monocyte", "erythrocyte", groupby="cell_type", max_factors=1, optimizers=(), n_null=19
    )
    left_out = mdata.uns["reprogram"]["left_out"].set_index("intervention")["reason"]
    assert "a knock-out has no effect to propagate" in left_out["GATA1_knockout"]
    assert (
        not (mdata.uns["reprogram"]["ranking"]["factors"] + "_" + mdata.uns["reprogram"]["ranking"]["modes"])
        .isin(["GATA1_knockout"])
        .any()
    )
    with pytest.raises(
        ValueError, match="no intervention is left; the first refusal: 'GATA1' was counted in 0"
    ):
        mm.tl.reprogram(
            mdata, "monocyte", "erythrocyte", groupby="cell_type", features=["GATA1"], modes=["knockout"]
        )

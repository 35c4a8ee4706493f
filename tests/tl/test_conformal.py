import warnings
from types import SimpleNamespace

import anndata
import mudata
import numpy as np
import pytest
from scipy import sparse

import mmopt as mm
from mmopt.metrics import leave_one_out_covered
from mmopt.tl._conformal import Calibration, _table
from mmopt.tl._interventions import Intervention
from mmopt.tl._pooled_effects import _patterns, _samples
from mmopt.tl._repeated import repeat


@pytest.fixture(scope="module")
def measured():
    """A simulated screen of eleven knock-outs, its network fitted to other, unperturbed cells. Not to be changed."""
    settings = {
        "network": mm.datasets.random_network(11, 3, branching=2, random_state=3),
        "n_genes": 80,
        "n_peaks": 120,
        "n_proteins": 6,
        "random_state": 5,
    }
    wild = mm.datasets.simulate_trimodal(420, **settings)
    edges = wild.uns["truth"]["edges"]
    cells = {"control": wild[:300].copy()}
    for number, gene in enumerate(sorted(set(edges["source"]))):
        moved = mm.datasets.simulate_trimodal(420, interventions=gene, **settings)
        chosen = np.random.default_rng(number).choice(np.arange(300, 420), 50, replace=False)
        cells[gene] = moved[np.sort(chosen)].copy()
    parts = {
        name: anndata.concat({k: c[name] for k, c in cells.items()}, label="perturbation", index_unique="-")
        for name in ("rna", "atac", "prot")
    }
    mdata = mudata.MuData(parts)
    mdata.obs["perturbation"] = parts["rna"].obs["perturbation"].astype(str)
    control = cells["control"]
    mm.tl.regulons(control, prior=edges.rename(columns={"sign": "weight"}), n_boot=6)
    mdata.uns["regulons"] = control.uns["regulons"]
    mdata.obs["donor"] = np.where(np.arange(mdata.n_obs) % 2, "a", "b")
    return mdata


def run(mdata, *args, **kwargs):
    mdata = mdata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.perturb(mdata, *args, n_null=5, **{"interval": "conformal"} | kwargs)
    return list(mdata.uns["perturb"].values())[-1], mdata


def test_held_out_perturbations_are_covered(measured):
    mdata = measured.copy()
    table = mm.tl.screen(mdata, interval="conformal", n_members=6, n_cells=100, progress_bar=False)
    slot = mdata.uns["screen"]
    calibration = slot["calibration"]
    assert len(calibration) == 11
    assert slot["params"]["interval"] == "conformal"
    assert slot["params"]["n_calibration"] == 10
    assert 0.85 <= calibration["coverage"].mean() <= 0.95
    assert slot["params"]["coverage"] == pytest.approx(calibration["coverage"].mean())
    assert calibration["coverage_changed"].mean() <= calibration["coverage"].mean()
    free = table[~table["direct"].to_numpy()]
    assert (free["q05"] <= free["q95"]).all()
    assert np.isfinite(free["q95"]).all()
    # what evaluations ask again is asked of the control cells alone, whose pools have no other cells
    again = repeat(mdata, slot, "rna")
    mine = table[(table["perturbation"] == "TF03_knockout") & (table["modality"] == "rna")]
    expected = mine.set_index("feature")["delta"][again.features]
    np.testing.assert_allclose(again.effects("TF03_knockout"), expected, atol=1e-6)


def test_the_result_says_which_interval_it_is_and_survives_a_file(measured, tmp_path):
    result, mdata = run(measured, "TF03", groupby="donor")
    usual, _ = run(measured, "TF03", groupby="donor", interval="ensemble")
    assert usual["params"]["interval"] == "ensemble"
    assert "calibration" not in usual
    assert result["params"]["interval"] == "conformal"
    assert result["params"]["n_calibration"] == 10
    assert result["groups"]["n_cells"].tolist() == [300, 150, 150]  # control cells only
    assert list(result["calibration"]["perturbation"]) == [f"TF{i:02d}" for i in range(1, 12)]
    mdata.write_h5mu(tmp_path / "a.h5mu")
    again = mudata.read_h5mu(tmp_path / "a.h5mu").uns["perturb"]["TF03_knockout"]
    assert again["params"]["n_calibration"] == 10
    np.testing.assert_allclose(again["calibration"]["coverage"], result["calibration"]["coverage"])


def test_the_perturbation_asked_for_does_not_calibrate_itself(measured):
    rep = measured.copy()  # neighbours that do not depend on the counts
    rep.obsm["X_rep"] = np.random.default_rng(0).normal(size=(rep.n_obs, 5))
    slot = rep.uns["regulons"]
    rep.uns["regulons"] = {**slot, "params": slot["params"] | {"use_rep": "X_rep"}}
    absurd = rep.copy()
    mine = np.flatnonzero((rep.obs["perturbation"] == "TF03").to_numpy())
    for adata in absurd.mod.values():
        dense = adata.X.toarray()
        dense[mine] = dense[mine][:, ::-1]
        adata.X = sparse.csr_matrix(dense)
    one, two = (run(m, "TF03")[0] for m in (rep, absurd))
    limits = ["delta", "q05", "q95"]
    np.testing.assert_allclose(one["effects"][limits], two["effects"][limits])
    assert not np.allclose(one["calibration"]["mae"], two["calibration"]["mae"])
    other = run(absurd, "TF04")[0]["effects"]["q95"]
    assert not np.allclose(other, run(rep, "TF04")[0]["effects"]["q95"], equal_nan=True)


def test_labels_that_cannot_be_used_are_listed(measured):
    mdata = measured.copy()
    label = mdata.obs["perturbation"].astype(str).to_numpy()
    label[np.flatnonzero(label == "TF01")[:25]] = "NOGENE"
    label[np.flatnonzero(label == "TF01")[:5]] = "TF02 + TF04"
    label[np.flatnonzero(label == "TF01")] = "TF01_knockout"
    mdata.obs["perturbation"] = label
    result, _ = run(mdata, "TF05")
    assert set(result["skipped"]["perturbation"]) == {"NOGENE", "TF02 + TF04"}
    assert result["skipped"].set_index("perturbation").loc["TF02 + TF04", "reason"] == "5 cells"
    assert result["params"]["n_calibration"] == 10


@pytest.mark.parametrize("label", ["TF01_knockout+TF02_knockout", "TF02_overexpress + TF01"])
def test_every_part_of_a_label_may_have_its_mode(measured, label):
    mdata = measured.copy()
    cells = mdata.obs["perturbation"].astype(str).to_numpy()
    cells[cells == "TF01"] = label
    mdata.obs["perturbation"] = cells
    result, _ = run(mdata, "TF05")
    assert not len(result["skipped"])
    assert label in set(result["calibration"]["perturbation"])


def test_with_just_enough_the_coverage_is_unknown_and_said_so(measured):
    few = measured[~measured.obs["perturbation"].isin(["TF10", "TF11"])].copy()
    few.uns = measured.uns
    with pytest.warns(
        UserWarning, match="could not be checked: with 9 perturbations none can be held out and 9 remain"
    ):
        mm.tl.perturb(few, "TF10", interval="conformal", n_null=5)
    params = few.uns["perturb"]["TF10_knockout"]["params"]
    assert params["n_calibration"] == 9
    assert np.isnan(params["coverage"])


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (
            {"interval": "bootstrap"},
            ValueError,
            "interval must be one of 'ensemble', 'conformal', got 'bootstrap'",
        ),
        (
            {"cells": ["x"]},
            ValueError,
            "with interval='conformal' the effects are those in the control cells",
        ),
        ({"perturbation_key": "guide"}, KeyError, "guide"),
        ({"control": "NT"}, ValueError, "control='NT': no such label in obs column 'perturbation'"),
        ({"perturbation_key": "donor"}, ValueError, "no labels of control cells .* name it with `control=`"),
        (
            {"perturbation": ("TF03", "overexpress")},
            ValueError,
            "at 90% it takes 9 perturbations with 10 cells each .*'overexpress'.*there are 0; .*use interval='ensemble'",
        ),
    ],
)
def test_refusals(measured, kwargs, error, message):
    kwargs = {"perturbation": "TF03", "interval": "conformal"} | kwargs
    with pytest.raises(error, match=message):
        mm.tl.perturb(measured.copy(), kwargs.pop("perturbation"), n_null=5, **kwargs)


def test_too_few_perturbations_are_refused(measured):
    few = measured[measured.obs["perturbation"].isin(["control", "TF01", "TF02", "TF03"])].copy()
    few.uns = measured.uns
    with pytest.raises(ValueError, match=r"it takes 9 perturbations .* there are 2 \('TF01', 'TF02'\)"):
        mm.tl.screen(few, ["TF03"], interval="conformal", progress_bar=False)


def test_labels_of_which_none_can_be_used_are_refused_with_a_reason(measured):
    mdata = measured.copy()
    mdata.obs["guide"] = mdata.obs["perturbation"].where(mdata.obs["perturbation"] == "control", "NOGENE")
    with pytest.raises(ValueError, match=r"there are 0 and 1 could not be used, e\.g\. .*NOGENE"):
        mm.tl.perturb(mdata, "TF03", interval="conformal", perturbation_key="guide", n_null=5)


def test_coverage_is_that_of_the_interval_of_the_same_mode():
    """Over-expressions that are predicted far worse must not lend their width to the knock-outs, nor take from theirs."""
    rng = np.random.default_rng(0)
    scores = np.vstack([rng.random((20, 200)), 5 + rng.random((12, 200))])
    kinds = [frozenset({"knockout"})] * 20 + [frozenset({"overexpress"})] * 12
    measured = np.ones(scores.shape)
    table = _table(
        [f"p{i}" for i in range(32)], [50] * 32, kinds, scores, measured, measured, 1e-6 * measured
    )
    for part in (slice(0, 20), slice(20, 32)):
        own = leave_one_out_covered(scores[part]).mean(1)
        np.testing.assert_allclose(table["coverage"][part], own)
        np.testing.assert_allclose(table["coverage_changed"][part], own)
    assert table["widening"][:20].max() < 1 < table["widening"][20:].min()
    targets = [frozenset({(i, *kind)}) for i, kind in enumerate(kinds)]
    calibration = Calibration(table["perturbation"].tolist(), targets, scores, measured, table, table[:0])
    for part in (slice(0, 20), slice(20, 32)):
        asked = Intervention(0, "asked", *kinds[part.start])
        params = calibration.report(9, [[asked]])[0]["params"]
        np.testing.assert_allclose(params["coverage"], table["coverage"][part].mean())
    assert abs(table["coverage"][:20].mean() - table["coverage"].mean()) > 1e-3


def test_where_nothing_changed_little_is_measured(measured):
    """Pools of 40 perturbed cells mix more types than those of 300 controls, which must not look like an effect."""
    mdata = measured.copy()
    labels = mdata.obs["perturbation"].astype(object)
    gene = next(label for label in labels.unique() if label != "control")
    labels[labels == gene] = np.nan
    unperturbed = np.flatnonzero((labels == "control").to_numpy())
    labels.iloc[np.random.default_rng(1).choice(unperturbed, 40, replace=False)] = gene
    mdata.obs["perturbation"] = labels
    mm.tl.screen(mdata, interval="conformal", n_members=4, n_cells=60, progress_bar=False)
    size = mdata.uns["screen"]["calibration"].set_index("perturbation")["mae_no_change"]
    assert size[gene] < 0.45, "noise of 40 cells; 0.57 where they were compared with pools of all controls"
    assert size[gene] < size.drop(gene).mean()


def test_samples_have_equally_many_cells_of_each_modality():
    """In a mosaic a sample of as many cells may hold hardly any of the modality that few controls have."""
    asked = []
    rows = {"rna": np.arange(100), "atac": np.arange(60, 100)}
    profiles = SimpleNamespace(rows=rows, values=lambda *given: asked.append(given))
    stage = SimpleNamespace(member=np.ones(100, bool), profiles=profiles, k=30)
    parts = _patterns(stage, np.arange(100))
    assert [len(p) for p in parts] == [60, 0, 40]
    _samples(stage, parts, np.array([10, 0, 16]), np.random.default_rng(0))
    assert len(asked) == 2  # as often as the scarcest part can be drawn
    for sample, k, among in asked:
        assert (len(sample), (sample >= 60).sum(), k) == (26, 16, 4)
        assert set(np.flatnonzero(among)) == set(sample)
    assert not set(asked[0][0]) & set(asked[1][0])
    assert _samples(stage, parts, np.array([10, 0, 5]), np.random.default_rng(0)) == []

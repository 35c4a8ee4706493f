import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update

BASELINES = {"no_change", "perturbed_mean", "ridge_pca", "knn", "shuffled_targets", "split_half_ceiling"}


@pytest.fixture(scope="module")
def screened():
    """Counts of controls, five single perturbations and a double that is their sum; A to E each move ten genes."""
    rng = np.random.default_rng(0)
    genes = [*"ABCDE", *(f"g{i}" for i in range(60))]
    base = rng.gamma(2, 3, len(genes)) + 1
    effect = {"ctrl": np.zeros(len(genes))}
    for i, name in enumerate("ABCDE"):
        effect[name] = np.zeros(len(genes))
        effect[name][5 + 10 * i : 15 + 10 * i] = rng.choice([-1.2, 1.0], 10)
        effect[name][i] = -5
    effect["A+B"] = effect["A"] + effect["B"]
    labels = np.repeat(list(effect), [300, 60, 60, 60, 60, 60, 60])
    mean = base * np.exp(np.stack([effect[label] for label in labels]))
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    counts = rng.poisson(mean).astype(np.float32)
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))})
        mdata.obs["perturbation"] = pd.Categorical(labels)
    long = pd.concat(
        pd.DataFrame(
            {"perturbation": f"{n}_knockout", "feature": genes, "delta": e, "q05": e - 0.4, "q95": e + 0.4}
        )
        for n, e in effect.items()
        if n != "ctrl"
    )
    return mdata, long


def median(scores, method, column):
    return scores.loc[scores["method"] == method, column].median()


def test_a_good_prediction_stands_between_the_baselines_and_the_ceiling(screened):
    mdata, predicted = screened
    scores = mm.tl.evaluate_perturbation(mdata, predicted)
    assert set(scores["method"]) == {"prediction", "additive", *BASELINES}
    assert median(scores, "prediction", "pearson") > 0.9
    assert median(scores, "prediction", "discrimination") == 1
    assert median(scores, "prediction", "coverage") > 0.8
    assert abs(median(scores, "shuffled_targets", "pearson")) < 0.2
    assert median(scores, "no_change", "pearson") == 0
    assert median(scores, "no_change", "mae_ratio") == pytest.approx(1)
    np.testing.assert_allclose(
        scores.loc[scores["method"] == "perturbed_mean", "pearson_vs_mean"], 0, atol=1e-9
    )
    assert median(scores, "split_half_ceiling", "pearson") > 0.9
    additive = scores[scores["method"] == "additive"]
    assert additive["perturbation"].tolist() == ["A+B"]
    assert additive["pearson"].item() > 0.95
    assert median(scores, "prediction", "e_distance") < 0.5 * median(scores, "no_change", "e_distance")


def test_the_slot_has_the_summary_and_survives_a_file(screened, tmp_path):
    mdata, predicted = screened
    scores = mm.tl.evaluate_perturbation(mdata, predicted[predicted["perturbation"] != "E_knockout"])
    slot = mdata.uns["perturbation_evaluation"]
    assert slot["params"]["not_predicted"] == ["E"]
    summary = slot["summary"].set_index(["method", "metric"])
    row = summary.loc[("prediction", "pearson")]
    assert row["median"] == median(scores, "prediction", "pearson")
    assert row["lo"] <= row["median"] <= row["hi"]
    assert row["n"] == 5
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "x.h5mu")
        read = mudata.read_h5mu(tmp_path / "x.h5mu")
    pd.testing.assert_frame_equal(
        read.uns["perturbation_evaluation"]["summary"], slot["summary"], check_dtype=False
    )


def test_against_the_truth_of_a_simulation(regulated):
    mdata = regulated[0].copy()
    predicted = mm.tl.screen(mdata, ["GATA1", "SPI1", "CEBPA", "GFI1"], n_members=5, progress_bar=False)
    truth = pd.concat(
        mm.datasets.truth_effect(mdata, gene, regime="acute").assign(perturbation=gene)
        for gene in ("GATA1", "SPI1", "CEBPA")
    )
    scores = mm.tl.evaluate_perturbation(mdata, predicted, truth)
    assert set(scores["method"]) == {"prediction", *BASELINES}
    assert median(scores, "prediction", "pearson") > 0.5 > median(scores, "shuffled_targets", "pearson")
    assert median(scores, "split_half_ceiling", "pearson") > 0.95
    protein = mm.tl.evaluate_perturbation(mdata, predicted, truth, modality="prot", key_added="protein")
    assert len(protein) and "protein" in mdata.uns
    assert mdata.uns["perturbation_evaluation"]["params"]["not_measured"] == ["GFI1"]


def test_a_mean_over_cells_is_no_success(screened):
    """Moving every cell to the mean of all, which looks right for three in four single cells, scores as no change."""
    mdata, predicted = screened
    collapsed = predicted.assign(delta=0.0)
    scores = mm.tl.evaluate_perturbation(mdata, collapsed)
    for column in ("pearson", "sign_accuracy", "mae_ratio", "weighted_mse"):
        assert median(scores, "prediction", column) == median(scores, "no_change", column)


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "message"),
    [
        (lambda p: p.drop(columns="delta"), {}, ValueError, "predicted: no column 'delta'"),
        (
            lambda p: p.drop(columns="perturbation"),
            {},
            ValueError,
            r"no column 'perturbation'.*`predicted\.assign\(perturbation='STAT1'\)`",
        ),
        (lambda p: p.assign(perturbation="Z"), {}, ValueError, "there twice"),
        (
            lambda p: p[p["perturbation"] == "A_knockout"].assign(perturbation="Z"),
            {},
            ValueError,
            "both predicted",
        ),
        (lambda p: p.assign(feature="?"), {}, ValueError, "none of its features"),
        (lambda p: p, {"control": "contrl"}, ValueError, r"control='contrl': no such label.*nearest: 'ctrl'"),
        (lambda p: p, {"perturbation_key": "guide"}, KeyError, "no column 'guide'"),
        (lambda p: p, {"modality": "prot"}, KeyError, "modality='prot': there are 'rna'"),
    ],
)
def test_what_cannot_be_scored_is_refused(screened, change, kwargs, error, message):
    mdata, predicted = screened
    with pytest.raises(error, match=message):
        mm.tl.evaluate_perturbation(mdata, change(predicted), **kwargs)


def test_control_cells_must_be_found(screened):
    mdata, predicted = screened
    named = mdata.copy()
    named.obs["perturbation"] = named.obs["perturbation"].astype(str).replace("ctrl", "unperturbed")
    named["rna"].obs["perturbation"] = named.obs["perturbation"]
    with pytest.raises(ValueError, match=r"has no labels of control cells.*`control=`"):
        mm.tl.evaluate_perturbation(named, predicted)
    assert len(mm.tl.evaluate_perturbation(named, predicted, control="unperturbed"))
    few = mdata[(mdata.obs["perturbation"] != "ctrl").to_numpy() | (np.arange(mdata.n_obs) < 5)].copy()
    with pytest.raises(ValueError, match="10 control cells and a perturbation with as many are needed"):
        mm.tl.evaluate_perturbation(few, predicted)


def test_names_that_repeat_are_refused(screened):
    mdata, predicted = screened
    mdata = mdata.copy()
    mdata["rna"].var_names = [*mdata["rna"].var_names[:-1], "A"]
    with pytest.raises(ValueError, match=r"'rna': 1 of the var names repeat \('A'\).*var_names_make_unique"):
        mm.tl.evaluate_perturbation(mdata, predicted)


def test_two_genes_are_scored_without_components(screened):
    mdata, predicted = screened
    with override_pull_on_update():
        few = MuData({"rna": mdata["rna"][:, ["A", "B"]].copy()})
    few.obs["perturbation"] = mdata.obs["perturbation"]
    assert {"prediction", "no_change"} <= set(mm.tl.evaluate_perturbation(few, predicted)["method"])

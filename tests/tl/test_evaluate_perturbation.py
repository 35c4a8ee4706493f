import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update

BASELINES = {"no_change", "perturbed_mean", "ridge_pca", "knn", "shuffled_features", "split_half_ceiling"}


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
    assert abs(median(scores, "shuffled_features", "pearson")) < 0.2
    assert median(scores, "no_change", "pearson") == 0
    assert median(scores, "no_change", "mae_ratio") == pytest.approx(1)
    np.testing.assert_allclose(
        scores.loc[scores["method"] == "perturbed_mean", "pearson_vs_mean"], 0, atol=1e-9
    )
    assert median(scores, "split_half_ceiling", "pearson") > 0.95
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
    # it is a network's, and stored
    expected = {"prediction", "shuffled_targets", *BASELINES} - {"shuffled_features"}
    assert set(scores["method"]) == expected
    assert median(scores, "prediction", "pearson") > 0.5 > median(scores, "shuffled_targets", "pearson") + 0.2
    summary = mdata.uns["perturbation_evaluation"]["summary"]
    shuffled = summary["method"] == "shuffled_targets"
    assert summary.loc[shuffled & (summary["metric"] == "pearson"), "sd"].item() > 0
    assert summary.loc[~shuffled, "sd"].isna().all()
    assert abs(median(scores, "shuffled_targets", "pearson")) < 0.3, (
        "a network of shuffled targets knows nothing"
    )
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


def test_one_or_two_genes_are_scored_without_components(screened):
    mdata, predicted = screened
    with override_pull_on_update():
        few = MuData({"rna": mdata["rna"][:, ["A", "B"]].copy()})
    few.obs["perturbation"] = mdata.obs["perturbation"]
    assert {"prediction", "no_change"} <= set(mm.tl.evaluate_perturbation(few, predicted)["method"])
    one = predicted[predicted["feature"] == "g3"]
    scores = mm.tl.evaluate_perturbation(mdata, one)
    assert scores["mae"].notna().all()
    assert scores[["pearson", "e_distance"]].isna().all(axis=None)


def relabelled(mdata, labels):
    """The same cells under other labels."""
    with override_pull_on_update():
        other = MuData({"rna": AnnData(mdata["rna"].X, var=mdata["rna"].var, obs=mdata["rna"].obs[[]])})
        other.obs["perturbation"] = labels
    return other


def test_what_the_truth_lacks_is_not_scored(screened):
    mdata, predicted = screened
    truth = predicted[["perturbation", "feature", "delta"]]
    some = set(mdata["rna"].var_names[:20])
    held = truth[truth["feature"].isin(some) | (truth["perturbation"] == "B_knockout")]
    scores = mm.tl.evaluate_perturbation(mdata, predicted, held).query("method == 'prediction'")
    changing = scores[scores["n_changed"] > 0]
    assert set(changing["perturbation"]) == {"A", "A+B", "B"}
    np.testing.assert_allclose(changing["pearson"], 1)
    np.testing.assert_allclose(scores["mae"], 0)


def test_features_of_each_perturbation_are_its_own(screened):
    """A screen keeps the largest effects of each: no feature need be there for all."""
    mdata, predicted = screened
    large = predicted[predicted["delta"].abs() > 0.5]
    scores = mm.tl.evaluate_perturbation(mdata, large)
    assert (scores.query("method == 'prediction'")[["pearson", "pearson_vs_mean"]] > 0.9).all(axis=None)
    assert scores.query("method == 'prediction'")["n_changed"].min() >= 9
    truth = predicted[predicted["delta"] == 0]
    with pytest.raises(ValueError, match=r"'rna': no feature is both predicted and measured .*`predicted`"):
        mm.tl.evaluate_perturbation(mdata, large, truth)
    with pytest.raises(
        ValueError, match="predicted: no delta of a feature of modality 'rna' is a finite number"
    ):
        mm.tl.evaluate_perturbation(mdata, predicted.assign(delta=np.nan))


def test_labels_that_say_the_same_are_one_perturbation(screened):
    mdata, predicted = screened
    labels = mdata.obs["perturbation"].astype(str).to_numpy()
    turned = labels.copy()
    turned[np.flatnonzero(labels == "A+B")[::2]] = "B+A"
    scores = mm.tl.evaluate_perturbation(relabelled(mdata, turned), predicted)
    pd.testing.assert_frame_equal(scores, mm.tl.evaluate_perturbation(relabelled(mdata, labels), predicted))


def test_modes_are_not_mixed(screened):
    mdata, predicted = screened
    labels = mdata.obs["perturbation"].astype(str).to_numpy()
    both = np.where(labels == "B", "A_overexpress", np.where(labels == "A", "A_knockout", labels))
    with pytest.raises(
        ValueError, match=r"'perturbation': 'A' is there twice, as 'A_knockout' and 'A_overexpress'"
    ):
        mm.tl.evaluate_perturbation(relabelled(mdata, both), predicted)
    raised = relabelled(mdata, np.where(labels == "A", "A_overexpress", labels))
    scores = mm.tl.evaluate_perturbation(raised, predicted)
    assert "A" not in set(scores["perturbation"])
    assert raised.uns["perturbation_evaluation"]["params"]["not_predicted"] == ["A"]
    only = predicted[predicted["perturbation"] == "A_knockout"]
    with pytest.raises(ValueError, match=r"predicted \('A_knockout'\) and measured \('A_overexpress'"):
        mm.tl.evaluate_perturbation(raised, only)


def test_every_method_has_the_same_reference(screened):
    mdata, predicted = screened
    scores = mm.tl.evaluate_perturbation(mdata, predicted)
    double = scores[scores["perturbation"] == "A+B"].set_index("method")
    assert double.loc["additive", "pearson_vs_mean"] > 0.9
    assert double.loc["prediction", "discrimination"] == 1
    assert np.isnan(double.loc["additive", "discrimination"]), "the parts of a sum are near it"
    # perturbations that were not predicted are part of it
    fewer = mm.tl.evaluate_perturbation(
        mdata, predicted[predicted["perturbation"].isin(["A_knockout", "B_knockout"])]
    )
    np.testing.assert_allclose(fewer.query("method == 'perturbed_mean'")["pearson_vs_mean"], 0, atol=1e-9)


def test_the_perturbed_gene_is_not_in_the_distance(screened):
    mdata, predicted = screened
    own = predicted.assign(
        delta=np.where(predicted["feature"] == predicted["perturbation"].str[0], -4.0, 0.0)
    )
    singles = own[~own["perturbation"].str.contains("+", regex=False)]
    scores = mm.tl.evaluate_perturbation(mdata, singles).set_index("method")["e_distance"]
    np.testing.assert_allclose(scores["prediction"], scores["no_change"])


def test_nothing_can_be_reached_where_all_is_noise(screened):
    mdata, predicted = screened
    rng = np.random.default_rng(0)
    noise = predicted.assign(delta=0.2 * rng.standard_normal(len(predicted)), se=0.2)
    scores = mm.tl.evaluate_perturbation(mdata, predicted, noise)
    assert median(scores, "split_half_ceiling", "pearson") < 0.5  # of 65 genes
    still = median(scores, "no_change", "mae")
    assert median(scores, "split_half_ceiling", "mae") == pytest.approx(still, rel=0.1)


def test_where_the_noise_is_unknown_there_is_no_ceiling(screened):
    mdata, predicted = screened
    unknown = predicted["perturbation"].isin(["A_knockout", "B_knockout"])
    rng = np.random.default_rng(0)
    noisy = predicted.assign(delta=predicted["delta"] + 0.2 * rng.standard_normal(len(predicted)))
    some = noisy.assign(se=np.where(unknown | (predicted["feature"] == "g0"), np.nan, 0.2))
    scores = mm.tl.evaluate_perturbation(mdata, predicted, some)
    ceiling = scores[scores["method"] == "split_half_ceiling"].set_index("perturbation")
    assert list(ceiling.index) == ["C", "D", "E", "A+B"]
    assert ceiling["mae"].min() > 0.1
    assert set(scores.loc[scores["method"] == "prediction", "perturbation"]) == {*"ABCDE", "A+B"}
    none = mm.tl.evaluate_perturbation(mdata, predicted, noisy.assign(se=np.nan))
    assert set(none["method"]) == {"additive", "prediction", *BASELINES} - {"split_half_ceiling"}


def test_shuffles_stay_among_what_is_scored(screened):
    mdata, predicted = screened
    rng = np.random.default_rng(0)
    x = np.hstack([mdata["rna"].X, rng.poisson(5, (mdata.n_obs, 300)).astype(np.float32)])
    genes = [*mdata["rna"].var_names, *(f"x{i}" for i in range(300))]
    labels = mdata.obs["perturbation"].astype(str).to_numpy()
    with override_pull_on_update():
        more = MuData({"rna": AnnData(x, mdata["rna"].obs[[]], pd.DataFrame(index=genes))})
    more.obs["perturbation"] = labels
    small, large = (mm.tl.evaluate_perturbation(m, predicted) for m in (mdata, more))
    for column in ("mae", "mae_ratio"):
        expected = median(small, "shuffled_features", column)
        assert median(large, "shuffled_features", column) == pytest.approx(expected, rel=0.05)
        assert expected > 1.1 * median(small, "no_change", column)
    # its own change is no effect that could be found elsewhere
    own = predicted.assign(
        delta=np.where(predicted["feature"] == predicted["perturbation"].str[0], -4.0, 0.0)
    )
    alone = own[~own["perturbation"].str.contains("+", regex=False)]
    scores = mm.tl.evaluate_perturbation(mdata, alone)
    assert median(scores, "shuffled_features", "mae") == median(scores, "no_change", "mae")


def test_limits_that_are_missing_are_not_covered_nor_missed(screened):
    mdata, predicted = screened
    whole = mm.tl.evaluate_perturbation(mdata, predicted)
    half = predicted["feature"].isin([f"g{i}" for i in range(0, 60, 2)])
    holes = predicted.assign(q05=predicted["q05"].where(~half), q95=predicted["q95"].where(~half))
    scores = mm.tl.evaluate_perturbation(mdata, holes)
    assert median(scores, "prediction", "width") == pytest.approx(0.8)
    assert median(scores, "prediction", "coverage") == pytest.approx(
        median(whole, "prediction", "coverage"), abs=0.15
    )


def test_baselines_know_the_genes_from_control_cells_only(screened):
    """What a perturbation does to RNA must not tell which genes are alike: that is part of what is predicted."""
    mdata, predicted = screened
    proteins = mdata["rna"][:, 5:].copy()
    proteins.var_names = [f"p{name}" for name in proteins.var_names]
    controls = (mdata.obs["perturbation"] == "ctrl").to_numpy()
    found = []
    for seed in (0, 1):
        rna = mdata["rna"].copy()
        rna.X[~controls] = np.random.default_rng(seed).permuted(rna.X[~controls], axis=1)
        with override_pull_on_update():
            both = MuData({"rna": rna, "prot": proteins})
        both.obs["perturbation"] = mdata.obs["perturbation"]
        scores = mm.tl.evaluate_perturbation(
            both, predicted.assign(feature="p" + predicted["feature"]), modality="prot"
        )
        found.append(scores[scores["method"].isin(["knn", "ridge_pca"])].drop(columns="e_distance"))
    assert found[0]["pearson"].nunique() > 3
    pd.testing.assert_frame_equal(*found)

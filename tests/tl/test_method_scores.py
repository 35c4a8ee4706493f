import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update


def screened(size, n_controls, n_cells, n=8, n_genes=200, seed=0):
    """Control cells, cells of perturbations with effects of this size, and their true effects."""
    rng = np.random.default_rng(seed)
    genes = np.array([f"g{i}" for i in range(n_genes)])
    base = rng.lognormal(0, 1, n_genes)
    labels = np.repeat(["control", *genes[:n]], [n_controls, *[n_cells] * n])
    shares, tables = {"control": base / base.sum()}, []
    for name in genes[:n]:
        moved = base * np.exp(np.where(rng.random(n_genes) < 0.3, size * rng.standard_normal(n_genes), 0))
        shares[name] = moved / moved.sum()
        free = genes != name
        there, before = (np.log1p(1e4 * x / x[free].sum()) for x in (shares[name], shares["control"]))
        tables.append(pd.DataFrame({"perturbation": name, "feature": genes, "delta": there - before}))
    depth = rng.lognormal(np.log(2000), 0.3, (len(labels), 1))
    counts = rng.poisson(depth * np.stack([shares[label] for label in labels])).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(counts, obs[[]], pd.DataFrame(index=genes))})
        mdata.obs["perturbation"] = labels
    return mdata, pd.concat(tables)


def means(scores):
    return scores.drop(columns="perturbation").groupby("method").mean()


@pytest.mark.parametrize(("size", "n_cells"), [(0.3, 60), (1.0, 30)])
def test_the_true_effects_reach_the_ceiling(size, n_cells):
    mean = means(mm.tl.evaluate_perturbation(*screened(size, 300, n_cells)))
    true, ceiling = mean.loc["prediction"], mean.loc["split_half_ceiling"]
    for score in ("pearson", "pearson_vs_mean", "sign_accuracy", "discrimination"):
        assert true[score] == pytest.approx(ceiling[score], abs=0.05), score
    assert true["mae"] == pytest.approx(ceiling["mae"], rel=0.1)
    assert abs(true["e_distance"] - ceiling["e_distance"]) < 0.2 * mean.loc["no_change", "e_distance"]


def test_few_perturbations_are_told_from_each_other():
    mdata, predicted = screened(1.0, 100, 30)
    own = predicted["perturbation"] == predicted["feature"]
    truth = predicted.assign(delta=predicted["delta"].mask(own, -4), se=1e-3)
    for few in (1, 2, 3):
        asked = predicted[predicted["perturbation"].isin([f"g{i}" for i in range(few)])]
        mean = means(mm.tl.evaluate_perturbation(mdata, asked, truth))["pearson_vs_mean"]
        expected = 1 if few > 1 else np.nan
        np.testing.assert_allclose(mean[["prediction", "split_half_ceiling"]], expected, atol=1e-3)
        assert np.isfinite(mean["knn"]), "others are known to it"


def test_where_nothing_changes_nothing_is_ahead_of_no_change():
    """Few control cells: their noise, were it in all that is measured, would be the largest effect there is."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(3):
        mdata, predicted = screened(0, 60, 60, seed=seed)
        random = predicted.assign(delta=0.1 * rng.standard_normal(len(predicted)))
        found.append(means(mm.tl.evaluate_perturbation(mdata, random)))
    mean = pd.concat(found).groupby("method").mean()
    assert mean["pearson"].drop("split_half_ceiling").abs().max() < 0.1
    assert mean["pearson_vs_mean"].drop("split_half_ceiling").abs().max() < 0.05
    assert mean["mae"].drop("split_half_ceiling").idxmin() == "no_change"
    assert mean.loc["split_half_ceiling", "mae"] == pytest.approx(mean.loc["no_change", "mae"], rel=0.1)
    assert mean.loc[["perturbed_mean", "ridge_pca", "knn"], "discrimination"].isna().all()
    assert mean.loc["no_change", "discrimination"] == pytest.approx(0.5, abs=0.05)
    assert abs(mean.loc["no_change", "e_distance"]) < 0.1

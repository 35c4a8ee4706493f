import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.tl._measured_effects import measure, read_cells
from mmopt.tl._perturbation_labels import PREFIXES


def median(scores, method, column):
    return scores.loc[scores["method"] == method, column].median()


def counted(mean, labels, genes, seed=0):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    with override_pull_on_update():
        mdata = MuData(
            {"rna": AnnData(rng.poisson(mean).astype(np.float32), obs[[]], pd.DataFrame(index=genes))}
        )
        mdata.obs["perturbation"] = labels
    return mdata


@pytest.fixture(scope="module")
def sparse_counts():
    """Few counts in a cell, half of them of genes that no network knows; each knock-out's effect as a network means it."""
    rng = np.random.default_rng(0)
    genes = [*"ABCDE", *(f"g{i}" for i in range(100)), *(f"x{i}" for i in range(100))]
    base = rng.gamma(0.5, 1.5, len(genes)) + 0.05
    labels = np.repeat(["ctrl", *"ABCDE"], [400, *[100] * 5])
    mean, exact = {"ctrl": base}, []
    for i, name in enumerate("ABCDE"):
        effect = np.zeros(len(genes))
        effect[5 + 20 * i : 25 + 20 * i] = rng.choice([-1.2, 1.0], 20)
        effect[i], effect[105:] = -5, 0.7
        mean[name] = base * np.exp(effect)
        known = np.r_[np.arange(i), np.arange(i + 1, 105)]
        share = [np.log1p(1e4 * m[:105] / m[known].sum()) for m in (mean[name], base)]
        exact.append(
            pd.DataFrame({"perturbation": name, "feature": genes[:105], "delta": share[0] - share[1]})
        )
    return counted(np.stack([mean[label] for label in labels]), labels, genes), pd.concat(exact)


def test_cells_are_measured_in_the_unit_of_predictions(sparse_counts):
    mdata, exact = sparse_counts
    scores = mm.tl.evaluate_perturbation(mdata, exact)
    assert median(scores, "prediction", "mae_ratio") < 0.3
    assert median(scores, "prediction", "weighted_mse") < 0.5
    assert median(scores, "prediction", "pearson") > 0.8


def test_totals_are_those_of_the_network(sparse_counts):
    """A part of its effects is scored like the whole, e.g. the largest of a screen."""
    mdata, exact = sparse_counts
    mdata = mdata.copy()
    features = pd.DataFrame({"modality": "rna", "feature": mdata["rna"].var_names[:105]})
    params = {"modalities": {"rna": "rna"}, "n_neighbors": 30, "use_rep": ""}
    mdata.uns["regulons"] = {"params": params, "features": features}
    whole = (
        mm.tl.evaluate_perturbation(mdata, exact).query("method == 'prediction'").set_index("perturbation")
    )
    some = exact[exact["delta"].abs() > 0.3]
    scores = (
        mm.tl.evaluate_perturbation(mdata, some).query("method == 'prediction'").set_index("perturbation")
    )
    np.testing.assert_allclose(scores["mae_changed"], whole["mae_changed"], atol=0.1)
    assert (scores["n_changed"] <= whole["n_changed"]).all()
    assert (scores["mae_ratio"] < 0.3).all()


def test_a_network_with_other_names_of_modalities(sparse_counts):
    mdata, exact = sparse_counts
    with override_pull_on_update():
        other = MuData({"expr": mdata["rna"].copy()})
    other.obs["perturbation"] = mdata.obs["perturbation"]
    with pytest.raises(ValueError, match="no modality was found"):
        mm.tl.evaluate_perturbation(other, exact)
    features = pd.DataFrame({"modality": "expr", "feature": mdata["rna"].var_names[:105]})
    params = {"modalities": {"rna": "expr"}, "n_neighbors": 30, "use_rep": ""}
    other.uns["regulons"] = {"params": params, "features": features}
    scores = mm.tl.evaluate_perturbation(other, exact)
    assert median(scores, "prediction", "mae_ratio") < 0.3
    assert other.uns["perturbation_evaluation"]["params"]["modality"] == "expr"


def test_the_distance_does_not_hang_on_the_order_of_cells():
    rng = np.random.default_rng(0)
    base, effect = rng.gamma(2, 3, 40) + 5, np.r_[np.ones(10), np.zeros(30)]
    genes = [f"g{i}" for i in range(40)]
    response = np.r_[np.ones(300), np.zeros(300)]
    predicted = pd.DataFrame({"perturbation": "g39", "feature": genes, "delta": effect / 2})
    found = []
    for order in (response, response[::-1]):
        mean = base * np.exp(np.r_[np.zeros(300), order][:, None] * effect)
        mdata = counted(mean, np.repeat(["ctrl", "g39"], [300, 600]), genes)
        scores = mm.tl.evaluate_perturbation(mdata, predicted).set_index("method")
        found.append(scores.loc["no_change", "e_distance"])
    assert found[0] == pytest.approx(found[1], rel=0.3)


@pytest.mark.parametrize("size", [10, 40, 150])
def test_where_nothing_changed_nothing_is_measured(size):
    """Few perturbed cells of several types mix more in a pool than many controls do, which must not look like an effect."""
    rng = np.random.default_rng(0)
    n_types, n_genes, n_control, n = 8, 300, 1000, 6
    profile = np.exp(rng.normal(-1, 1.5, n_genes) + rng.normal(0, 1, (n_types, n_genes)))
    profile *= 1000 / profile.sum(1, keepdims=True)
    labels = np.r_[["ctrl"] * n_control, np.repeat([f"g{i}" for i in range(n)], size)]
    mdata = counted(
        profile[rng.integers(n_types, size=len(labels))], labels, [f"g{i}" for i in range(n_genes)]
    )
    rows = np.arange(mdata.n_obs)
    cells = read_cells(mdata, "rna", "rna", None, np.ones(n_genes, bool), rows)
    measured = measure(cells, mdata.obs["perturbation"], None, "perturbation", set(PREFIXES), rng)
    assert abs(measured.delta.mean()) < 0.03
    plain = cells.singles(rows)
    single = [plain[labels == f"g{i}"].mean(0) - plain[:n_control].mean(0) for i in range(n)]
    shared = [np.corrcoef(x)[np.triu_indices(n, 1)].mean() for x in (measured.delta, single)]
    assert shared[0] < shared[1] + 0.05, "nor is what is left more alike than between single cells"

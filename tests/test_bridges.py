"""What other packages of the field give to ours and take from it; the extra ``bridges`` installs those that are optional.

Weighted neighbours before and muon's plots after are in ``tutorials/scanpy_and_muon.md``, optimizers in scvi-tools' models in
``docs/optimizers.md``; both are run by the tests of these.
"""

import matplotlib.pyplot as plt
import mudata
import muon
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import mmopt as mm


@pytest.fixture(autouse=True)
def _settings():
    """Some of these packages change matplotlib's settings when they are imported."""
    with plt.rc_context():
        yield


@pytest.fixture(scope="module")
def integrated(fitted):
    return fitted[0].copy()


def test_mofa_before(toy):
    pytest.importorskip("mofapy2", reason='pip install -e ".[bridges]"')
    own = mudata.MuData({name: toy[name][:, :50].copy() for name in toy.mod})
    for modality in own.mod.values():
        modality.layers["counts"] = modality.X.copy()
        sc.pp.log1p(modality)
    muon.tl.mofa(own, n_factors=4, n_iterations=5, convergence_mode="fast", quiet=True, use_obs="union")
    mm.tl.integrate(own, max_epochs=1, accelerator="cpu", progress_bar=False)
    assert own.obsm["X_mofa"].shape == (own.n_obs, 4)
    assert own.obsm["X_mmopt"].shape == (own.n_obs, 20)


def test_networks_of_decoupler_as_priors(regulated):
    """A network in decoupler's form goes in as it is, and our edges go into its methods."""
    decoupler = pytest.importorskip("decoupler", reason='pip install -e ".[bridges]"')
    mdata = regulated[0].copy()
    _, net = decoupler.ds.toy(nobs=20, nvar=12, seed=0)
    assert {"source", "target", "weight"} <= set(net)
    genes = dict(zip(sorted({*net["source"], *net["target"]}), mdata["rna"].var_names, strict=False))
    net = net.assign(source=net["source"].map(genes), target=net["target"].map(genes))
    mm.tl.regulons(mdata, prior=net, n_boot=5)
    edges = mdata.uns["regulons"]["edges"]
    assert set(edges.loc[edges["evidence"].astype(str).str.startswith("prior"), "source"]) <= set(
        net["source"]
    )

    rna = mdata["rna"].copy()
    sc.pp.normalize_total(rna)
    sc.pp.log1p(rna)
    ours = regulated[0].uns["regulons"]["edges"].query("target_modality == 'rna'")
    ours = ours[["source", "target", "weight"]].astype({"source": str, "target": str})
    decoupler.mt.ulm(rna, ours.drop_duplicates(["source", "target"]), tmin=3)
    assert np.isfinite(rna.obsm["score_ulm"].to_numpy()).all()


def test_scib_metrics_of_our_embedding(integrated):
    scib = pytest.importorskip("scib_metrics", reason='pip install -e ".[bridges]"')
    labels = integrated.obs["cell_type"].to_numpy().astype(str)
    score = scib.silhouette_label(integrated.obsm["X_mmopt"].astype(np.float64), labels)
    assert 0 <= score <= 1


def test_distances_between_perturbations_as_others_compute_them(regulated):
    """Moved cells are counts-like arrays: the energy distance of pertpy's definition is that of ours."""
    mdata = regulated[0]
    x = np.log1p(mdata["rna"].X.toarray().astype(float))
    first, second = x[:80], x[80:160] + 0.1
    within = [np.linalg.norm(a[:, None] - a[None], axis=-1) for a in (first, second)]
    between = np.linalg.norm(first[:, None] - second[None], axis=-1).mean()
    n = len(first)
    naive = 2 * between - sum(w.sum() / (n * (n - 1)) for w in within)
    assert mm.metrics.energy_distance(first, second) == pytest.approx(naive)


def test_results_are_plain_tables(regulated):
    """What `screen` returns is a data frame that seaborn, plotnine or R read."""
    mdata = regulated[0].copy()
    table = mm.tl.screen(mdata, ["GATA1", "SPI1"], n_members=3, n_cells=20, progress_bar=False)
    assert isinstance(table, pd.DataFrame)
    wide = table.pivot_table(index="feature", columns="perturbation", values="delta", observed=True)
    assert list(wide) == ["GATA1_knockout", "SPI1_knockout"]


def test_search_of_settings_by_ray(toy, tmp_path):
    """scvi-tools' search, each trial in a process of its own; ``pip install "scvi-tools[autotune]"``."""
    pytest.importorskip("ray")
    pytest.importorskip("scib_metrics")
    from ray import tune
    from scvi.autotune import run_autotune

    mdata = toy[toy.obs_names[:300]].copy()
    mm.models.TriVI.setup_mudata(mdata, batch_key="donor")
    found = run_autotune(
        mm.models.TriVI,
        mdata,
        metrics="elbo_validation",
        mode="min",
        search_space={"train_params": {"lr": tune.grid_search([1e-4, 1e-2]), "max_epochs": 3}},
        num_samples=1,
        searcher="random",
        resources={"cpu": 1},
        seed=0,
        logging_dir=str(tmp_path),
    )
    table = found.result_grid.get_dataframe().set_index("config/train_params/lr")
    assert table.loc[1e-2, "elbo_validation"] < table.loc[1e-4, "elbo_validation"]

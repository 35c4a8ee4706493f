"""What other packages of the field give to ours and take from it; the extra ``bridges`` installs those that are optional.

Weighted neighbours before and muon's plots after are in ``tutorials/scanpy_and_muon.md``, optimizers in scvi-tools' models in
``docs/optimizers.md``; both are run by the tests of these, as is ``docs/bridges.md`` where the extra is installed.
"""

import itertools
import warnings

import anndata
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


def test_distances_of_pertpy_between_predicted_states(regulated, fitted):
    """A knock-out moves cells farther than shuffled networks do; its distance is ours but for the zeros on the diagonal."""
    pertpy = pytest.importorskip("pertpy", reason='pip install -e ".[bridges]"')
    mdata, model = fitted[0].copy(), fitted[1]
    edges = mdata.uns["truth"]["edges"].rename(columns={"sign": "weight"})
    mm.tl.regulons(mdata, prior=edges[["source", "target", "weight"]], n_boot=5)
    mm.tl.perturb(mdata, "GATA1", model=model, n_null=5)
    slots = {"control": "", "knockout": "_GATA1_knockout", "chance": "_GATA1_knockout_null"}
    arrays = {state: mdata.obsm[f"X_mmopt{slot}"] for state, slot in slots.items()}
    cells = anndata.concat(
        {k: anndata.AnnData(obs=mdata.obs[[]], obsm={"X_mmopt": x}) for k, x in arrays.items()},
        label="state",
        index_unique="-",
    )
    distance = pertpy.tools.Distance("edistance", obsm_key="X_mmopt")
    table = distance.pairwise(cells, groupby="state", show_progressbar=False)
    assert table.loc["control", "knockout"] > 5 * table.loc["control", "chance"]
    few = [arrays[state][:100].astype(float) for state in ("control", "knockout")]
    within = sum(np.linalg.norm(x[:, None] - x[None], axis=-1).mean() for x in few)
    assert mm.metrics.energy_distance(*few) == pytest.approx(distance(*few) - within / 99)


def test_measured_groups_in_pertpy(integrated):
    pertpy = pytest.importorskip("pertpy", reason='pip install -e ".[bridges]"')
    cells = anndata.AnnData(obs=integrated.obs[["cell_type"]], obsm={"X_mmopt": integrated.obsm["X_mmopt"]})
    test = pertpy.tools.DistanceTest("edistance", n_perms=50, obsm_key="X_mmopt")
    table = test(cells, groupby="cell_type", contrast="erythrocyte", show_progressbar=False)
    assert table.loc["monocyte", "pvalue"] < 0.05
    assert table.loc["monocyte", "distance"] > table.loc["MEP", "distance"]


@pytest.fixture
def states(twinned):
    """Cells of ``twinned`` as others take them."""
    keys = ["time", "cell_type"]
    cells = anndata.AnnData(np.zeros((twinned.n_obs, 1)), obs=twinned.obs[keys].copy())
    cells.obsm["X_pca"] = twinned.obsm["X_pca"]
    return cells


def test_couplings_of_moscot_in_the_twin(twinned, states):
    """They are taken row by row as they are, and lead to the fates that our own lead to."""
    pytest.importorskip("moscot", reason='pip install -e ".[bridges]"')
    from moscot.problems.time import TemporalProblem

    problem = TemporalProblem(states).prepare(time_key="time", joint_attr="X_pca").solve(epsilon=0.05)
    times = np.unique(states.obs["time"])
    pairs = list(itertools.pairwise(times))
    couplings = [np.asarray(problem[pair].solution.transport_matrix) for pair in pairs]
    mdata = twinned.copy()
    mm.tl.twin(
        mdata,
        time_key="time",
        use_rep="X_pca",
        couplings=couplings,
        n_steps=5,
        progress_bar=False,
        units="days",
    )
    moved = mm.tl.transitions(mdata)
    first, second = (np.flatnonzero(states.obs["time"] == t) for t in times[:2])
    theirs = couplings[0] / couplings[0].sum(1, keepdims=True)
    plain = moved[first][:, second].toarray()
    # members weigh the cells anew: rows agree on average, not to the letter
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(plain, theirs, strict=True)]) > 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that five steps make no good flow
        mm.tl.simulate(mdata, start={"time": 0}, terminal_key="cell_type", progress_bar=False)
    both = [m.uns["simulate"]["fate"].set_index("label")["wild_type"] for m in (mdata, twinned)]
    assert (both[0] - both[1]).abs().max() < 0.1


def test_cellrank_finds_the_fates_of_the_twin(twinned, states):
    """With terminal states named its fates are ours; looked for, they are the simulator's four."""
    cellrank = pytest.importorskip("cellrank", reason='pip install -e ".[bridges]"')
    kernel = cellrank.kernels.PrecomputedKernel(mm.tl.transitions(twinned), adata=states)
    early = (states.obs["time"] < 8).to_numpy()
    last = states.obs["cell_type"][~early]
    named = cellrank.estimators.GPCCA(kernel)
    named.set_terminal_states({k: list(v.index) for k, v in last.groupby(last, observed=True)})
    named.compute_fate_probabilities(use_petsc=False, solver="direct")
    fates = twinned.uns["simulate"]["fate_names"]
    ours = pd.DataFrame(twinned.obsm["fate_simulate"], columns=fates)[early]
    reached = list(named.fate_probabilities.names)
    assert set(ours.columns[ours.max() > 0]) == set(reached) < set(fates)
    np.testing.assert_allclose(np.asarray(named.fate_probabilities.X)[early], ours[reached], atol=0.1)

    sc.pp.neighbors(states, use_rep="X_pca")
    both = 0.8 * kernel + 0.2 * cellrank.kernels.ConnectivityKernel(states).compute_transition_matrix()
    found = cellrank.estimators.GPCCA(both)
    found.compute_schur(10, method="brandts")
    found.compute_macrostates(n_states=4, cluster_key="cell_type")
    found.predict_terminal_states()
    names = {"erythrocyte", "granulocyte", "megakaryocyte", "monocyte"}
    assert set(found.terminal_states.cat.categories) == names
    found.compute_fate_probabilities(use_petsc=False, solver="direct")
    for name in sorted(names):
        one = np.asarray(found.fate_probabilities[name].X).ravel()[early]
        assert np.corrcoef(one, ours[name])[0, 1] > 0.8


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

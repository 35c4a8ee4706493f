import gc
import os
from pathlib import Path

# small problems, in as many processes as there are cores: more threads would only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl
import pytest

mpl.use("agg")

ROOT = Path(__file__).parents[1]

# by name, the longest first: a file is tested in one process, and one that begins last holds up the whole suite
LONGEST = [
    "test_tutorials",
    "test_main",
    "test_main_job",
    "test_docs",
    "test_resuming",
    "test_simulate",
    "test_perturb",
    "test_curvature",
    "test_reprogram",
    "test_readme",
    "test_distributed",
    "test_hostile_inputs",
    "test_other_models",
    "test_evaluate_twin",
    "test_perturb_twin",
    "test_twin",
    "test_query",
]


def pytest_configure(config):
    """Leave files in the order below, which pytest-xdist would sort by their number of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish():
    """What was imported stays to the end, so that no search for garbage has to go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def toy_source():
    import mmopt as mm

    return mm.datasets.toy()


@pytest.fixture
def toy(toy_source):
    """Toy data of one's own."""
    return toy_source.copy()


@pytest.fixture(scope="session")
def fitted(toy_source):
    """Toy data after a short fit, and the model. Not to be changed."""
    import mmopt as mm

    mdata = toy_source.copy()
    model = mm.tl.integrate(
        mdata, batch_key="donor", n_networks=1, max_epochs=4, accelerator="cpu", progress_bar=False
    )
    return mdata, model


@pytest.fixture(scope="session")
def regulated():
    """Simulated data with donors, its prior (true edges, and a decoy's false ones) and its network. Not to be changed."""
    import numpy as np
    import pandas as pd

    import mmopt as mm

    mdata = mm.datasets.simulate_trimodal(
        500, n_genes=100, n_peaks=200, n_proteins=10, n_donors=2, random_state=4
    )
    edges = mdata.uns["truth"]["edges"]
    kept = edges[np.random.default_rng(0).random(len(edges)) < 0.9]
    false = pd.DataFrame({"source": "DECOY1", "target": [f"GENE{i}" for i in range(1, 8)], "weight": 1})
    prior = pd.concat([kept.rename(columns={"sign": "weight"})[list(false)], false], ignore_index=True)
    mm.tl.regulons(mdata, prior=prior, n_boot=8)
    return mdata, prior


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real data sets, which are not part of the repository."""
    folder = Path(os.environ.get("MMOPT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set MMOPT_DATA to their folder ({folder} does not exist)")
    return folder


@pytest.fixture(scope="session")
def twinned(regulated):
    """The data of ``regulated`` with an embedding of its own, a twin and a simulated knock-out. Not to be changed."""
    import warnings

    import numpy as np
    from sklearn.decomposition import PCA

    import mmopt as mm

    mdata = regulated[0].copy()
    counts = mdata["rna"].X.toarray()
    logged = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    mdata.obsm["X_pca"] = PCA(8, random_state=0).fit_transform(logged)
    mm.tl.twin(mdata, time_key="time", use_rep="X_pca", units="days", n_steps=250, progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mm.tl.simulate(
            mdata,
            start={"time": 0},
            interventions=[("GATA1", "knockout", 0, 8)],
            terminal_key="cell_type",
            progress_bar=False,
        )
    return mdata

"""Tiny mosaics, and models fitted to them. Importing scvi-tools is slow, so it happens inside the fixtures that need it."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

SIZES = {"rna": 30, "atac": 40, "prot": 8}
DEPTHS = {"rna": 4.0, "atac": 0.5, "prot": 25.0}


def draw_mosaic(modalities=("rna", "atac", "prot"), n=80, seed=0, lacking=True, absent_in=None):
    """MuData of three cell states in two batches; every modality keeps its own order of cells.

    With ``lacking``, each fifth cell lacks RNA, the next ATAC, the next protein. ``absent_in={"prot": "b"}`` takes
    protein from all of batch b.
    """
    from anndata import AnnData
    from mudata import MuData

    from mmopt._compat import override_pull_on_update

    rng = np.random.default_rng(seed)
    state = np.arange(n) % 3
    batch = np.where(rng.random(n) < 0.5, "a", "b")
    names = np.array([f"cell{i}" for i in range(n)])
    mods = {}
    for k, (m, n_features) in enumerate(SIZES.items()):
        counts = rng.poisson(rng.gamma(1.0, 1.0, (3, n_features))[state] * DEPTHS[m]).astype(np.float32)
        keep = ~(lacking & (np.arange(n) % 5 == k))
        if absent_in and m in absent_in:
            keep &= batch != absent_in[m]
        cells = rng.permutation(np.flatnonzero(keep))
        if m in modalities:
            obs = pd.DataFrame({"sample": batch[cells]}, index=names[cells])
            var = pd.DataFrame(index=[f"{m}{i}" for i in range(n_features)])
            mods[m] = AnnData(sp.csr_matrix(counts[cells]), obs=obs, var=var)
    with override_pull_on_update():
        mdata = MuData(mods)
    mdata.obs["donor"] = pd.Series(batch, index=names)[mdata.obs_names].to_numpy()
    return mdata


@pytest.fixture(autouse=True)
def as_in_mudata_0_4():
    """mudata 0.3 warns at each update that it copies columns between modalities."""
    from mmopt._compat import override_pull_on_update

    with override_pull_on_update():
        yield


@pytest.fixture(scope="session")
def make_mosaic():
    return draw_mosaic


@pytest.fixture(scope="session")
def make_model():
    """Set up data and make a small model, untrained."""

    def make(mdata=None, *, batch_key="donor", setup=None, **kwargs):
        from mmopt.models import TriVI

        mdata = draw_mosaic() if mdata is None else mdata
        TriVI.setup_mudata(mdata, batch_key=batch_key, **(setup or {}))
        return TriVI(mdata, **({"n_latent": 4, "n_hidden": 16} | kwargs))

    return make


@pytest.fixture(scope="session")
def train():
    def train(model, max_epochs=2, **kwargs):
        model.train(max_epochs, **({"accelerator": "cpu", "progress_bar": False, "batch_size": 32} | kwargs))
        return model

    return train


@pytest.fixture(scope="session")
def fitted(make_model, train):
    """One trained model of three modalities for every test that only asks it questions."""
    return train(make_model(), 3)


@pytest.fixture(scope="session")
def dense():
    """Counts of one modality as a cells × features frame in the order of ``mdata.obs_names``, absent cells as NaN."""

    def dense(mdata, modality):
        adata = mdata.mod[modality]
        frame = pd.DataFrame(sp.csr_matrix(adata.X).toarray(), index=adata.obs_names, columns=adata.var_names)
        return frame.reindex(mdata.obs_names)

    return dense


@pytest.fixture(scope="session")
def to_csr():
    """From a dense array to the package's sparse rows."""
    from mmopt.models.sparse import Csr

    return lambda x: Csr.of(sp.csr_matrix(np.asarray(x)))

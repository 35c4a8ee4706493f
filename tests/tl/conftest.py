import pytest


@pytest.fixture(scope="session")
def course():
    """Make a small time course: counts of a population that moves along one axis of its embedding, one modality."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    def made(n=60, times=(0, 1, 2), seed=0, step=2.0):
        rng = np.random.default_rng(seed)
        time = np.repeat(times, n)
        states = rng.normal(size=(len(time), 3)) + np.column_stack([step * time, 0 * time, 0 * time])
        counts = rng.poisson(np.exp(0.3 * states @ rng.normal(size=(3, 12)) + 1)).astype(np.float32)
        adata = AnnData(counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(len(time))]))
        mdata = MuData({"rna": adata})
        mdata.obs["day"] = time
        mdata.obsm["X_pca"] = states
        return mdata

    return made


@pytest.fixture
def perturbed():
    """Perturb in place, without the warnings, and give the result."""
    import warnings

    import mmopt as mm

    def run(mdata, gene, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            mm.tl.perturb(mdata, gene, n_null=5, **kwargs)
        return mdata.uns["perturb"][f"{gene}_knockout"]

    return run

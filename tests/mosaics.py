"""MuData of a few cells, not all of them in every modality."""

import anndata
import mudata
import numpy as np
import pandas as pd

from mmopt._compat import override_pull_on_update


def modality(cells, n_vars=3, **obs):
    x = np.arange(len(cells) * n_vars, dtype=np.float32).reshape(len(cells), n_vars)
    return anndata.AnnData(
        x, obs=pd.DataFrame(obs, index=list(cells)), var=pd.DataFrame(index=[f"f{i}" for i in range(n_vars)])
    )


def build(**modalities):
    for name, adata in modalities.items():
        adata.var_names = [f"{name}-{i}" for i in range(adata.n_vars)]
    with override_pull_on_update():
        return mudata.MuData(modalities)

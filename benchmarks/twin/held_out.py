"""Every inner time point of a course left out and predicted; writes ``held_out.csv``.

``python held_out.py OUT FILE TIME_KEY [DROP ...]`` for a real ``.h5ad`` with raw counts (features named behind are dropped
first), ``python held_out.py OUT r12 ...`` for the simulated courses of ``fates.py``.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import read_h5ad
from fates import NETWORKS, course, embedded
from mudata import MuData
from sklearn.decomposition import PCA

import mmopt as mm
from mmopt.grn.pooling import per_ten_thousand


def real(path: str, drop: list[str]) -> MuData:
    """One modality, its principal components and nothing else."""
    adata = read_h5ad(path)
    adata = adata[:, ~adata.var_names.isin(drop)].copy()
    mdata = MuData({"rna": adata})
    counts = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    logged = np.log1p(per_ten_thousand(counts.astype(float)))
    mdata.obsm["X_pca"] = PCA(min(15, adata.n_vars - 1), random_state=0).fit_transform(logged)
    return mdata


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    out, *rest = sys.argv[1:]
    if rest[0] in NETWORKS:
        jobs = [(name, None, "time") for name in rest]
    else:
        jobs = [(Path(rest[0]).stem, real(rest[0], rest[2:]), rest[1])]
    frames = [pd.read_csv(out)] if Path(out).exists() else []
    for name, mdata, key in jobs:
        if mdata is None:
            mdata = course(name)[0]
            embedded(mdata)
        table = mm.tl.evaluate_twin(mdata, time_key=key, use_rep="X_pca", n_members=3, progress_bar=False)
        frames.append(table.assign(data=name))
        pd.concat(frames).round(4).to_csv(out, index=False)
        for space in ("embedding", "genes"):
            here = table[table["space"] == space]
            print(name, space)
            print(
                here.groupby("prediction", sort=False)[["w1", "w2", "mmd", "energy"]]
                .mean()
                .round(3)
                .to_string(),
                flush=True,
            )

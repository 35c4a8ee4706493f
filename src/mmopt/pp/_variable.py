"""Which genes and peaks vary between cells, judged within batches."""

import warnings
from typing import TypeAlias

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

Counts: TypeAlias = sparse.csr_matrix | np.ndarray

# genes compete within bins of similar mean; scanpy's 20 bins would be near empty in a panel
GENES_PER_BIN = 50
MIN_BATCH = 20  # a batch of fewer cells says too little about variance to have a vote


def variable_genes(counts: Counts, n_top: int, batch: np.ndarray) -> np.ndarray:
    """Mark the ``n_top`` genes of highest normalised dispersion within batches; boolean, ``(n_genes,)``."""
    use = np.asarray(counts.sum(1)).ravel() > 0
    large = use & (np.bincount(batch[use], minlength=batch.max() + 1) >= MIN_BATCH)[batch]
    several = len(np.unique(batch[large])) > 1
    use = large if large.any() else use
    obs = pd.DataFrame({"batch": pd.Categorical(batch[use])}, index=np.flatnonzero(use).astype(str))
    temporary = AnnData(counts[use], obs=obs)
    sc.pp.normalize_total(temporary, target_sum=1e4)
    sc.pp.log1p(temporary)
    try:
        with warnings.catch_warnings():
            # newer versions of scanpy warn before they fail, or where fewer genes vary than are asked for
            warnings.filterwarnings("ignore", message=".*normalized dispersions")
            ranked = sc.pp.highly_variable_genes(
                temporary,
                flavor="seurat",
                n_top_genes=n_top,
                n_bins=min(20, max(1, temporary.n_vars // GENES_PER_BIN)),
                batch_key="batch" if several else None,
                inplace=False,
            )
    except IndexError as error:  # scanpy found no gene with a dispersion
        raise ValueError(
            f"no gene varies between the {temporary.n_obs} cells, so none can be ranked; pass `n_top_genes=None`"
        ) from error
    return ranked["highly_variable"].to_numpy()


def variable_peaks(counts: Counts, n_top: int, batch: np.ndarray) -> np.ndarray:
    """Mark the ``n_top`` peaks of highest variance (open or closed) within batches; boolean, ``(n_peaks,)``."""
    variance = np.zeros(counts.shape[1])
    for code in np.unique(batch):
        rows = batch == code
        open_share = detected(counts[rows]) / rows.sum()
        variance += rows.mean() * open_share * (1 - open_share)
    chosen = np.zeros(len(variance), dtype=bool)
    chosen[np.argsort(-variance, kind="stable")[:n_top]] = True
    return chosen


def detected(counts: Counts) -> np.ndarray:
    """Count the cells in which each feature is seen; ``(n_features,)``."""
    return np.asarray((counts > 0).sum(0)).ravel()

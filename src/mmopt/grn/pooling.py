"""Counts of neighbouring cells added up: enough signal for a regression, nothing decoded or imputed by a model."""

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

SCALE = 1e4


def pool_counts(
    counts: np.ndarray | sparse.csr_matrix,
    where: np.ndarray,
    embedding: np.ndarray,
    query: np.ndarray,
    k: int,
    among: np.ndarray | None = None,
) -> np.ndarray:
    """Sum the raw counts of the ``k`` measured cells nearest to each queried one.

    Parameters
    ----------
    counts
        ``(n_measured, n_features)`` raw counts.
    where
        Row of each measured cell in ``embedding``.
    embedding
        ``(n_cells, n_dims)``; cells without the modality are there too.
    query
        Rows of ``embedding`` for which a pool is wanted; a cell need not be measured itself.
    k
        Cells in a pool; all measured ones where there are fewer.
    among
        Numbers of the measured cells that may be pooled; all if not given.

    Returns
    -------
    numpy.ndarray
        ``(n_query, n_features)`` summed counts.

    Examples
    --------
    >>> pool_counts(np.eye(3), np.arange(3), np.array([[0.0], [1.0], [5.0]]), np.array([0]), k=2)
    array([[1., 1., 0.]])
    """
    where = where if among is None else where[among]
    k = min(k, len(where))
    if 0 < k == len(where):
        # all of them, whichever are near: the noise of a measured effect is made of such pools
        chosen = counts if among is None else counts[among]
        return np.repeat(as_dense(sparse.csr_matrix(np.ones((1, k))) @ chosen), len(query), axis=0)
    index = NearestNeighbors(n_neighbors=k).fit(embedding[where])
    near = index.kneighbors(embedding[query], return_distance=False)
    # only rows that are in a pool: a product with all cells would first make a copy of all counts in double precision
    pooled, place = np.unique(near, return_inverse=True)
    pools = sparse.csr_matrix(
        (np.ones(near.size), place.ravel(), np.arange(0, near.size + 1, k)), shape=(len(query), len(pooled))
    )
    return as_dense(pools @ counts[pooled if among is None else among[pooled]])


def as_dense(matrix: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """Array of floats, whatever the matrix is."""
    return np.asarray(matrix.todense() if sparse.issparse(matrix) else matrix, dtype=float)


def per_ten_thousand(counts: np.ndarray) -> np.ndarray:
    """Scale each row to 10,000 counts; an empty row stays empty."""
    return SCALE * counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)


def log_ratio(counts: np.ndarray) -> np.ndarray:
    """Centred log ratio of each row: log1p of the counts less its mean over the features."""
    logged = np.log1p(counts)
    return logged - logged.mean(1, keepdims=True)


def plain_embedding(normalised: list[np.ndarray], n_dims: int = 20) -> np.ndarray:
    """Principal components of each modality's logged values side by side, each modality with the same variance.

    The fall-back where no embedding was computed; every cell must have every modality.
    """
    parts = []
    for values in normalised:
        dims = min(n_dims, min(values.shape) - 1)
        part = PCA(dims, random_state=0, svd_solver="randomized" if dims > 0 else "auto").fit_transform(
            values - values.mean(0)
        )
        parts.append(part / max(np.sqrt((part**2).sum(1).mean()), 1e-12))
    return np.hstack(parts)

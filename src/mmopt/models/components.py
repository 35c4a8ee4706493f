"""Leading components of many peaks: latent semantic indexing of a sample of the cells."""

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from mmopt.models.encoders import CLIP
from mmopt.models.statistics import tf_idf
from mmopt.models.stored import Counts

CELLS, PIECE = 4_096, 64  # so many, in contiguous pieces, which is how a disk likes to be read


def leading(counts: Counts, scales: dict[str, np.ndarray], n: int) -> np.ndarray:
    """Return the leading right singular vectors of the standardised TF-IDF, scaled so that projections have unit variance.

    Parameters
    ----------
    counts
        Cells × peaks.
    scales
        ``mean``, ``scale`` and ``idf`` of :func:`mmopt.models.statistics.atac`.
    n
        Number of components.

    Returns
    -------
    numpy.ndarray
        Peaks × components, at most ``n`` and at most one fewer than there are cells. The projections have unit variance
        on average over the components, not each: small components stay small.

    References
    ----------
    Cusanovich et al. (2015) Science 348:910, for the method; Halko et al. (2011) SIAM Review 53:217, for its computation.
    """
    x = counts[_sample(counts.shape[0])]
    ceiling = (scales["mean"] + CLIP * scales["scale"])[x.indices]
    values = np.minimum(tf_idf(x, scales["idf"]), ceiling) / scales["scale"][x.indices]
    x = sp.csr_matrix((values.astype(np.float32), x.indices, x.indptr), x.shape)
    n = min(n, x.shape[0] - 1)
    if n < 1 or not x.nnz:
        return np.zeros((x.shape[1], 0))
    left, singular, right = randomized_svd(x, n, n_iter=2, random_state=0)
    variance = (left * singular).var(0).mean()
    return right.T / max(np.sqrt(variance), 1e-6)


def _sample(n_cells: int) -> np.ndarray:
    """Choose cells in pieces that lie evenly over all of them."""
    if n_cells <= CELLS:
        return np.arange(n_cells)
    starts = np.linspace(0, n_cells - PIECE, CELLS // PIECE).astype(int)
    return (starts[:, None] + np.arange(PIECE)).ravel()

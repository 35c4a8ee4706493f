"""Distances between two samples of cells, as used to score a held-out time point."""

import numpy as np
import ot
from scipy.spatial.distance import cdist


def wasserstein(x: np.ndarray, y: np.ndarray, p: int = 1) -> float:
    """Exact Wasserstein distance of order ``p`` (1 or 2) with the Euclidean ground distance.

    Examples
    --------
    >>> wasserstein(np.array([[0.0], [1.0]]), np.array([[3.0], [2.0]]))
    2.0
    """
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
    cost = cdist(x, y, "euclidean" if p == 1 else "sqeuclidean")
    uniform = [np.full(len(s), 1 / len(s)) for s in (x, y)]
    return float(max(ot.emd2(*uniform, cost, numItermax=1_000_000), 0.0) ** (1 / p))


def maximum_mean_discrepancy(x: np.ndarray, y: np.ndarray, scale: float | None = None) -> float:
    """Squared maximum mean discrepancy with Gaussian kernels of half, once and twice the width ``scale``.

    Unbiased: pairs of a cell with itself are left out, so it can come out slightly negative.

    Parameters
    ----------
    x, y
        ``(n, d)`` and ``(m, d)``.
    scale
        Width; default: the median distance within ``y``. Give one value to all predictions that are compared.

    References
    ----------
    Gretton A et al. (2012) J. Mach. Learn. Res. 13:723.
    """
    within_y = cdist(y, y)
    if scale is None:
        scale = float(np.median(within_y[np.triu_indices(len(y), 1)]))
    width = max(scale, 1e-12) * np.array([0.5, 1.0, 2.0])[:, None, None]

    def kernel(distance: np.ndarray) -> np.ndarray:
        return np.exp(-(distance**2) / (2 * width**2)).mean(0)

    parts = []
    for distance in (cdist(x, x), within_y):
        n = len(distance)
        parts.append((kernel(distance).sum() - n) / (n * (n - 1)))
    return float(sum(parts) - 2 * kernel(cdist(x, y)).mean())

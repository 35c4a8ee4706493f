"""How fast levels change: descendants less ancestors, through couplings."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse


def change(
    levels: Sequence[np.ndarray], times: np.ndarray, couplings: Sequence[sparse.csr_matrix]
) -> list[np.ndarray]:
    """Change per unit of time of every cell.

    Mean of a cell's descendants less that of its ancestors, over the time between them. Its own level is in neither, so that its
    noise is not taken for change; at both ends of the course the mean of those that share its descendants (ancestors), itself among
    them, stands for it.

    Parameters
    ----------
    levels
        ``(n_t, n_features)`` of each time point.
    times
        ``(n_times,)``, increasing.
    couplings
        Of all consecutive time points, ``(n_t, n_{t+1})`` each.

    Returns
    -------
    list of numpy.ndarray
        ``(n_t, n_features)`` each; 0 for a cell without descendants or ancestors.

    Examples
    --------
    >>> plan = sparse.csr_matrix(np.eye(2))
    >>> change([np.array([[0.0], [1.0]]), np.array([[0.5], [0.0]])], np.array([0.0, 2.0]), [plan])[0].ravel().tolist()
    [0.25, -0.5]
    """
    later, earlier = [_rows(p) for p in couplings], [_rows(p.T) for p in couplings]
    last = len(levels) - 1
    out = []
    for t in range(len(levels)):
        before, after = max(t - 1, 0), min(t + 1, last)
        below = earlier[t - 1] @ levels[before] if t else later[0] @ (earlier[0] @ levels[0])
        above = later[t] @ levels[after] if t < last else earlier[-1] @ (later[-1] @ levels[last])
        known = np.ones(len(levels[t]), dtype=bool)
        if t:
            known &= earlier[t - 1].getnnz(axis=1) > 0
        if t < last:
            known &= later[t].getnnz(axis=1) > 0
        out.append(known[:, None] * (above - below) / (times[after] - times[before]))
    return out


def _rows(plan: sparse.spmatrix) -> sparse.csr_matrix:
    """Rows that sum to 1, or to 0 where there is nothing."""
    plan = sparse.csr_matrix(plan)
    total = np.asarray(plan.sum(1)).ravel()
    return sparse.csr_matrix(sparse.diags(np.where(total > 0, 1 / np.where(total > 0, total, 1), 0)) @ plan)

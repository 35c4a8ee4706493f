"""The couplings of a twin as one matrix of transitions between cells, as other tools take it."""

import numpy as np
from mudata import MuData
from scipy import sparse

from mmopt import _keys
from mmopt.tl._members import restore


def transitions(mdata: MuData, *, twin: str = _keys.TWIN) -> sparse.csr_matrix:
    """Return the probability of each cell to become each other cell by the next time point.

    Parameters
    ----------
    mdata
        Data with the result of :func:`mmopt.tl.twin`.
    twin
        Its slot.

    Returns
    -------
    scipy.sparse.csr_matrix
        ``(n_obs, n_obs)``, mean over the members, rows sum to 1. Cells of the last time point, and cells without a time, stay
        what they are.

    Raises
    ------
    KeyError, ValueError
        No twin, or other cells than it was fitted to.

    Examples
    --------
    >>> kernel = cellrank.kernels.PrecomputedKernel(mm.tl.transitions(mdata), adata=mdata["rna"])  # doctest: +SKIP
    """
    course, members = restore(mdata, twin)
    n, last = len(course.point), len(course.times) - 1
    still = np.flatnonzero((course.point < 0) | (course.point == last))
    parts = [(np.ones(len(still)), still, still)]
    for t in range(last):
        plans = []
        for member in members:
            plan = member.couplings[t]
            plans.append(sparse.diags(1 / np.maximum(np.asarray(plan.sum(1)).ravel(), 1e-300)) @ plan)
        mean = sparse.coo_matrix(sum(plans[1:], start=plans[0]) / len(plans))
        parts.append((mean.data, course.rows(t)[mean.row], course.rows(t + 1)[mean.col]))
    values, rows, columns = (np.concatenate(each) for each in zip(*parts, strict=True))
    return sparse.csr_matrix((values, (rows, columns)), shape=(n, n))

"""Which cells of one time point become which cells of the next: entropic optimal transport, unbalanced at the source."""

import numpy as np
import ot
from scipy import sparse
from scipy.spatial.distance import cdist

# of the mean squared distance; POT's and WOT's usual scale
EPSILON = 0.05
# how dearly a cell pays for more or fewer descendants than its growth says, in units of the mean cost; the next time
# point is always reached as it was measured
RELAXATION = 5.0
# entries kept per cell: the rest of an entropic plan is a tail that costs memory and decides nothing
KEEP = 30
BATCH, _WHOLE = 500, 4
_ITERATIONS, _BALANCING, _FAR = 500, 100, 300.0
_AS_MEASURED = 1e4  # POT makes NaN of infinity


def couple(
    x: np.ndarray,
    y: np.ndarray,
    *,
    growth: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    epsilon: float = EPSILON,
    relaxation: float = RELAXATION,
    batch: int = BATCH,
    seed: int = 0,
) -> sparse.csr_matrix:
    """Couple the cells of two time points.

    Parameters
    ----------
    x, y
        ``(n, d)`` and ``(m, d)`` states, earlier and later.
    growth
        ``(n,)`` expected descendants of each earlier cell, relative to each other; default: all the same.
    weights
        ``(m,)`` mass of each later cell; default: all the same.
    epsilon, relaxation
        Entropic regularisation and price of leaving the growth, in units of the mean squared distance.
    batch
        Beyond four times as many cells the points are split into random batches of about this size, coupled one by one. A
        point that is much smaller than the other is kept whole, or in parts of at least this size.
    seed
        Of the split.

    Returns
    -------
    scipy.sparse.csr_matrix
        ``(n, m)``, sums to 1; the columns sum to ``weights``, the rows to what the plan makes of ``growth``.

    References
    ----------
    Schiebinger G et al. (2019) Cell 176:928, for unbalanced transport with growth. Chizat L et al. (2018) Math.
    Comput. 87:2563.

    Examples
    --------
    >>> couple(np.array([[0.0], [9.0]]), np.array([[9.1], [0.1]])).toarray().round(2).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    a = np.ones(len(x)) if growth is None else np.asarray(growth, dtype=float)
    b = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float)
    a, b = a / a.sum(), b / b.sum()
    n_sources, n_targets = _parts(int((a > 0).sum()), int((b > 0).sum()), batch)
    rng = np.random.default_rng(seed)
    # cells without mass (left out by a bootstrap) take no part
    sources = np.array_split(rng.permutation(np.flatnonzero(a)), n_sources)
    targets = np.array_split(rng.permutation(np.flatnonzero(b)), n_targets)
    mass = np.array([a[i].sum() for i in sources])
    rows, columns, values = [], [], []
    for k in range(max(n_sources, n_targets)):
        i, j = sources[k % n_sources], targets[k % n_targets]
        plan = _plan(x[i], y[j], a[i] / a[i].sum(), b[j] / b[j].sum(), epsilon, relaxation)
        coo = _thinned(plan, b[j] / b[j].sum()).tocoo()
        rows.append(i[coo.row])
        columns.append(j[coo.col])
        # later cells that several batches lead to are shared out between these
        share = mass[k] / mass[k % n_targets :: n_targets].sum() if n_sources > n_targets else 1.0
        values.append(coo.data * b[j].sum() * share)
    together = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(together, shape=(len(x), len(y)))


def _parts(n: int, m: int, batch: int) -> tuple[int, int]:
    """Into how many parts each side is split; the smaller side's parts meet equally many of the larger's each.

    A batch reaches its later cells exactly, so that with a handful of them mass would be forced to wherever these few
    happen to lie: a side that is much smaller is not split as often.
    """
    large, small = max(n, m), min(n, m)
    if large <= _WHOLE * batch:
        return 1, 1
    many = -(-large // batch)
    if 2 * small >= many * batch:
        return many, many
    few = max(small // batch, 1)
    many = few * (large // (few * batch))
    return (many, few) if n > m else (few, many)


def _plan(
    x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, relaxation: float
) -> np.ndarray:
    cost = cdist(x, y, "sqeuclidean")
    cost /= max(cost.mean(), 1e-12)
    # POT's stabilised solver of the unbalanced problem leaves the source sums far off, so the plain one: no cost may be so
    # large that its kernel is nothing
    return ot.unbalanced.sinkhorn_unbalanced(
        a,
        b,
        np.minimum(cost, _FAR * epsilon),
        epsilon,
        (relaxation, _AS_MEASURED),
        method="sinkhorn",
        numItermax=_ITERATIONS,
        stopThr=1e-7,
        warn=False,
    )


def _thinned(plan: np.ndarray, later: np.ndarray) -> sparse.csr_matrix:
    """Largest entries of each row and of each column, scaled until their sums are again those of the whole plan.

    Without the scaling a few cells, near to everything, would take over the offspring of all others.
    """
    n, m = plan.shape
    by_row = np.argpartition(-plan, min(KEEP, m) - 1, axis=1)[:, :KEEP]
    by_column = np.argpartition(-plan, min(KEEP, n) - 1, axis=0)[:KEEP]
    chosen = np.zeros(plan.shape, dtype=bool)
    chosen[np.arange(n)[:, None], by_row] = True
    chosen[by_column, np.arange(m)] = True
    earlier = plan.sum(1)
    kept = sparse.csr_matrix(np.where(chosen, plan, 0.0))
    v = np.ones(m)
    for _ in range(_BALANCING):
        u = earlier / np.maximum(kept @ v, 1e-300)
        v = later / np.maximum(kept.T @ u, 1e-300)
    return sparse.csr_matrix(sparse.diags(u) @ kept @ sparse.diags(v))


def drifts_apart(
    x: np.ndarray, y: np.ndarray, *, n_cells: int = 200, n_permutations: int = 99, seed: int = 0
) -> float:
    """P value for two samples being one population: permuted labels give as large an energy distance.

    Where nothing moves between two time points, any coupling is as good as any other.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(100, 2))
    >>> drifts_apart(x, x + 3) <= 0.01, drifts_apart(x[:50], x[50:]) > 0.05
    (True, True)
    """
    rng = np.random.default_rng(seed)
    x, y = (s[rng.permutation(len(s))[:n_cells]] for s in (np.asarray(x), np.asarray(y)))
    distance = cdist(both := np.vstack([x, y]), both)
    total, n = distance.sum(), len(x)

    def statistic(first: np.ndarray) -> float:
        within = distance[np.ix_(first, first)].sum()
        across = distance[first].sum() - within
        rest = total - within - 2 * across
        return 2 * across / (n * (len(both) - n)) - within / n**2 - rest / (len(both) - n) ** 2

    observed = statistic(np.arange(n))
    drawn = [statistic(rng.permutation(len(both))[:n]) for _ in range(n_permutations)]
    return float((1 + np.sum(np.array(drawn) >= observed)) / (1 + n_permutations))

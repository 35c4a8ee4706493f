"""Whether two samples of cells differ at all."""

from math import comb

import numpy as np

# permutations, and fewest ways to divide the cells with which p = 0.05 can be reached
_PERMUTED, _LEAST_WAYS = 199, 20
_LEAST_SPREAD = 1e-6


def apart_by_chance(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> float:
    """How often cells divided at random are as far apart in the mean as these two samples.

    Parameters
    ----------
    one, other
        ``(n_one, n_features)`` and ``(n_other, n_features)``.
    rng
        Of the divisions.

    Returns
    -------
    float
        P value of the squared distance between the means, each feature in units of its spread; NaN where there are too few
        cells for it to be 0.05 or less.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> one, other = rng.normal(0, 1, (20, 5)), rng.normal(2, 1, (20, 5))
    >>> apart_by_chance(one, other, rng)
    0.005
    """
    n, n_other = len(one), len(other)
    if comb(n + n_other, n) < _LEAST_WAYS:
        return float("nan")
    cells = np.vstack([one, other]).astype(float)
    spread = cells.std(0)
    cells = (cells - cells.mean(0))[:, spread > _LEAST_SPREAD] / spread[spread > _LEAST_SPREAD]
    member = np.zeros((_PERMUTED + 1, len(cells)), dtype=bool)
    member[0, :n] = True
    for row in member[1:]:
        row[rng.permutation(len(cells))[:n]] = True
    difference = (member / n - ~member / n_other) @ cells
    size = (difference**2).sum(1)
    return float((size >= size[0] * (1 - 1e-12)).mean())

"""Split conformal prediction with few exchangeable units, such as the perturbations of a screen."""

import math

import numpy as np
from numpy.typing import ArrayLike

_ROUNDING = 1e-9  # (n + 1) * level can come out just above a whole number


def units_needed(level: float = 0.9) -> int:
    """Fewest calibration units for an interval of this level that has an end, ``1 / alpha - 1``.

    Examples
    --------
    >>> units_needed(0.9), units_needed(0.95)
    (9, 19)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    return math.ceil(1 / (1 - level) - 1 - _ROUNDING)


def conformal_quantile(scores: ArrayLike, level: float = 0.9) -> np.ndarray:
    """Score that a new unit does not exceed with probability ``level`` or more, if it is exchangeable with these.

    Parameters
    ----------
    scores
        ``(n_units, ...)``, larger where a prediction was worse; NaN where a unit says nothing.
    level
        Between 0 and 1.

    Returns
    -------
    numpy.ndarray
        Shape of one unit: of the ``n`` scores known there the ``ceil((n + 1) level)``-th smallest; infinite where there
        are fewer than :func:`units_needed`. Without ties the probability is below ``level + 1 / (n + 1)``.

    Raises
    ------
    ValueError
        No axis of units, or a level outside of (0, 1).

    References
    ----------
    Lei J et al. (2018) J. Am. Stat. Assoc. 113:1094.

    Examples
    --------
    >>> float(conformal_quantile(np.arange(1.0, 20.0)))
    18.0
    """
    scores = np.asarray(scores, dtype=float)
    units_needed(level)
    if scores.ndim < 1:
        raise ValueError("scores: (n_units, ...) are needed, got a single number")
    n = (~np.isnan(scores)).sum(0)
    rank = np.ceil((n + 1) * level - _ROUNDING).astype(int)
    if not len(scores):
        return np.full(n.shape, np.inf)
    place = np.clip(rank - 1, 0, len(scores) - 1)
    found = np.take_along_axis(np.sort(scores, axis=0), place[None], axis=0)[0]  # NaN are sorted to the end
    return np.where(rank <= n, found, np.inf)


def leave_one_out_covered(scores: ArrayLike, level: float = 0.9) -> np.ndarray:
    """Whether each unit's score lies within the :func:`conformal_quantile` of the others.

    Returns
    -------
    numpy.ndarray
        Shape of ``scores``: 1, 0, or NaN where the score is NaN or the others are too few for the level.

    Examples
    --------
    >>> float(leave_one_out_covered(np.arange(10.0)).mean())
    0.9
    """
    scores = np.asarray(scores, dtype=float)
    inside = np.full(scores.shape, np.nan)
    for i, own in enumerate(scores):
        others = np.delete(scores, i, 0)
        known = ~np.isnan(own) & ((~np.isnan(others)).sum(0) >= units_needed(level))
        inside[i] = np.where(known, own <= conformal_quantile(others, level), np.nan)
    return inside

"""How often predictive intervals hold what was observed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def interval_coverage(
    draws: ArrayLike,
    observed: ArrayLike,
    levels: Sequence[float] = (0.5, 0.8, 0.95),
    *,
    random_state: int = 0,
) -> dict[str, float]:
    """How often what was observed lies in the central predictive intervals of draws from the prediction.

    Counts are whole numbers: an interval that ends at whole numbers holds more than its level even if the prediction is
    perfect (all of it where nearly all counts are zero), so ``closed`` below can only unmask intervals that are too
    narrow. ``coverage`` places each observation at random among the draws equal to it (the randomised probability
    integral transform), and equals the level for a perfect prediction, counts or not.

    Parameters
    ----------
    draws
        ``(n_draws, n_cells, n_features)``, or any further axes after the first.
    observed
        The shape of one draw; NaN where nothing was observed.
    levels
        Probabilities of the intervals, within (0, 1).
    random_state
        Seed of the places among equal draws.

    Returns
    -------
    dict
        Shares ``coverage_<level>`` and ``closed_<level>``, with the level in percent in the name: ``coverage_50``; and
        ``bias``, the mean place of the observations among the draws less one half: positive if predictions are too low.

    Raises
    ------
    ValueError
        Shapes that differ, no draws, or levels outside of (0, 1).

    Examples
    --------
    >>> draws = np.arange(99.0)[:, None]
    >>> interval_coverage(draws, [49.0], levels=[0.5])["coverage_50"]
    1.0

    References
    ----------
    Czado, Gneiting and Held (2009), Biometrics 65:1254.
    """
    draws, observed = np.asarray(draws, dtype=float), np.asarray(observed, dtype=float)
    if draws.shape[1:] != observed.shape or not draws.size:
        raise ValueError(
            f"draws {draws.shape} must have one more axis, the first, than observed {observed.shape}"
        )
    if not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels must lie between 0 and 1; got {list(levels)}")
    known = np.isfinite(observed)
    draws, observed = np.sort(draws[:, known], 0), observed[known]
    n = len(draws)
    below, equal = (draws < observed).sum(0), (draws == observed).sum(0)
    rng = np.random.default_rng(random_state)
    place = (below + rng.random(len(observed)) * (equal + 1)) / (n + 1)
    out = {"bias": float(place.mean() - 0.5)}
    for level in levels:
        name = f"{100 * level:g}"
        tail = int(np.floor((1 - level) / 2 * (n - 1) + 1e-9))
        inside = (draws[tail] <= observed) & (observed <= draws[n - 1 - tail])
        out[f"coverage_{name}"] = float((np.abs(place - 0.5) <= level / 2).mean())
        out[f"closed_{name}"] = float(inside.mean())
    return out

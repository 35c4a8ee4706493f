"""How fast the pooled cells of a time course change."""

from itertools import pairwise

import numpy as np
from mudata import MuData

from mmopt.dynamics import change, couple
from mmopt.tl._course import PSEUDOTIME, read_times

_LEAST = 10


def pace(
    mdata: MuData, time_key: str, embedding: np.ndarray, query: np.ndarray, level: np.ndarray
) -> np.ndarray:
    """Change of the levels during the whole course at the pace of now.

    Parameters
    ----------
    mdata, time_key
        Data and the column with the times.
    embedding
        ``(n_obs, n_dims)``, in which cells are coupled.
    query
        Rows of the pooled cells.
    level
        ``(n_query, n_features)``.

    Returns
    -------
    numpy.ndarray
        ``(n_query, n_features)``; 0 for cells without a time, and at times of which fewer than ten pools were drawn.

    Raises
    ------
    KeyError, ValueError
        No such column; pseudotime, one time point, too few cells at one.
    """
    times, point, units = read_times(mdata, time_key)
    if units == PSEUDOTIME:
        raise ValueError(
            f"time_key={time_key!r} is a pseudotime: cells are put in its order by their expression, so that a change along it says "
            "nothing that the expression does not; give the times of sampling, or leave `time_key` out"
        )
    rows = [np.flatnonzero(point[query] == t) for t in range(len(times))]
    enough = np.array([len(r) >= _LEAST for r in rows])
    rows, now = [r for r, e in zip(rows, enough, strict=True) if e], times[enough]
    out = np.zeros_like(level)
    if len(rows) > 1:
        states = [embedding[query[r]] for r in rows]
        plans = [couple(x, y) for x, y in pairwise(states)]
        for r, each in zip(rows, change([level[r] for r in rows], now, plans), strict=True):
            out[r] = each * (times[-1] - times[0])
    return out

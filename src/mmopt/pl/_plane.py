"""The plane in which a time course is drawn: the two principal axes of the embedding, or two columns the user names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mudata import MuData

from mmopt._checks import listed
from mmopt._identity import check_identity
from mmopt.pl._figure import shortened


class Plane:
    """Projection of states of an embedding onto two axes, the same for all that is drawn.

    Parameters
    ----------
    mdata, use_rep
        The data and the ``obsm`` key of the embedding.
    """

    def __init__(self, mdata: MuData, use_rep: str) -> None:
        if use_rep not in mdata.obsm:
            raise KeyError(
                f"mdata.obsm has no {use_rep!r} (it has {listed(mdata.obsm, 20) or 'nothing'}); it was there when the twin "
                "was fitted"
            )
        states = np.asarray(mdata.obsm[use_rep], dtype=float)
        self._centre = states.mean(0)
        _, _, axes = np.linalg.svd(states - self._centre, full_matrices=False)
        # the sign of an axis is arbitrary: largest entry positive, so that a plot comes out the same again
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
        self._axes = (axes * signs[:, None])[:2]
        if len(self._axes) < 2:
            raise ValueError(f"mdata.obsm[{use_rep!r}] has one dimension, the plot needs two")
        self.cells = self(states)

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Coordinates of ``(..., d)`` states in the plane, ``(..., 2)``."""
        return (np.asarray(states, dtype=float) - self._centre) @ self._axes.T


def times_of(mdata: MuData, twin: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, str]:
    """Time of each cell (NaN: none), the time points, and the label of the axis; other cells than the twin's are refused."""
    check_identity(twin, mdata)
    times = np.asarray(twin["times"], dtype=float)
    point = np.asarray(twin["point"], dtype=int)
    return np.where(point >= 0, times[np.maximum(point, 0)], np.nan), times, time_label(twin["params"])


def time_label(params: Mapping[str, Any]) -> str:
    """Axis label of the time."""
    units = str(params["units"])
    return {"time": "Time", "pseudotime": "Pseudotime"}.get(units, f"Time ({units})")


def shade_windows(ax: Any, params: Mapping[str, Any]) -> None:
    """Shade the time for which something was held."""
    for start, stop in np.asarray(params["windows"], dtype=float).reshape(-1, 2):
        ax.axvspan(start, stop, color="0.93", linewidth=0, zorder=0)


def described(params: Mapping[str, Any], most: int = 6) -> str:
    """Interventions of a simulation in one line, the first ones where there are more than ``most``."""
    names = [f"{shortened(str(n))} {m}" for n, m in zip(params["features"], params["modes"], strict=True)]
    if len(names) > most:
        names[most - 1 :] = [f"{len(names) - most + 1} more"]
    return " + ".join(names) if len(names) else "no intervention"

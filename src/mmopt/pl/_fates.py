"""Shares of the fates over time, with and without the intervention."""

import numpy as np
from matplotlib.figure import Figure
from mudata import MuData

from mmopt import _keys
from mmopt._checks import listed
from mmopt.pl._figure import COLUMN, finish, style
from mmopt.pl._panels import panels
from mmopt.pl._slots import read

_CALL = "mm.tl.simulate(mdata, start=..., terminal_key=...)"
_LEAST = 0.02


def fates(
    mdata: MuData,
    *,
    key: str = _keys.SIMULATE,
    labels: str | list[str] | None = None,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot the share of each label in the offspring over time, with 90 % intervals.

    Parameters
    ----------
    mdata
        The data with the result of :func:`mmopt.tl.simulate`.
    key
        Slot of the simulation.
    labels
        Label or labels to show; default: all that reach 2 %.
    width
        Of the figure in inches.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (a 1-d array), one per label. The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        No such result, or no such label.
    ValueError
        No label at all.

    Notes
    -----
    Grey: left alone. Orange: with the intervention, whose time is shaded.

    Examples
    --------
    >>> mm.pl.fates(mdata)  # doctest: +SKIP
    """
    slot = read(mdata, key, _CALL, ("fate_time", "params"))
    table = slot["fate_time"]
    there = list(dict.fromkeys(table["label"].astype(str)))
    labels = [labels] if isinstance(labels, str) else labels
    if labels is None:
        highest = table.groupby(table["label"].astype(str))["p"].max()
        labels = [name for name in there if highest[name] >= _LEAST]
    elif not len(labels):
        raise ValueError(f"labels: an empty list; name one or more of {listed(there, 20)}")
    elif unknown := [name for name in labels if name not in there]:
        raise KeyError(f"labels: no {listed(unknown)}; there are {listed(there, 20)}")
    lines = {
        name: {
            arm: part.sort_values("time")[["time", "p", "lo", "hi"]].to_numpy(dtype=float).T
            for arm, part in table[(table["label"].astype(str) == name).to_numpy()].groupby(
                "arm", sort=False, observed=True
            )
        }
        for name in labels
    }
    with style():
        fig, axes = panels(lines, slot["params"], width, "Share of the cells")
        for ax in axes:
            ax.set_ylim(bottom=0)
        return finish(fig, axes, show, return_fig)

"""Simulated cells on their way over the embedding."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mudata import MuData

from mmopt import _keys
from mmopt.pl._figure import COLUMN, PALETTE, SEQUENTIAL, finish, fitting, style
from mmopt.pl._plane import Plane, described, times_of
from mmopt.pl._slots import read

_CALL = "mm.tl.simulate(mdata, start=...)"


def trajectories(
    mdata: MuData,
    *,
    key: str = _keys.SIMULATE,
    n_paths: int = 25,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw simulated paths over the cells, in the two principal axes of the embedding.

    Parameters
    ----------
    mdata
        The data with the results of :func:`mmopt.tl.twin` and :func:`mmopt.tl.simulate`.
    key
        Slot of the simulation.
    n_paths
        Paths of each arm.
    ax
        Axes to draw on.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes. The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError, ValueError
        No such result, or other cells, another order of them or another embedding than the twin was fitted to.

    Notes
    -----
    Cells are coloured by the time they were measured. Paths without an intervention follow the velocity; with one they are the
    observed cells nearest to the simulated regulators.

    Examples
    --------
    >>> mm.pl.trajectories(mdata)  # doctest: +SKIP
    """
    if n_paths < 1:
        raise ValueError(f"n_paths must be at least 1, got {n_paths}")
    slot = read(mdata, key, _CALL, ("paths", "params", "t"))
    twin = read(
        mdata, str(slot["params"]["twin"]), "mm.tl.twin(mdata, time_key=...)", ("times", "point", "params")
    )
    plane = Plane(mdata, str(slot["params"]["use_rep"]))
    times, _, label = times_of(mdata, twin)
    arms = {"wild_type": "black"} | ({"perturbed": PALETTE[1]} if "perturbed" in slot["paths"] else {})
    with style(ax) as scale:
        own = ax is None
        if ax is None:
            _, ax = plt.subplots(figsize=(1.3 * COLUMN, COLUMN), layout="constrained")
        order = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(times)))
        dots = ax.scatter(
            *plane.cells[order].T,
            c=times[order],
            cmap=SEQUENTIAL,
            s=5 * scale,
            linewidths=0,
            alpha=0.5,
            rasterized=True,
        )
        for arm, colour in arms.items():
            path = plane(slot["paths"][arm])[:, :n_paths]
            for line in np.swapaxes(path, 0, 1):
                ax.plot(*line.T, color=colour, linewidth=0.7 * scale, alpha=0.55)
            ax.scatter(*path[-1].T, color=colour, s=9 * scale, zorder=3, linewidths=0)
        ax.set(xlabel="Principal axis 1", ylabel="Principal axis 2", xticks=[], yticks=[])
        ax.figure.colorbar(dots, ax=ax, label=label, shrink=0.7).solids.set_alpha(1)
        room = COLUMN if own else ax.bbox.width / ax.figure.dpi / scale
        # what is above axes that others made is theirs: in narrow ones few interventions are named
        names = ["no intervention", described(slot["params"], max(2, int(1.5 * room)))][: len(arms)]
        names, columns = fitting(names, room)
        handles = [
            Line2D([], [], color=colour, marker="o", label=name)
            for colour, name in zip(arms.values(), names, strict=True)
        ]
        ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns)
        return finish(ax.figure, ax, show if own else bool(show), return_fig)

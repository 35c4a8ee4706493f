"""Small panels of values over time, with and without an intervention."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmopt.pl._figure import COLUMN, GREY, PALETTE, fitting
from mmopt.pl._plane import described, shade_windows, time_label

ARMS = {"wild_type": GREY, "perturbed": PALETTE[1]}


def panels(lines: dict, params, width: float, ylabel: str) -> tuple[Figure, np.ndarray]:
    """One small panel for each entry of ``lines``: name to arm to ``(time, value, low, high)``."""
    columns = min(4 if width > 1.5 * COLUMN else 2, max(len(lines), 1))
    rows = -(-len(lines) // columns)
    shown = [arm for arm in ARMS if any(arm in arms for arms in lines.values())]
    names = {"wild_type": "no intervention", "perturbed": described(params)}
    labels, side_by_side = fitting([f"{names[arm]}, 90 % interval" for arm in shown], width)
    height = 1.45 * rows + 0.55 + 0.15 * ("\n".join(labels).count("\n") + 1 if side_by_side == 1 else 1)
    fig, grid = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, sharex=True, layout="constrained"
    )
    axes: list[Axes] = list(grid.ravel())
    for ax, (name, arms) in zip(axes, lines.items(), strict=False):
        shade_windows(ax, params)
        for arm, (time, value, low, high) in arms.items():
            ax.fill_between(time, low, high, color=ARMS[arm], alpha=0.2, linewidth=0)
            ax.plot(time, value, color=ARMS[arm])
        ax.set_title(name)
    for ax in axes[len(lines) :]:
        ax.set_axis_off()
    for ax in axes[: len(lines)][-columns:]:  # some have nothing below them
        ax.tick_params(labelbottom=True)
    fig.supxlabel(time_label(params), fontsize=plt.rcParams["axes.labelsize"])
    fig.supylabel(ylabel, fontsize=plt.rcParams["axes.labelsize"])
    handles = [Line2D([], [], color=ARMS[arm], label=label) for arm, label in zip(shown, labels, strict=True)]
    fig.legend(handles=handles, loc="outside upper center", ncols=side_by_side)
    return fig, np.array(axes[: len(lines)])

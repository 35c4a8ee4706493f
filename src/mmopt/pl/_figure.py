"""What every plot shares: one style, one set of colours, one way to hand a figure back."""

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008): tells apart under every common colour blindness; the grey is for what is no category
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
GREY = "#6E6E6E"
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
# "loss" is the total
MODALITY_COLORS = {"loss": "#000000", "rna": PALETTE[0], "atac": PALETTE[1], "prot": PALETTE[2], "kl": GREY}

COLUMN = 3.5  # width of a journal column in inches, the width of a plot that is given no axes
_LETTER = 0.065  # inches that a letter of a legend takes at most, on average of a line
Drawn = TypeVar("Drawn", Axes, np.ndarray)
_WITHOUT_WINDOW = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}


@contextmanager
def style(ax: Axes | None = None) -> Iterator[float]:
    """Set the package's style inside the block, sized for ``ax``; yields the factor for sizes set by hand.

    Text and lines are made for a journal column and grow with the square root of the width of ``ax``, so that a
    poster panel keeps its proportions and a small panel stays readable.
    """
    scale = 1.0
    if ax is not None:
        width = ax.bbox.width / ax.figure.dpi
        scale = min(max((width / (0.75 * COLUMN)) ** 0.5, 0.8), 4.0)
    rc = {
        "font.size": 8 * scale,
        "axes.titlesize": 9 * scale,
        "axes.labelsize": 8 * scale,
        "xtick.labelsize": 7 * scale,
        "ytick.labelsize": 7 * scale,
        "legend.fontsize": 7 * scale,
        "axes.linewidth": 0.7 * scale,
        "lines.linewidth": 1.3 * scale,
        "lines.markersize": 4 * scale,
        "xtick.major.width": 0.7 * scale,
        "ytick.major.width": 0.7 * scale,
        "xtick.major.size": 2.5 * scale,
        "ytick.major.size": 2.5 * scale,
        "grid.color": "0.9",
        "grid.linewidth": 0.5 * scale,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": mpl.cycler(color=PALETTE),
        "image.cmap": SEQUENTIAL,
        "legend.frameon": False,
        "figure.dpi": 150,
    }
    with mpl.rc_context(rc):
        if ax is not None:
            _restyle(ax)
        yield scale


def _restyle(ax: Axes) -> None:
    """Bring axes that were made outside the style to it: rc settings act only where something is created."""
    rc = plt.rcParams
    ax.title.set_size(rc["axes.titlesize"])
    for name in ax._axis_names:
        axis = getattr(ax, f"{name}axis")
        axis.label.set_size(rc["axes.labelsize"])
        tick = f"{name if name != 'z' else 'x'}tick"
        axis.set_tick_params(
            labelsize=rc[f"{tick}.labelsize"],
            width=rc[f"{tick}.major.width"],
            length=rc[f"{tick}.major.size"],
        )
    for side, spine in ax.spines.items():
        spine.set_linewidth(rc["axes.linewidth"])
        spine.set_visible(side not in ("top", "right"))


def fitting(labels: list[str], room: float) -> tuple[list[str], int]:
    """Labels and columns of a legend for ``room`` inches: side by side where that fits, else wrapped and one below the other."""
    if _LETTER * sum(map(len, labels)) + 0.5 * len(labels) <= room:
        return labels, len(labels)
    letters = max(int((room - 0.5) / _LETTER), 12)
    return [fill(label, letters, break_on_hyphens=False) for label in labels], 1


def shortened(name: str, most: int = 24) -> str:
    """``name``, its end cut off where it has more than ``most`` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def finish(fig: Figure, ax: Drawn, show: bool | None, return_fig: bool) -> Drawn | Figure | None:
    """Hand a plot back the way scanpy does.

    ``return_fig`` gives the figure. Else ``show=True`` shows it and gives nothing, ``show=False`` gives the axes, and
    ``show=None`` shows it where the backend has a window or a notebook, and gives the axes where it has not.
    Plots that were handed axes pass ``bool(show)``: their caller shows the figure.
    """
    if return_fig:
        return fig
    if show is None:
        show = mpl.get_backend().lower() not in _WITHOUT_WINDOW
    if not show:
        return ax
    plt.show()
    return None

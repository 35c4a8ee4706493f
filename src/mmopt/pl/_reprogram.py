"""The best sets of interventions, and what more of them gain, beside what chance finds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from mudata import MuData

from mmopt import _keys
from mmopt.pl._figure import COLUMN, GREY, PALETTE, finish, shortened, style
from mmopt.pl._slots import read

_BAND = "0.88"
_MARKS = {"knockout": "−", "overexpress": "+"}


def reprogram(
    mdata: MuData,
    *,
    key: str = _keys.REPROGRAM,
    n_top: int = 10,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot a reprogramming: number of factors against progress, and the best sets with intervals and null band.

    Parameters
    ----------
    mdata
        The data with the result of :func:`mmopt.tl.reprogram`.
    key
        Its slot.
    n_top
        Sets in the ranking.
    width
        Of the figure in inches: 3.5 for one column of a page, 7 for two.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (a 1-d array): the front and the ranking. The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        No such result.
    ValueError
        ``n_top`` below 1.

    Notes
    -----
    Progress is 0 where nothing is gained and 1 where the cells are the target's as much as its own centre is. Lines
    are 90 % of the ensemble. Grey: what 95 % of the best sets of networks with shuffled targets stay within. Filled points
    are beyond it. ``+`` over-expression, ``−`` knock-out; orange squares: the sets the difference of marker genes would take.

    Examples
    --------
    >>> mm.tl.reprogram(mdata, "HSC", "Erythroid", groupby="cell_type")  # doctest: +SKIP
    >>> mm.pl.reprogram(mdata)  # doctest: +SKIP
    """
    if n_top < 1:
        raise ValueError(f"n_top must be at least 1, got {n_top}")
    slot = read(mdata, key, "mm.tl.reprogram(mdata, source, target)", ("ranking", "pareto", "params"))
    pareto, params = slot["pareto"], slot["params"]
    top = slot["ranking"].head(n_top).iloc[::-1]
    two = width > 1.5 * COLUMN
    with style():
        height = max(0.19 * len(top) + 0.9, 2.0)
        size = (width, height + 0.6) if two else (width, 2.1 + height + 0.6)
        ratios = {"width_ratios": [1, 1.5]} if two else {"height_ratios": [2.1, height]}
        fig, axes = plt.subplots(
            1 if two else 2, 2 if two else 1, figsize=size, layout="constrained", gridspec_kw=ratios
        )
        _front(axes[0], pareto)
        _ranking(axes[1], top, pareto)
        handles = [
            Patch(color=_BAND, label="95 % of shuffled networks"),
            Line2D([], [], color=PALETTE[0], marker="o", label="search, 90 % of the ensemble"),
            Line2D([], [], color=PALETTE[1], marker="s", linestyle="", label="marker difference"),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3 if two else 1)
        verdict = "" if bool(slot["significant"]) else " · not beyond chance"
        title = f"{params['source']} → {params['target']}{verdict}"
        fig.suptitle(title, fontsize=plt.rcParams["axes.titlesize"])
        return finish(fig, axes, show, return_fig)


def _front(ax: Axes, pareto: pd.DataFrame) -> None:
    by_search = pareto[pareto["method"] != "marker difference"].sort_values("n_factors")
    by_marker = pareto[pareto["method"] == "marker difference"]
    n, made = by_search["n_factors"].to_numpy(), by_search["progress"].to_numpy()
    # bars of one set size each: between sizes there is nothing
    ax.bar(n, by_search["null95"], width=0.8, color=_BAND, zorder=0)
    ax.axhline(0, color=GREY, linewidth=0.7, zorder=1)
    ax.plot(n, made, color=PALETTE[0], zorder=2)
    ax.vlines(n, by_search["q05"], by_search["q95"], color=PALETTE[0], zorder=2)
    _points(ax, n, made, by_search["significant"].to_numpy(dtype=bool), PALETTE[0], "o")
    _points(
        ax,
        by_marker["n_factors"].to_numpy() + 0.15,
        by_marker["progress"].to_numpy(),
        by_marker["significant"].to_numpy(dtype=bool),
        PALETTE[1],
        "s",
    )
    ax.set_xticks(n)
    ax.set_xlim(-0.5, n.max() + 0.5)
    ax.set_xlabel("Interventions")
    ax.set_ylabel("Progress to the target")


def _ranking(ax: Axes, top: pd.DataFrame, pareto: pd.DataFrame) -> None:
    y, made = np.arange(len(top)), top["progress"].to_numpy()
    band = pareto.drop_duplicates("n_factors").set_index("n_factors")["null95"]
    ax.barh(y, band.reindex(top["n_factors"]).to_numpy(), height=1.0, color=_BAND, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.7, zorder=1)
    ax.hlines(y, top["q05"], top["q95"], color=PALETTE[0], zorder=2)
    chosen = pareto.loc[pareto["method"] == "marker difference", ["factors", "modes"]]
    marked = top[["factors", "modes"]].apply(tuple, axis=1).isin(chosen.apply(tuple, axis=1)).to_numpy()
    sure = top["significant"].to_numpy(dtype=bool)
    for of, color, marker in ((~marked, PALETTE[0], "o"), (marked, PALETTE[1], "s")):
        _points(ax, made[of], y[of], sure[of], color, marker)
    names = [_named(f, m) for f, m in zip(top["factors"], top["modes"], strict=True)]
    ax.set_yticks(y, labels=names)
    ax.set_ylim(-0.7, len(top) - 0.3)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("Progress to the target")


def _points(ax: Axes, x: np.ndarray, y: np.ndarray, filled: np.ndarray, color: str, marker: str) -> None:
    face = np.where(filled, color, "white")
    ax.scatter(x, y, s=16, c=face, edgecolors=color, linewidths=0.9, marker=marker, zorder=3)


def _named(factors: str, modes: str) -> str:
    """``+GATA1 −SPI1``."""
    marks = [_MARKS[m] for m in modes.split("+")]
    names = factors.split("+") if len(marks) > 1 else [factors]
    if len(names) > len(marks):  # names with a plus in them: where one ends cannot be told
        return f"{''.join(marks)} {shortened(factors, 30)}"
    return "  ".join(m + shortened(f, 15) for f, m in zip(names, marks, strict=True))

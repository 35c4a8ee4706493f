"""Which optimizer fits held-out cells best, how much its learning rate matters, and how sure that is."""

from collections.abc import Mapping
from itertools import cycle, product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation
from mudata import MuData

from mmopt._keys import OPTIMIZER_COMPARISON
from mmopt._student import half_width
from mmopt.pl._figure import COLUMN, GREY, PALETTE, finish, style
from mmopt.pl._slots import read, show_settled

BOUND = "Held-out negative bound\n(nats per cell)"


def optimizer_comparison(
    mdata: MuData,
    *,
    key: str = OPTIMIZER_COMPARISON,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot how optimizers compare on held-out cells.

    Parameters
    ----------
    mdata
        The data with the slot that :func:`mmopt.tl.compare_optimizers` wrote.
    key
        Name of the slot.
    width
        Of the figure in inches: 3.5 for one column of a page, 7 for two.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Three axes (a 1-d array): the held-out bound by epoch at each optimizer's best learning rate (mean over the seeds,
    thin lines are seeds); the bound by learning rate (mean over the seeds, small dots are seeds, a cross is a run that
    diverged); the difference to the reference, paired by seed, with its 95 % interval. The figure with
    ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        If there is no such comparison.

    Notes
    -----
    Lower is better everywhere. A mean is shown where no seed diverged. Values that would flatten all others run out of
    the axes; in the sweep, a triangle at the edge stands for such a mean. The interval is that of
    Student's t: with three seeds it is 4.3 standard errors to either side, with ten 2.3.

    Examples
    --------
    >>> mm.tl.compare_optimizers(mdata)  # doctest: +SKIP
    >>> mm.pl.optimizer_comparison(mdata)  # doctest: +SKIP
    """
    slot = read(mdata, key, "mm.tl.compare_optimizers(mdata)", ("runs", "curves", "summary"))
    runs, curves, summary = (slot[part] for part in ("runs", "curves", "summary"))
    looks = _looks(summary)
    with style():
        fig, axes = _panels(len(summary), width)
        _curves(axes[0], curves, summary, looks)
        _sweep(axes[1], runs, looks)
        _differences(axes[2], summary, looks)
        handles = [
            Line2D([], [], **looks[best.optimizer], marker="o", label=f"{best.optimizer} ({_rate(best)})")
            for best in summary.itertuples()
        ]
        if (runs["status"] != "ok").any():
            handles.append(Line2D([], [], color=GREY, linestyle="none", marker="x", label="a run diverged"))
        fig.legend(
            handles=handles,
            loc="outside upper center",
            ncols=2 if width < 5 else 3,
            title="Optimizer (its best learning rate)",
            title_fontsize=plt.rcParams["legend.fontsize"],
        )
    return finish(fig, axes, show, return_fig)


def _looks(summary: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Line style of each optimizer: the reference is black, the others go through the colours, then the dashes."""
    reference = _reference(summary)
    others = [name for name in summary["optimizer"] if name != reference]
    looks = product(("-", "--", ":"), PALETTE[:6])  # yellow is too faint for a line
    return {reference: {"color": "black", "linestyle": "-"}} | {
        name: {"color": color, "linestyle": dash}
        for name, (dash, color) in zip(others, cycle(looks), strict=False)
    }


def _reference(summary: pd.DataFrame) -> str:
    return summary.loc[summary["verdict"] == "reference", "optimizer"].iloc[0]


def _panels(n: int, width: float) -> tuple[Figure, np.ndarray]:
    """Three axes below or beside each other, with room for a row of text per optimizer in the last."""
    narrow = width < 5
    legend, rows = 0.2 + 0.16 * -(-n // (2 if narrow else 3)), 0.8 + 0.25 * max(n - 1, 2)
    if narrow:
        heights = [1.9, 1.9, rows]
        fig, axes = plt.subplots(
            3, 1, figsize=(width, legend + sum(heights)), height_ratios=heights, layout="constrained"
        )
    else:
        fig, axes = plt.subplots(1, 3, figsize=(width, legend + max(2.2, rows)), layout="constrained")
    return fig, axes


def _say(ax: Axes, text: str) -> None:
    """Fill a panel that has nothing to show."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY)
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
    ax.spines[:].set_visible(False)


def _rate(best: Any) -> str:
    return _short(best.lr) if np.isfinite(best.elbo) else "diverged"


def _short(rate: float) -> str:
    return np.format_float_scientific(rate, precision=2, trim="-", exp_digits=1)


def _curves(
    ax: Axes, curves: pd.DataFrame, summary: pd.DataFrame, looks: Mapping[str, Mapping[str, str]]
) -> None:
    ax.set(title="Training", xlabel="Epoch", ylabel=BOUND)
    drawn = []
    for best in summary.itertuples() if len(curves) else ():
        mine = curves[(curves["optimizer"] == best.optimizer) & (curves["lr"] == best.lr)]
        if mine.empty:
            continue
        seeds = mine.pivot(index="epoch", columns="seed", values="elbo_validation")
        look = looks[best.optimizer] | {"marker": "o" if len(seeds) == 1 else ""}
        ax.plot(seeds, **look, linewidth=0.5, alpha=0.5)
        if seeds.shape[1] == best.n_seeds:
            ax.plot(seeds.mean(axis=1), **look)
        drawn.append(seeds.to_numpy().ravel())
    if not drawn:
        return _say(ax, "Every run diverged")
    show_settled(ax, np.concatenate(drawn))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _sweep(ax: Axes, runs: pd.DataFrame, looks: Mapping[str, Mapping[str, str]]) -> None:
    ax.set(title="Learning-rate sweep", xlabel="Learning rate")
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel(BOUND)
    rates = np.unique(runs["lr"])
    if len(rates) == 1:
        return _say(ax, f"One learning rate only\n({_short(rates[0])})")
    elbo = runs["elbo"].where(runs["status"] == "ok") if "elbo" in runs else pd.Series(np.nan, runs.index)
    if elbo.isna().all():
        return _say(ax, "Every run diverged")
    top = show_settled(ax, elbo)
    ax.set_xscale("log")
    for place, (name, look) in enumerate(looks.items()):
        mine = runs["optimizer"] == name
        means = elbo[mine].groupby(runs["lr"]).agg(lambda values: values.mean(skipna=False))
        # side by side: at one rate there is a mark of every optimizer
        points = (place - (len(looks) - 1) / 2) * min(3, 20 / len(looks))
        aside = ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)
        data, edge = ax.transData + aside, ax.get_xaxis_transform() + aside
        plain = {"color": look["color"], "linestyle": "none", "markersize": 3}
        ax.plot(runs["lr"][mine], elbo[mine], ".", **plain, alpha=0.5, transform=data)
        ax.plot(means, **look, marker="o", markersize=3.5, transform=data)
        for marker, there in (("x", means.isna()), ("^", means > top)):
            marks = ax.plot(
                means.index[there], np.ones(there.sum()), marker, **plain, transform=edge, clip_on=False
            )
            marks[0].set_in_layout(False)
    margin = (rates[-1] / rates[0]) ** 0.15
    ax.set_xlim(rates[0] / margin, rates[-1] * margin)
    if len(rates) < 6:
        ax.xaxis.set_major_locator(FixedLocator(rates))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: _short(rate)))


def _differences(ax: Axes, summary: pd.DataFrame, looks: Mapping[str, Mapping[str, str]]) -> None:
    reference = _reference(summary)
    others = summary[summary["optimizer"] != reference]
    ax.set(title="Paired differences", xlabel=f"Difference to {reference}\n(nats per cell, 95 % interval)")
    if others.empty:
        return _say(ax, "One optimizer only:\nnothing to compare")
    if not np.isfinite(others["difference"]).any():
        return _say(ax, "Too many runs diverged\nto compare")
    ax.axvline(0, color="black", linewidth=0.8)
    for row, other in enumerate(others.itertuples()):
        text = "diverged"
        if np.isfinite(other.difference):
            color = looks[other.optimizer]["color"]
            ax.plot(other.difference, row, "o", color=color)
            verdict, text = other.verdict, f"{other.difference:+.3g}"
            if np.isfinite(other.difference_se):
                margin = half_width(other.n_seeds) * other.difference_se
                # in files of before two standard errors decided
                verdict = "tie" if abs(other.difference) <= margin else verdict
                ax.plot([other.difference - margin, other.difference + margin], [row, row], color=color)
                text += f" ± {margin:.2g}"
            text = f"{verdict}\n{text}"
        ax.text(1.03, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=6)
    ax.set_yticks(range(len(others)), labels=others["optimizer"])
    ax.set_ylim(len(others) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)

"""The course of a training: what every modality's fit gained, and which rate the optimizer took."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from mudata import MuData

from mmopt._checks import listed
from mmopt._keys import EMBEDDING, MODALITIES, fit_slot
from mmopt.pl._figure import COLUMN, GREY, MODALITY_COLORS, finish, style
from mmopt.pl._slots import MODALITY_NAMES, read, show_settled

BOUNDS = {"alpha_min": "lower", "alpha_max": "upper"}
STAGES = {
    "train": {"label": "Training", "linestyle": (0, (2.5, 1)), "linewidth": 0.8},
    "validation": {"label": "Held out", "linestyle": "-", "linewidth": 1.3},
}


def loss_curves(
    mdata: MuData,
    *,
    key: str = EMBEDDING,
    modalities: str | Sequence[str] | None = None,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot the training and held-out loss per epoch, by modality, and the learning rate per step.

    Parameters
    ----------
    mdata
        The data with the slot that :func:`mmopt.tl.integrate` wrote.
    key
        Key of the embedding (``"X_mmopt"``) or of its slot (``"mmopt"``).
    modalities
        Which of ``"rna"``, ``"atac"`` and ``"prot"`` to show; all by default.
    width
        Of the figure in inches: 3.5 for one column of a page, 7 for two.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (a 1-d array): the negative bound, the negative log-likelihood of each modality, the KL divergence, the
    learning rate. The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        If there is no such fit.
    ValueError
        If the fit does not have a modality.

    Notes
    -----
    Training values are means over an epoch in which the parameters still move, with dropout and fresh noise; held-out
    values are taken at the end of the epoch, without dropout, with fixed noise, from averaged parameters. Training curves can therefore lie above held-out ones without anything being wrong. Values of a
    modality are per cell in which it was measured, so that modalities need not add up to the bound. Early epochs that
    would flatten the rest run out of the axes. Several networks have a line each. The rate is
    that of the steps, warm-up included; the bounds of the base rate are drawn where the fit was given them.

    Examples
    --------
    >>> mm.tl.integrate(mdata)  # doctest: +SKIP
    >>> mm.pl.loss_curves(mdata, width=3.5)  # doctest: +SKIP
    """
    slot = read(mdata, fit_slot(key), "mm.tl.integrate(mdata)", ("history", "steps", "params"))
    history = slot["history"]
    panels = {"Negative bound": ("elbo", MODALITY_COLORS["loss"])}
    panels |= {MODALITY_NAMES[m]: (f"nll_{m}", MODALITY_COLORS[m]) for m in _chosen(history, modalities)}
    panels["KL divergence"] = ("kl_local", MODALITY_COLORS["kl"])
    with style():
        fig, axes = _grid(len(panels) + 1, width)
        for ax, (title, (column, color)) in zip(axes, panels.items(), strict=False):
            _curves(ax, history, column, color)
            ax.set_title(title)
        _rate(axes[-1], slot["steps"], slot["params"])
        handles = [
            Line2D([], [], color="black", **look, **_marker(history, stage))
            for stage, look in STAGES.items()
            if f"elbo_{stage}" in history
        ]
        fig.align_ylabels()
        fig.legend(handles=handles, loc="outside upper center", ncols=2)
    return finish(fig, axes, show, return_fig)


def _chosen(history: pd.DataFrame, modalities: str | Sequence[str] | None) -> list[str]:
    there = [m for m in MODALITIES if f"nll_{m}_train" in history]
    if modalities is None:
        return there
    chosen = [modalities] if isinstance(modalities, str) else list(modalities)
    unknown = [m for m in chosen if m not in there]
    if unknown:
        raise ValueError(f"modalities={listed(unknown)}: the fit has {listed(there)}")
    return chosen


def _grid(n: int, width: float) -> tuple[Figure, np.ndarray]:
    """Axes row by row, two or three to a row; the last one takes what is left of its row."""
    columns = 2 if width < 5 else 3
    rows = -(-n // columns)
    fig = plt.figure(figsize=(width, 0.3 + rows * (1.3 if columns == 2 else 1.6)), layout="constrained")
    grid = fig.add_gridspec(rows, columns)
    axes = [fig.add_subplot(grid[i // columns, i % columns]) for i in range(n - 1)]
    axes.append(fig.add_subplot(grid[rows - 1, (n - 1) % columns :]))
    return fig, np.array(axes)


def _curves(ax: Axes, history: pd.DataFrame, column: str, color: str) -> None:
    shown = {stage: f"{column}_{stage}" for stage in STAGES if f"{column}_{stage}" in history}
    for stage, name in shown.items():
        for run in _of_each_network(history):
            ax.plot(run["epoch"], run[name], color=color, **STAGES[stage], **_marker(run, stage))
    show_settled(ax, history[list(shown.values())])
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.set(xlabel="Epoch")
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel("Nats per cell")


def _of_each_network(table: pd.DataFrame) -> list[pd.DataFrame]:
    return [run for _, run in table.groupby("network")] if "network" in table else [table]


def _marker(history: pd.DataFrame, stage: str) -> dict[str, str]:
    """One epoch makes no line."""
    return {"marker": "o", "fillstyle": "none" if stage == "train" else "full"} if len(history) == 1 else {}


def _rate(ax: Axes, steps: pd.DataFrame, params: Mapping[str, Any]) -> None:
    ax.set_yscale("log")
    for run in _of_each_network(steps):
        ax.plot(run["step"], run["rate"], color="black", linewidth=1, marker="o" if len(run) == 1 else "")
    shown = [*steps["rate"][steps["rate"] > 0].quantile([0, 1])]
    for name, side in BOUNDS.items():
        if f"optimizer_{name}" in params:
            bound = float(params[f"optimizer_{name}"])
            shown.append(bound)
            ax.axhline(bound, color=GREY, linestyle=":", linewidth=0.8)
            # outside the band, at the end: a warm-up starts below it
            va, away = ("bottom", 1) if side == "upper" else ("top", -1)
            place: dict[str, Any] = {
                "va": va,
                "ha": "right",
                "xytext": (0, away),
                "textcoords": "offset points",
            }
            place |= {"color": GREY, "fontsize": 7}
            ax.annotate(f"{side} bound", (1, bound), xycoords=ax.get_yaxis_transform(), **place)
    ax.set_ylim(min(shown) / 2.5, max(shown) * 2.5)
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.set(title=params["optimizer"], xlabel="Step", ylabel="Learning rate")

"""A screen at a glance: which perturbation moves which feature, and how surely."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mudata import MuData
from scipy.cluster.hierarchy import leaves_list, linkage

from mmopt import _keys
from mmopt._checks import listed
from mmopt.pl._figure import COLUMN, DIVERGING, GREY, finish, shortened, style
from mmopt.pl._slots import read

_DIRECT = "0.8"
_NOT_KEPT = {"facecolor": "white", "edgecolor": "0.8", "hatch": "//////", "linewidth": 0}


def screen(
    mdata: MuData,
    *,
    modality: str | None = None,
    group: str = "all",
    n_perturbations: int = 30,
    n_features: int = 40,
    key: str = _keys.SCREEN,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot the effects of a screen as a heat map, similar perturbations and features side by side.

    Parameters
    ----------
    mdata
        The data with the result of :func:`mmopt.tl.screen`.
    modality
        Name of the modality; default: the first.
    group
        Group of cells.
    n_perturbations, n_features
        How many to show: the perturbations with the largest effects in the group, and the features they move most.
    key
        Slot of the screen.
    width
        Of the figure in inches: 3.5 for one column of a page, 7 for two.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (a 1-d array of one). The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        No screen, no such modality or group.

    Notes
    -----
    Dots mark effects whose 90 % interval leaves out 0. What a perturbation sets itself is grey; hatched are effects that the screen
    did not keep (``n_top``).

    Examples
    --------
    >>> mm.tl.screen(mdata)  # doctest: +SKIP
    >>> mm.pl.screen(mdata)  # doctest: +SKIP
    """
    if n_perturbations < 1 or n_features < 1:
        raise ValueError(f"at least one perturbation and feature: got {n_perturbations=}, {n_features=}")
    slot = read(mdata, key, "mm.tl.screen(mdata)", ("effects", "ranking"))
    effects, ranking = slot["effects"], slot["ranking"]
    modalities = list(dict.fromkeys(effects["modality"].astype(str)))
    modality = modalities[0] if modality is None else modality
    if modality not in modalities:
        raise KeyError(f"modality={modality!r}: the screen has {listed(modalities)}")
    groups, group = list(dict.fromkeys(effects["group"].astype(str))), str(group)
    if group not in groups:
        raise KeyError(f"group={group!r}: the screen has the groups {listed(groups, 20)}")
    chosen = ranking.loc[(ranking["group"].astype(str) == group).to_numpy(), "perturbation"].astype(str)
    table = effects[
        (effects["modality"].astype(str) == modality).to_numpy()
        & (effects["group"].astype(str) == group).to_numpy()
        & effects["perturbation"].astype(str).isin(chosen[:n_perturbations]).to_numpy()
    ]
    table = table.assign(
        perturbation=table["perturbation"].astype(str),
        delta=table["delta"].where(~table["direct"].astype(bool)),
        sure=((table["q05"] > 0) | (table["q95"] < 0)) & ~table["direct"].astype(bool),
    )
    wide = table.pivot(index="perturbation", columns="feature", values="delta")
    wide = wide.loc[:, wide.abs().max().sort_values(ascending=False).index[:n_features]]
    wide = wide.iloc[_similar(wide.to_numpy()), _similar(wide.to_numpy().T)]
    sure, direct = (
        table.pivot(index="perturbation", columns="feature", values=of).reindex_like(wide).eq(True)
        for of in ("sure", "direct")
    )
    notes = []
    if direct.any(axis=None):
        notes.append(Patch(facecolor=_DIRECT, label="set by the perturbation"))
    if (wide.isna() & ~direct).any(axis=None):
        notes.append(Patch(**_NOT_KEPT, label="not kept (n_top)"))
    with style():
        height = 0.9 + 0.15 * len(wide) + 0.055 * max(map(len, map(str, wide.columns))) + 0.2 * bool(notes)
        fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
        limit = float(np.nanquantile(np.abs(wide.to_numpy()), 0.98)) if wide.notna().any(axis=None) else 1.0
        # squares without a value let the background through
        ax.patch.set(**_NOT_KEPT)
        image = ax.imshow(
            wide, cmap=DIVERGING, vmin=-(limit or 1), vmax=limit or 1, aspect="auto", interpolation="none"
        )
        own = np.ma.masked_equal(direct.to_numpy(dtype=float), 0)
        ax.imshow(own, cmap=ListedColormap([_DIRECT]), aspect="auto", interpolation="none")
        if notes:
            fig.legend(handles=notes, loc="outside lower center", ncols=len(notes))
        y, x = np.nonzero(sure)
        ax.scatter(x, y, s=3, color="black", linewidths=0)
        _label(ax, wide, width)
        bar = fig.colorbar(image, ax=ax, shrink=0.6, pad=0.01, extend="both")
        bar.set_label("Effect")
        bar.outline.set_visible(False)
        ax.set_title(f"{modality} · {group}", color=GREY)
        return finish(fig, np.array([ax]), show, return_fig)


def _similar(values: np.ndarray) -> np.ndarray:
    """Order of rows in which similar ones are neighbours."""
    if len(values) < 3:
        return np.arange(len(values))
    return leaves_list(linkage(np.nan_to_num(values), "average", optimal_ordering=True))


def _label(ax, wide: pd.DataFrame, width: float) -> None:
    rows = [shortened(str(name), 34) for name in wide.index]
    ax.set_yticks(range(len(wide)), labels=rows, fontsize=6)
    room = max(width - 0.055 * max(map(len, rows)) - 0.9, 0.5)
    # a name needs about a tenth of an inch
    step = max(1, int(np.ceil(wide.shape[1] / (room / 0.105))))
    at = np.arange(0, wide.shape[1], step)
    ax.set_xticks(at, labels=[str(wide.columns[i])[:24] for i in at], rotation=90, fontsize=6)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)

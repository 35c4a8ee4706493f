"""The largest effects of one perturbation, with their intervals and what chance would give."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from mudata import MuData

from mmopt import _keys
from mmopt._checks import listed
from mmopt.pl._figure import COLUMN, GREY, MODALITY_COLORS, PALETTE, finish, shortened, style
from mmopt.pl._slots import MODALITY_NAMES, check_parts, chosen_result, read

_BAND = "0.88"


def perturbation(
    mdata: MuData,
    key: str | None = None,
    *,
    group: str = "all",
    n_top: int = 12,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot the largest effects of a perturbation in each modality.

    Parameters
    ----------
    mdata
        The data with the result of :func:`mmopt.tl.perturb`.
    key
        Name of the result, such as ``"GATA1_knockout"``; may be left out where there is one.
    group
        Group of cells.
    n_top
        Features per modality.
    width
        Of the figure in inches: 3.5 for one column of a page, 7 for two.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (a 1-d array), one per modality. The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        No such result or group.

    Notes
    -----
    Lines are 90 % intervals. The grey band is what 95 % of the features of networks with shuffled targets stay within.
    Filled points are outside of it. What the intervention sets itself is not shown.

    Examples
    --------
    >>> mm.tl.perturb(mdata, "GATA1")  # doctest: +SKIP
    >>> mm.pl.perturbation(mdata, "GATA1_knockout")  # doctest: +SKIP
    """
    if n_top < 1:
        raise ValueError(f"n_top must be at least 1, got {n_top}")
    results = read(mdata, _keys.PERTURB, "mm.tl.perturb(mdata, ...)", ())
    key = chosen_result(results, key)
    check_parts(
        results[key], f"mdata.uns['perturb'][{key!r}]", "mm.tl.perturb(mdata, ...)", ("effects", "groups")
    )
    effects, groups = results[key]["effects"], results[key]["groups"]
    # groups of an integer column are named by their text
    names, group = effects["group"].astype(str), str(group)
    if group not in set(names):
        raise KeyError(f"group={group!r}: {key!r} has the groups {listed(names.unique(), 20)}")
    here = effects[(names == group).to_numpy() & ~effects["direct"].to_numpy(dtype=bool)]
    modalities = list(dict.fromkeys(here["modality"].astype(str)))
    tops = [_top(here[(here["modality"].astype(str) == m).to_numpy()], n_top) for m in modalities]
    with style():
        rows = max(map(len, tops))
        columns = len(tops) if width > 1.5 * COLUMN else 1
        fig, axes = plt.subplots(
            -(-len(tops) // columns),
            columns,
            figsize=(width, (0.17 * rows + 0.75) * -(-len(tops) // columns) + 0.75),
            squeeze=False,
            layout="constrained",
        )
        axes = axes.ravel()
        known = results[key].get("params", {}).get("modalities", {})
        for ax, name, top in zip(axes, modalities, tops, strict=True):
            role = _role(name, known)
            _forest(ax, role, top)
            ax.set_title(MODALITY_NAMES.get(role, name))
            ax.set_xlabel("Change of the CLR" if role == "prot" else "Change of log1p CP10k")
        handles = [
            Patch(color=_BAND, label="95 % of shuffled networks"),
            Line2D([], [], color=GREY, marker="o", label="effect, 90 % interval"),
            Line2D(
                [], [], color=GREY, marker="o", markerfacecolor="white", linestyle="", label="within chance"
            ),
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3 if columns > 1 else 1)
        cells = groups.loc[(groups["group"].astype(str) == group).to_numpy(), "n_cells"].iloc[0]
        title = shortened(key.replace("_", " "), 38)
        fig.suptitle(f"{title} · {group} ({int(cells):,} cells)", fontsize=plt.rcParams["axes.titlesize"])
        return finish(fig, axes, show, return_fig)


def _role(name: str, known: Mapping[str, str]) -> str:
    """Role of a modality as the result has it; by its usual names in results that say nothing."""
    if name in known.values():
        return next(role for role, other in known.items() if other == name)
    return next((role for role, aliases in _keys.ALIASES.items() if name.lower() in aliases), name)


def _top(effects: pd.DataFrame, n: int) -> pd.DataFrame:
    largest = effects.reindex(effects["delta"].abs().sort_values(ascending=False).index[:n])
    return largest.sort_values("delta")


def _forest(ax: Axes, role: str, top: pd.DataFrame) -> None:
    y = np.arange(len(top))
    color = MODALITY_COLORS.get(role, PALETTE[0])
    delta, band = top["delta"].to_numpy(), np.nan_to_num(top["null95"].to_numpy())
    ax.barh(y, 2 * band, left=-band, height=1.0, color=_BAND, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.7, zorder=1)
    ax.hlines(y, top["q05"], top["q95"], color=color, zorder=2)
    beyond = np.abs(delta) > band
    ax.scatter(delta, y, s=14, c=np.where(beyond, color, "white"), edgecolors=color, linewidths=0.9, zorder=3)
    ax.set_yticks(y, labels=[shortened(f) for f in top["feature"].astype(str)])
    ax.set_ylim(-0.7, max(len(top) - 0.3, 0.7))
    ax.tick_params(axis="y", length=0)

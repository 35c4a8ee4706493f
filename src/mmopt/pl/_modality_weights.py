"""How much each modality decides about where a cell lies in the embedding."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, PercentFormatter
from mudata import MuData

from mmopt._checks import check_mudata, obs_column
from mmopt._keys import EMBEDDING, MODALITIES, weight_column
from mmopt.pl._figure import COLUMN, GREY, MODALITY_COLORS, finish, shortened, style
from mmopt.pl._slots import MODALITY_NAMES

MOST_GROUPS = 100


def modality_weights(
    mdata: MuData,
    groupby: str | None = None,
    *,
    key: str = EMBEDDING,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot the share of each modality in the precision of the cells' posteriors, averaged by group.

    Parameters
    ----------
    mdata
        The data with the columns that :func:`mmopt.tl.integrate` wrote to ``mdata.obs``.
    groupby
        Column of groups, in ``mdata.obs`` or the modalities' ``obs``; all cells are one group by default.
    key
        Key of the embedding.
    width
        Of the figure in inches: 3.5 for one column of a page, 7 for two.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (a 1-d array), one for every set of modalities that cells have. The figure with ``return_fig``, nothing when
    shown.

    Raises
    ------
    KeyError
        If there are no weights for ``key``, or no column ``groupby``.
    ValueError
        If ``groupby`` has too many values to be groups.

    Notes
    -----
    The weight of a modality that a cell lacks is 0, and that of its only modality 1, whatever the model thinks of them.
    Averages are therefore taken over cells with the same two or three modalities; the number of cells is beside the
    bars. Cells with one modality are counted but not shown.

    Examples
    --------
    >>> mm.tl.integrate(mdata)  # doctest: +SKIP
    >>> mm.pl.modality_weights(mdata, "cell_type")  # doctest: +SKIP
    """
    check_mudata(mdata)
    weights = _weights(mdata, key)
    codes, names = _groups(mdata, groupby)
    measured = weights > 0
    n_modalities = measured.sum(axis=1)
    sets = measured[n_modalities > 1].drop_duplicates().sort_values(list(weights), ascending=False)
    alone = int((n_modalities == 1).sum())
    with style():
        fig, axes = _panels(max(len(sets), 1), names, width)
        if sets.empty:
            text = f"No cell has two modalities\n({alone:,} have one)"
            axes[0].text(0.5, 0.5, text, transform=axes[0].transAxes, ha="center", va="center", color=GREY)
            axes[0].set_axis_off()
            return finish(fig, axes, show, return_fig)
        for ax, (_, members) in zip(axes, sets.iterrows(), strict=True):
            chosen = (measured == members).all(axis=1).to_numpy()
            _bars(ax, weights.loc[chosen, members.index[members]], codes[chosen], len(names))
        handles = [Patch(color=MODALITY_COLORS[m], label=MODALITY_NAMES[m]) for m in weights if sets[m].any()]
        fig.legend(handles=handles, loc="outside upper center", ncols=3)
        note = f"\n({alone:,} cells with one modality are not shown)" if alone else ""
        fig.supxlabel(f"Mean share of the posterior precision{note}", fontsize=plt.rcParams["axes.labelsize"])
    return finish(fig, axes, show, return_fig)


def _weights(mdata: MuData, key: str) -> pd.DataFrame:
    columns = {m: weight_column(m, key) for m in MODALITIES}
    there = {m: column for m, column in columns.items() if column in mdata.obs}
    if not there:
        raise KeyError(
            f"mdata.obs has no {columns['rna']!r} or the like; call `mm.tl.integrate(mdata)` first"
        )
    return pd.DataFrame({m: mdata.obs[column].fillna(0) for m, column in there.items()})


def _groups(mdata: MuData, groupby: str | None) -> tuple[np.ndarray, list[str]]:
    """Group of each cell as an integer, and the groups' names."""
    if groupby is None:
        return np.zeros(mdata.n_obs, dtype=int), ["All cells"]
    groups = pd.Categorical(obs_column(mdata, groupby)).remove_unused_categories()
    names = [str(name) for name in groups.categories]
    if len(names) > MOST_GROUPS:
        raise ValueError(
            f"groupby={groupby!r} has {len(names)} values; choose a column with {MOST_GROUPS} groups or fewer"
        )
    codes = groups.codes.astype(int)
    if (codes < 0).any():
        names.append("no value")
        codes[codes < 0] = len(names) - 1
    return codes, names


def _panels(n: int, names: list[str], width: float) -> tuple[Figure, np.ndarray]:
    letter = 0.055  # inches, on average
    names = [shortened(name, max(int((width - 1.6) / letter), 12)) for name in names]
    room = width - letter * max(map(len, names))
    columns = min(n, 4, max(1, int(room / 1.1)))
    rows = -(-n // columns)
    height = 0.7 + rows * (0.45 + 0.15 * max(len(names), 2))
    fig, axes = plt.subplots(
        rows, columns, figsize=(width, height), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for ax in axes.flat[n:]:
        ax.remove()
    axes = axes.flat[:n]
    for ax in axes[-columns:]:  # some have nothing below them
        ax.tick_params(labelbottom=True)
    axes[0].set_yticks(range(len(names)), labels=names)
    axes[0].set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes[0].xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    axes[0].xaxis.set_major_formatter(PercentFormatter(1))
    return fig, axes


def _bars(ax: Axes, weights: pd.DataFrame, codes: np.ndarray, n_groups: int) -> None:
    means = weights.groupby(codes).mean()
    left = np.zeros(len(means))
    for modality, share in means.items():
        ax.barh(means.index, share, left=left, height=0.8, color=MODALITY_COLORS[modality], edgecolor="white")
        left += share.to_numpy()
    for group, n in enumerate(np.bincount(codes, minlength=n_groups)):
        ax.text(1.03, group, f"{n:,}", va="center", fontsize=6, color=GREY)
    ax.set_title(" + ".join(MODALITY_NAMES[m] for m in weights) + f"\n{len(weights):,} cells")
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "bottom"]].set_visible(False)

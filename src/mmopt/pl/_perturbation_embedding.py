"""Where a perturbation moves the cells of an embedding, beside where a network with shuffled targets moves them."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mudata import MuData
from scipy.spatial import cKDTree

from mmopt import _keys
from mmopt._checks import listed
from mmopt.pl._figure import COLUMN, GREY, PALETTE, finish, style
from mmopt.pl._slots import chosen_result, read

_NEIGHBOURS, _LEAST_CELLS = 15, 5


def perturbation_embedding(
    mdata: MuData,
    key: str | None = None,
    *,
    basis: str = "X_umap",
    use_rep: str = _keys.EMBEDDING,
    n_grid: int = 18,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot arrows of a perturbation's shift, and the same for a network with shuffled targets.

    Parameters
    ----------
    mdata
        The data with the result of :func:`mmopt.tl.perturb`, called with a ``model``.
    key
        Name of the result, such as ``"GATA1_knockout"``; may be left out where there is one.
    basis
        Two-dimensional embedding in ``mdata.obsm`` to draw in; made from ``use_rep``. ``"umap"`` means ``"X_umap"``.
    use_rep
        Embedding of the model.
    n_grid
        Arrows along each side.
    width
        Of the figure in inches.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (a 1-d array): the perturbation and its null. The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        No such result or embedding, or a result without a model.
    ValueError
        A basis that is not two-dimensional, ``n_grid`` below 2.

    Notes
    -----
    A cell's arrow goes from the mean place of its neighbours in the model's embedding to that of the neighbours of its
    shifted version, averaged over a grid. Both panels have one scale. Arrows of shuffled networks look convincing too: what
    differs between the panels is what the network says.

    Examples
    --------
    >>> mm.tl.perturb(mdata, "GATA1", model=model)  # doctest: +SKIP
    >>> mm.pl.perturbation_embedding(mdata, "GATA1_knockout")  # doctest: +SKIP
    """
    if n_grid < 2:
        raise ValueError(f"n_grid must be at least 2, got {n_grid}")
    if basis not in mdata.obsm and f"X_{basis}" in mdata.obsm:  # scanpy takes either
        basis = f"X_{basis}"
    key = chosen_result(read(mdata, _keys.PERTURB, "mm.tl.perturb(mdata, ...)", ()), key)
    moved, null = _keys.shifted_embedding(key), _keys.null_embedding(key)
    for slot, call in (
        (basis, "sc.pp.neighbors(mdata, use_rep='X_mmopt'); sc.tl.umap(mdata)"),
        (use_rep, "mm.tl.integrate(mdata)"),
        (moved, "mm.tl.perturb(mdata, ..., model=model)"),
        (null, "mm.tl.perturb(mdata, ..., model=model)"),
    ):
        if slot not in mdata.obsm:
            raise KeyError(
                f"mdata.obsm has no {slot!r} (it has {listed(mdata.obsm, 20)}); call `{call}` first"
            )
    place, latent = (np.asarray(mdata.obsm[k], dtype=float) for k in (basis, use_rep))
    if place.ndim != 2 or place.shape[1] != 2:
        raise ValueError(f"basis={basis!r} has shape {place.shape}: two dimensions are needed")
    panels = [_arrows(place, latent, np.asarray(mdata.obsm[k], dtype=float), n_grid) for k in (moved, null)]
    longest = max((np.linalg.norm(a[1], axis=1).max() for a in panels if len(a[1])), default=0.0)
    with style():
        two = width > 1.5 * COLUMN
        shape = (1, 2) if two else (2, 1)
        height = 0.5 * width + 0.2 if two else 2 * width
        fig, axes = plt.subplots(*shape, figsize=(width, height), layout="constrained")
        titles = (key.replace("_", " "), "shuffled targets")
        for ax, arrows, title, color in zip(axes, panels, titles, (PALETTE[0], GREY), strict=True):
            _panel(ax, place, *arrows, longest, n_grid, color)
            ax.set_title(title if len(title) < 40 else title[:37] + "…")
        return finish(fig, axes, show, return_fig)


def _arrows(
    place: np.ndarray, latent: np.ndarray, shifted: np.ndarray, n_grid: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give starts and mean arrows of the grid's squares with enough cells, ``(n, 2)`` each."""
    known = np.isfinite(shifted).all(1) & np.isfinite(latent).all(1) & np.isfinite(place).all(1)
    source = np.flatnonzero(np.isfinite(latent).all(1) & np.isfinite(place).all(1))
    tree = cKDTree(latent[source])
    k = min(_NEIGHBOURS, len(source))
    before, after = (
        place[source[tree.query(x[known], k=[*range(1, k + 1)])[1]]].mean(1) for x in (latent, shifted)
    )
    low, high = place[source].min(0), place[source].max(0)
    square = np.minimum(
        ((place[known] - low) / np.maximum(high - low, 1e-12) * n_grid).astype(int), n_grid - 1
    )
    number, inverse, count = np.unique(
        square[:, 0] * n_grid + square[:, 1], return_inverse=True, return_counts=True
    )
    kept = count >= min(_LEAST_CELLS, max(len(inverse) // (4 * n_grid), 1))
    mean = [
        np.stack([np.bincount(inverse, x[:, d], len(number)) / count for d in (0, 1)], axis=1)
        for x in (place[known], after - before)
    ]
    return mean[0][kept], mean[1][kept]


def _panel(
    ax: Axes,
    place: np.ndarray,
    start: np.ndarray,
    arrow: np.ndarray,
    longest: float,
    n_grid: int,
    color: str,
) -> None:
    ax.scatter(*place.T, s=2, color="0.85", linewidths=0, zorder=0, rasterized=True)
    if len(start):
        # the longest arrow of both panels spans a square and a half of the grid
        side = max(np.ptp(place, axis=0).max() / n_grid, 1e-12)
        drawn = arrow * (1.5 * side / longest if longest > 0 else 0)
        ax.quiver(
            *start.T, *drawn.T, color=color, angles="xy", scale_units="xy", scale=1, width=0.006, zorder=2
        )
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)

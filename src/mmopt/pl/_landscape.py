"""The loss around a fit as bands, contours and surfaces.

The slot, ``mdata.uns["landscape"]``, holds arrays, strings, numbers and dicts of these only:

========================== ============================================================================================
``directions``             ``"random"``, ``"trajectory"``, ``"hessian"`` or ``"path"``
``x``                      ``(n,)`` positions along the first direction; 0 is the fit (for a path: 0 and 1 the two fits)
``y``                      ``(m,)`` positions along the second direction; absent for lines and paths
``loss``, ``loss_<part>``  the total and its parts (``loss_rna``, …): ``(m, n)`` for a plane, ``(n,)`` or
                           ``(repeats, n)`` for lines
``x_label``, ``y_label``   optional axis labels instead of those that the entries below give
``trajectory``             optional ``(k, 2)``: checkpoints in the plane, in the order of training, then the fit
                           (``(k, 1)`` for lines)
``explained_variance``     optional ``(2,)`` (``(1,)`` for lines), with ``null_explained_variance`` for a random walk
``hessian_eigenvalues``    optional ``(2,)`` (``(1,)`` for lines)
``barrier``                for a path: ``"loss"`` or a part to the height of the barrier
========================== ============================================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LightSource, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from mudata import MuData

from mmopt._compat import rasterize
from mmopt._keys import LANDSCAPE
from mmopt.pl._figure import COLUMN, GREY, MODALITY_COLORS, SEQUENTIAL, finish, style
from mmopt.pl._slots import read

NAMES = {
    "loss": "Loss",
    "rna": "RNA loss",
    "atac": "ATAC loss",
    "prot": "Protein loss",
    "kl": "KL divergence",
}
UNIT = "(nats per cell)"
RISE = f"Loss above lowest {UNIT}"
KINDS = ("line", "contour", "surface")


def landscape(
    mdata: MuData,
    *,
    key: str = LANDSCAPE,
    modality: str | Sequence[str] | None = None,
    kind: Literal["line", "contour", "surface"] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Plot the loss around a fit that ``mm.tl.landscape`` stored.

    Parameters
    ----------
    mdata
        The data with the slot in ``.uns``.
    key
        Name of the slot.
    modality
        Part of the loss to show, ``"rna"``, ``"atac"``, ``"prot"`` or ``"kl"``; the total by default. Lines accept
        several.
    kind
        ``"line"``, ``"contour"`` or ``"surface"``; by default lines where the slot has one axis, else contours. The
        lines of a plane are its two cross-sections through the fit.
    ax
        Axes to draw into, with ``projection="3d"`` for a surface. Text grows with them.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    The axes, the figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        If the slot, or that part of the loss, is not there.
    ValueError
        If ``kind`` does not fit the slot or the axes.

    Notes
    -----
    Heights are above the lowest value of the grid, logarithmic where a few points dwarf the rest. A plane shows two of
    many thousand dimensions: a smooth bowl here does not make the fit a minimum.

    A dotted line leads from the last iterate of a trajectory to the fit, which is the average of the later iterates or the
    best of them.

    Pictures of planes are interpolated between the points of the grid, through all of them. Where the loss is not
    finite contours are grey and a surface stays at its rim.

    Examples
    --------
    >>> mm.tl.landscape(mdata, model)  # doctest: +SKIP
    >>> mm.pl.landscape(mdata, modality="rna", kind="surface")  # doctest: +SKIP
    """
    slot = read(mdata, key, "mm.tl.landscape(mdata, model)", ("directions", "x", "loss"))
    parts = _parts(slot, key, modality)
    kind = kind or ("contour" if "y" in slot else "line")
    _check_kind(kind, key, slot, parts, ax)
    own = ax is None
    with style(ax) as scale:
        if ax is None:
            ax = _axes(kind)
        if kind == "line":
            _lines(ax, slot, parts, scale)
        else:
            ((part, values),) = parts.items()
            (_contour if kind == "contour" else _surface)(ax, slot, _relief(values), scale)
            ax.set_title(NAMES.get(part, part))
    return finish(ax.figure, ax, show if own else bool(show), return_fig)


def _axes(kind: str) -> Axes:
    if kind != "surface":
        return plt.subplots(figsize=(COLUMN, 2.4 if kind == "line" else 2.9), layout="constrained")[1]
    # no layout engine knows where the labels of 3-D axes end
    return plt.figure(figsize=(COLUMN, 3.45)).add_axes((-0.05, 0.1, 1.0, 0.84), projection="3d")


def _parts(slot: Mapping[str, Any], key: str, modality: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    there = {
        name.removeprefix("loss_"): v
        for name, v in slot.items()
        if name == "loss" or name.startswith("loss_")
    }
    parts = {}
    names = [modality or "loss"] if isinstance(modality, str | None) else list(modality)
    if not names:
        raise ValueError(f"modality: an empty list; name one or more of {sorted(there)}")
    for name in names:
        if name not in there:
            raise KeyError(f"mdata.uns[{key!r}] has no loss {name!r}; choose from {sorted(there)}")
        parts[name] = np.asarray(there[name], float)
        if not np.isfinite(parts[name]).any():
            raise ValueError(
                f"{name!r} in mdata.uns[{key!r}] is nowhere finite; run `mm.tl.landscape` on a smaller span"
            )
    return parts


def _check_kind(
    kind: str, key: str, slot: Mapping[str, Any], parts: dict[str, np.ndarray], ax: Axes | None
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not known; choose one of {KINDS}")
    if kind != "line" and "y" not in slot:
        raise ValueError(f"mdata.uns[{key!r}] holds lines, not a plane; plot it with `kind='line'`")
    if kind != "line" and len(parts) > 1:
        raise ValueError(f"a {kind} shows one part of the loss; plot {list(parts)} one at a time")
    if ax is not None and (kind == "surface") != (ax.name == "3d"):
        raise ValueError(
            f"a {kind} needs {'3-D' if kind == 'surface' else 'flat'} axes, these are {ax.name!r}"
        )


def _labels(slot: Mapping[str, Any]) -> tuple[str, str]:
    if "explained_variance" in slot:
        shares = zip(slot["explained_variance"], slot["null_explained_variance"], strict=True)
        names = [f"PC {i}: {share:.0%} (random walk {null:.0%})" for i, (share, null) in enumerate(shares, 1)]
    elif "hessian_eigenvalues" in slot:
        names = [f"Eigenvector {i} (λ = {v:.4g})" for i, v in enumerate(slot["hessian_eigenvalues"], 1)]
    elif slot["directions"] == "path":
        names = ["Position between the two fits"]
    else:
        names = ["Random direction 1", "Random direction 2"] if "y" in slot else ["Random direction"]
    return slot.get("x_label", names[0]), slot.get("y_label", names[-1])


def _lines(ax: Axes, slot: Mapping[str, Any], parts: dict[str, np.ndarray], scale: float) -> None:
    x, (x_label, y_label) = np.asarray(slot["x"], float), _labels(slot)
    if "y" in slot:
        y = np.asarray(slot["y"], float)
        row, column = np.abs(y).argmin(), np.abs(x).argmin()
        sections = [(x, v[[row]], part, "-") for part, v in parts.items()]
        sections += [(y, v[:, column][None], part, "--") for part, v in parts.items()]
        x_label = f"— {x_label}\n- - {y_label}"
    else:
        sections = [(x, np.atleast_2d(v), part, "-") for part, v in parts.items()]
    for at, values, part, dash in sections:
        if len(parts) > 1:  # parts differ in size: show what each contributes to the change
            values = values - values[:, [np.abs(at).argmin()]]
        color = MODALITY_COLORS.get(part)
        (line,) = ax.plot(at, np.median(values, axis=0), dash, color=color, label=NAMES.get(part, part))
        if len(values) > 1:
            band = values.min(axis=0), values.max(axis=0)
            ax.fill_between(at, *band, color=line.get_color(), alpha=0.2, linewidth=0)
    path = slot["directions"] == "path"
    above = f"Loss above the {'first ' if path else ''}fit"
    ax.set(xlabel=x_label, ylabel=f"{above if len(parts) > 1 else NAMES.get(part, part)}\n{UNIT}")
    if len(parts) > 1:
        entries = (found[: len(parts)] for found in ax.get_legend_handles_labels())
        ax.legend(*entries, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    elif path:
        _barrier(ax, x, values[0], slot["barrier"][part])
    else:
        ax.plot(0, np.median(values[:, np.abs(at).argmin()]), **_star(scale))
        if len(values) > 1:
            ax.set_title(f"Median and range of {len(values)} directions")


def _barrier(ax: Axes, x: np.ndarray, loss: np.ndarray, height: float) -> None:
    """Mark both fits and the height of the path above the worse of them."""
    worse, top = max(loss[0], loss[-1]), loss.argmax()
    ax.plot(x[[0, -1]], loss[[0, -1]], "o", color="black")
    thin = {"color": GREY, "linewidth": plt.rcParams["axes.linewidth"]}
    ax.axhline(worse, linestyle=":", **thin)
    ax.vlines(x[top], worse, loss[top], **thin)
    ax.set_title(f"Barrier: {height:.3g}")


@dataclass(frozen=True)
class _Relief:
    """Heights above the lowest point of a grid on the scale of the picture, and round values to mark on it."""

    heights: np.ndarray
    norm: Normalize
    levels: np.ndarray
    level_heights: np.ndarray

    def ticks(self, norm: Normalize, distance: float) -> tuple[np.ndarray, list[str]]:
        """Positions and labels of the lowest point and those levels that are far enough from their lower neighbour."""
        at = np.r_[0.0, self.level_heights]
        kept = np.diff(norm(at), prepend=-np.inf) > distance
        return at[kept], [f"{level:g}" for level in np.r_[0.0, self.levels][kept]]


def _relief(values: np.ndarray) -> _Relief:
    rise = np.where(np.isfinite(values), values, np.nan)
    rise = rise - np.nanmin(rise)
    top = np.nanmax(rise)
    if not top:
        return _Relief(rise, Normalize(0, 1), np.array([]), np.array([]))
    log = 0 < 50 * np.nanmedian(rise) < top
    bottom = max(np.nanquantile(rise[rise > 0], 0.02), 1e-6 * top) if log else 5e-3 * top
    decades = 10.0 ** np.arange(np.floor(np.log10(bottom)), np.log10(top) + 1)
    levels = np.outer(decades, (1, 2, 5) if top < 1e4 * bottom else (1,)).ravel()
    levels = levels[(levels > bottom) & (levels < top)]
    if log:
        heights, level_heights = (np.log10(1 + r / bottom) for r in (rise, levels))
        return _Relief(heights, Normalize(0, np.nanmax(heights)), levels, level_heights)
    # square roots make the rings of a round bowl evenly spaced
    return _Relief(rise, PowerNorm(0.5, 0, top), levels, levels)


def _contour(ax: Axes, slot: Mapping[str, Any], relief: _Relief, scale: float) -> None:
    grid = _fine(slot, relief.heights)
    ax.set_facecolor("0.8")  # where the loss is not finite
    fills = relief.norm.inverse(np.linspace(0, 1, 121))
    bands = ax.contourf(*grid, fills, norm=relief.norm, cmap=SEQUENTIAL, extend="both")
    bands.set_edgecolor("face")
    rasterize(bands)
    if len(relief.levels):
        thin = {"colors": "white", "alpha": 0.8, "linewidths": 0.5 * scale}
        lines = ax.contour(*grid, relief.level_heights, **thin)
        names = {at: f"{level:g}" for at, level in zip(relief.level_heights, relief.levels, strict=True)}
        ax.clabel(lines, fontsize=6 * scale, fmt=names)
    bar = ax.figure.colorbar(ScalarMappable(relief.norm, SEQUENTIAL), ax=ax, label=RISE)
    ticks, labels = relief.ticks(relief.norm, 0.035)
    bar.set_ticks(ticks, labels=labels)
    bar.outline.set_visible(False)
    if "trajectory" in slot:
        path = np.asarray(slot["trajectory"], float)
        ax.plot(*path[:-1].T, "o-", markersize=1.5 * scale, **_path(scale))
        ax.plot(*path[-2:].T, ":", color="white", linewidth=0.9 * scale)
    ax.plot(0, 0, **_star(scale))
    x_label, y_label = _labels(slot)
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.spines[:].set_visible(True)


def _surface(ax: Axes, slot: Mapping[str, Any], relief: _Relief, scale: float) -> None:
    x, y = np.asarray(slot["x"], float), np.asarray(slot["y"], float)
    known = np.nan_to_num(relief.heights, nan=np.nanmax(relief.heights))  # not finite: as high as the rim
    *lines, height = _fine(slot, known)
    mesh = np.meshgrid(*lines)
    top = height.max() or 1.0
    floor = -0.5 * top

    def on_surface(points: np.ndarray) -> list[float]:
        return [np.interp(b, y, [np.interp(a, x, row) for row in known]) for a, b in points]

    ax.computed_zorder = False  # set by hand: the floor, the surface, what is marked on it
    light = LightSource(azdeg=225).hillshade(height / top, dx=1 / height.shape[1], dy=1 / height.shape[0])
    shaded = colormaps[SEQUENTIAL](relief.norm(height))[..., :3] * (0.7 + 0.4 * light[..., None])
    ax.plot_surface(
        *mesh,
        height,
        facecolors=shaded.clip(0, 1),
        rcount=len(height),
        ccount=len(height[0]),
        shade=False,
        linewidth=0.2 * scale,  # closes the seams between the facets
        rasterized=True,
        zorder=2,
    )
    if len(relief.levels):
        thin = {"colors": "white", "alpha": 0.6, "linewidths": 0.5 * scale}
        ax.contour(*mesh, height, relief.level_heights, **thin, zorder=3)
        shadow = {"norm": relief.norm, "cmap": SEQUENTIAL, "linewidths": 0.9 * scale}
        ax.contour(*mesh, height, relief.level_heights, **shadow, offset=floor, zorder=1)
    if "trajectory" in slot:
        path = np.asarray(slot["trajectory"], float)
        ax.plot(*path[:-1].T, on_surface(path[:-1]), **_path(scale), zorder=3)
        ax.plot(*path[:-1].T, floor, color="black", linewidth=0.9 * scale, zorder=1)
        # straight in the plane, so on the surface it follows the relief
        jump = np.linspace(path[-2], path[-1], 20)
        ax.plot(*jump.T, on_surface(jump), ":", color="white", linewidth=0.9 * scale, zorder=3)
    for level, zorder in ((floor, 1), (*on_surface(np.zeros((1, 2))), 4)):
        ax.plot([0], [0], [level], **_star(scale), zorder=zorder)

    # of the two sides that leave the third axis on the right, look over the lower corner into the basin
    ax.view_init(elev=42, azim=-58 if height[0, -1] <= height[-1, 0] else 122)
    ax.set_box_aspect((1, 1, 0.9), zoom=0.95)
    x_label, y_label = (label.replace(" (", "\n(") for label in _labels(slot))
    ax.set(xlim=x[[0, -1]], ylim=y[[0, -1]], zlim=(floor, top), xlabel=x_label, ylabel=y_label)
    ax.set_zlabel(RISE.replace(" (", "\n("))
    ticks, labels = relief.ticks(Normalize(0, top), 0.07)
    ax.set_zticks(ticks, labels=labels)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, prune="both"))
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_visible(False)
        # axes that were made elsewhere have the grid of their maker's style, and no method to change it
        axis._axinfo["grid"].update(color="0.9", linewidth=0.5 * scale)
        lines = axis.label.get_text().count("\n") + 1
        axis.labelpad = (13 + 4 * lines) * scale - 21  # added to matplotlib's fixed 21 points
    ax.tick_params(pad=6 * scale - 8)


def _star(scale: float) -> dict[str, Any]:
    """Marker of the fit."""
    edge = {"markeredgecolor": "black", "markeredgewidth": 0.6 * scale}
    return {"marker": "*", "linestyle": "none", "color": "white", "markersize": 9 * scale, **edge}


def _path(scale: float) -> dict[str, Any]:
    """Line of the training trajectory, readable on every colour."""
    outline = withStroke(linewidth=2.2 * scale, foreground="black")
    return {"color": "white", "linewidth": 0.9 * scale, "path_effects": [outline]}


def _fine(slot: Mapping[str, Any], heights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interpolate a finite grid to some 150 points a side, for smooth lines; it passes through every point."""
    x, y = np.asarray(slot["x"], float), np.asarray(slot["y"], float)
    if np.isnan(heights).any() or min(heights.shape) < 3:
        return x, y, heights
    to_x, to_y = (_cubic(len(at), max(1, 150 // len(at))) for at in (x, y))
    return to_x @ x, to_y @ y, np.clip(to_y @ heights @ to_x.T, 0, heights.max())


def _cubic(n: int, factor: int) -> np.ndarray:
    """Catmull-Rom interpolation of ``n`` evenly spaced points as a matrix."""
    at = np.linspace(0, n - 1, (n - 1) * factor + 1)
    left = np.minimum(at.astype(int), n - 2)
    t = (at - left)[:, None]
    weights = np.hstack(
        [t * (t * (2 - t) - 1), t**2 * (3 * t - 5) + 2, t * (t * (4 - 3 * t) + 1), t**2 * (t - 1)]
    )
    # one more point beyond each end, on the parabola through the last three
    beyond = np.eye(n + 2, n, -1)
    beyond[0, :3], beyond[-1, -3:] = (3, -3, 1), (1, -3, 3)
    matrix = np.zeros((len(at), n + 2))
    np.put_along_axis(matrix, left[:, None] + np.arange(4), weights / 2, axis=1)
    return matrix @ beyond

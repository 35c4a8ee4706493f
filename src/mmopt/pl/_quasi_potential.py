"""A landscape in Waddington's manner: valleys where cells are, sloping down with time."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from mudata import MuData

from mmopt import _keys
from mmopt.pl._figure import COLUMN, SEQUENTIAL, finish, style
from mmopt.pl._plane import Plane, times_of
from mmopt.pl._slots import read

_GRID, _WIDTH = 90, 4.0
_RIDGE = 3.5  # how far above its deepest valley the landscape is drawn: beyond, there are no cells to say


def quasi_potential(
    mdata: MuData,
    *,
    key: str = _keys.TWIN,
    simulation: str | None = None,
    slope: float = 3.0,
    elevation: float = 38.0,
    azimuth: float = -60.0,
    n_paths: int = 12,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the quasi-potential of a time course over the two principal axes of its embedding, in three dimensions.

    Parameters
    ----------
    mdata
        The data with the result of :func:`mmopt.tl.twin`.
    key
        Slot of the twin.
    simulation
        Slot of a simulation whose paths are drawn on the surface; default: that of :func:`mmopt.tl.simulate` where there is one
        of this twin.
    slope
        Height from the first to the last time point; 0 gives the quasi-potential alone.
    elevation, azimuth
        View, in degrees.
    n_paths
        Paths on the surface.
    show, return_fig
        Show the figure; give the figure instead of the axes.

    Returns
    -------
    Axes (3-d). The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError
        No such result.
    ValueError
        A simulation of another twin, ``n_paths`` or ``slope`` below 0, or other cells, another order of them or another embedding
        than the twin was fitted to.

    Notes
    -----
    Height is minus the log density of the cells, all time points weighing the same, and on top a slope along the mean time of
    the cells around. It is a picture of the data, no energy: the population is not at rest, two axes are not all, and where cells
    are rare the height is cut off.

    References
    ----------
    Waddington CH (1957) The Strategy of the Genes. Wang J et al. (2011) PNAS 108:8257, for the quasi-potential.

    Examples
    --------
    >>> mm.pl.quasi_potential(mdata)  # doctest: +SKIP
    """
    if n_paths < 0 or slope < 0:
        raise ValueError(f"n_paths and slope must not be negative, got {n_paths=}, {slope=}")
    twin = read(mdata, key, "mm.tl.twin(mdata, time_key=...)", ("times", "point", "params"))
    plane = Plane(mdata, str(twin["params"]["use_rep"]))
    time, times, label = times_of(mdata, twin)
    edges, height, when = _surface(plane.cells, time, times, slope)
    centres = [0.5 * (e[1:] + e[:-1]) for e in edges]
    paths = _paths(mdata, key, simulation)
    with style() as scale:
        fig, ax = plt.subplots(
            figsize=(1.6 * COLUMN, 1.35 * COLUMN), subplot_kw={"projection": "3d", "computed_zorder": False}
        )
        colours = plt.get_cmap(SEQUENTIAL)((when - times[0]) / (times[-1] - times[0]))
        relief = LightSource(azdeg=315, altdeg=50).shade_rgb(
            colours[..., :3], height, blend_mode="soft", vert_exag=0.3
        )
        x, y = np.meshgrid(*centres, indexing="ij")
        ax.plot_surface(
            x, y, height, facecolors=relief, rstride=1, cstride=1, linewidth=0, antialiased=False, shade=False
        )
        if paths is not None and n_paths:
            fine = np.linspace(0, len(paths) - 1, 60)
            for line in np.swapaxes(plane(paths)[:, :n_paths], 0, 1):
                smooth = np.stack([np.interp(fine, np.arange(len(line)), c) for c in line.T], 1)
                i, j = (
                    np.clip(np.searchsorted(e, s) - 1, 0, _GRID - 1)
                    for e, s in zip(edges, smooth.T, strict=True)
                )
                # a little above the surface, or it would disappear in it
                ax.plot(
                    *smooth.T, height[i, j] + 0.12, color="white", linewidth=1.1 * scale, zorder=3, alpha=0.9
                )
        ax.view_init(elevation, azimuth)
        ax.set(xlabel="Principal axis 1", ylabel="Principal axis 2", xticks=[], yticks=[], zticks=[])
        ax.set_zlabel("Quasi-potential" + (" and slope" if slope else ""), labelpad=-8)
        ax.xaxis.labelpad = ax.yaxis.labelpad = -8
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.pane.set_visible(False)
        ax.set_box_aspect((1, 1, 0.55), zoom=1.1)
        mappable = plt.cm.ScalarMappable(plt.Normalize(times[0], times[-1]), SEQUENTIAL)
        fig.colorbar(mappable, ax=ax, label=label, shrink=0.5, pad=0.14)
        return finish(fig, ax, show, return_fig)


def _paths(mdata: MuData, key: str, simulation: str | None) -> np.ndarray | None:
    """Paths of the simulation in the embedding of the twin ``key``; no default ones where they are of another twin."""
    name = _keys.SIMULATE if simulation is None else simulation
    if simulation is None and name not in mdata.uns:
        return None
    slot = read(mdata, name, "mm.tl.simulate(mdata, start=...)", ("paths", "params"))
    if (twin := str(slot["params"]["twin"])) == key:
        return slot["paths"]["wild_type"]
    if simulation is None:
        return None
    raise ValueError(f"simulation={name!r} is of the twin {twin!r}; draw it with `key={twin!r}`")


def _surface(
    cells: np.ndarray, time: np.ndarray, times: np.ndarray, slope: float
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Edges of the grid, height and mean time of each of its squares, ``(n, n)``."""
    known = np.isfinite(time)
    cells, time = cells[known], time[known]
    low, high = cells.min(0), cells.max(0)
    margin = 0.12 * (high - low)
    edges = [np.linspace(a, b, _GRID + 1) for a, b in zip(low - margin, high + margin, strict=True)]
    size = {t: (time == t).sum() for t in times}
    weight = np.array([1 / size[t] for t in time])
    weight /= weight.sum()
    density, aged = (
        _smoothed(np.histogram2d(cells[:, 0], cells[:, 1], bins=edges, weights=w)[0])
        for w in (weight, weight * time)
    )
    potential = -np.log(density + 1e-12)
    # where there is next to no cell, the log of a density is noise: a plateau
    rise = np.minimum(potential - potential.min(), _RIDGE + 2)
    height = _RIDGE * np.tanh(rise / _RIDGE)
    prior = 1e-3 * density.max()
    when = (aged + prior * _smoothed(aged, 4) / np.maximum(_smoothed(density, 4), 1e-300)) / (density + prior)
    when = np.clip(when, times[0], times[-1])
    return edges, height - slope * (when - times[0]) / (times[-1] - times[0]), when


def _smoothed(values: np.ndarray, times: float = 1.0) -> np.ndarray:
    """Gaussian smoothing of a grid along both axes."""
    reach = np.arange(-int(4 * _WIDTH * times), int(4 * _WIDTH * times) + 1)
    kernel = np.exp(-0.5 * (reach / (_WIDTH * times)) ** 2)
    kernel /= kernel.sum()
    pad = len(reach) // 2
    for axis in (0, 1):
        values = np.apply_along_axis(
            lambda v: np.convolve(np.pad(v, pad), kernel, mode="valid"), axis, values
        )
    return values

"""The loss on lines and planes through the parameters of a fit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmopt._progress import progress
from mmopt.curvature.parameters import LossFn, Params, check_same_shapes, detached, losses, shifted


def axis(n: int = 41, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Evenly spaced grid that holds 0 exactly when 0 lies between its ends.

    The grid moves by less than half a step to do so; with ``low = -high`` and an odd ``n`` it does not move.

    Examples
    --------
    >>> axis(5)
    array([-1. , -0.5,  0. ,  0.5,  1. ])
    """
    if n < 2 or not low < high:
        raise ValueError(f"a grid needs n >= 2 points and low < high; got n={n}, low={low}, high={high}")
    step = (high - low) / (n - 1)
    start = round(low / step) if low <= 0 <= high else low / step
    return step * (start + np.arange(n))


def slice_1d(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    directions: Sequence[Params],
    x: np.ndarray,
    *,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Losses along lines through ``params``, one line per direction.

    Parameters
    ----------
    loss_fn
        Deterministic map from parameters to a dict of 0-d losses, the total under ``"loss"``.
    params
        Named parameters of the fit; not modified.
    directions
        One or more directions (several random draws give a band).
    x
        ``(n,)`` positions in units of the directions, e.g. :func:`axis`.
    show_progress
        Show a bar.

    Returns
    -------
    ``{"x": (n,), "values": {key: (n_directions, n)}, "n_forwards": int}``, float64. A non-finite loss stays in the
    result.

    Examples
    --------
    >>> import torch
    >>> fit, direction = {"w": torch.tensor(1.0)}, {"w": torch.tensor(1.0)}
    >>> slice_1d(lambda p: {"loss": p["w"] ** 2}, fit, [direction], axis(3))["values"]["loss"]
    array([[0., 1., 4.]])
    """
    params = _checked(params, *directions)
    points = (shifted(params, (float(at), direction)) for direction in directions for at in x)
    return {"x": np.asarray(x, float)} | _grid(
        loss_fn, points, (len(directions), len(x)), "loss lines", show_progress
    )


def slice_2d(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    directions: tuple[Params, Params],
    x: np.ndarray,
    y: np.ndarray,
    *,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Losses on the plane ``params + x * directions[0] + y * directions[1]``.

    Parameters
    ----------
    loss_fn, params, show_progress
        As in :func:`slice_1d`.
    directions
        Two directions; orthogonal ones (:func:`orthogonalise`) give a plot without shear.
    x, y
        ``(n,)`` and ``(m,)`` positions in units of the directions.

    Returns
    -------
    ``{"x": (n,), "y": (m,), "values": {key: (m, n)}, "n_forwards": int}``, float64.

    Examples
    --------
    >>> import torch
    >>> fit = {"w": torch.zeros(2)}
    >>> a, b = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> slice_2d(lambda p: {"loss": p["w"].sum()}, fit, (a, b), axis(2, 0, 1), axis(2, 0, 1))["values"]["loss"]
    array([[0., 1.],
           [2., 3.]])
    """
    across, up = directions
    params = _checked(params, across, up)
    rows = ((shifted(params, (float(at), up)), x) for at in y)
    points = (shifted(row, (float(at), across)) for row, positions in rows for at in positions)
    result = _grid(loss_fn, points, (len(y), len(x)), "loss plane", show_progress)
    return {"x": np.asarray(x, float), "y": np.asarray(y, float)} | result


def slice_between(
    loss_fn: LossFn,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    *,
    n: int = 21,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Losses on the straight path between two fits of one architecture, and the height of the barrier.

    Parameters
    ----------
    loss_fn, show_progress
        As in :func:`slice_1d`.
    start, end
        Named parameters of the two fits; not modified. Both ends are evaluated exactly.
    n
        Points on the path, the ends included.

    Returns
    -------
    ``{"x": (n,), "values": {key: (n,)}, "barrier": {key: float}, "excess": {key: float}, "n_forwards": int}`` with
    ``x`` from 0 (start) to 1 (end). ``barrier`` is the highest loss on the path minus that of the worse end
    ``max(L) - max(L[0], L[-1])``; ``excess`` is the largest height above the straight line between the
    two end losses. Both are 0 for a path without a barrier.

    References
    ----------
    Draxler et al., *Essentially No Barriers in Neural Network Energy Landscape*, ICML 2018 (``barrier``);
    Frankle et al., *Linear Mode Connectivity and the Lottery Ticket Hypothesis*, ICML 2020;
    Entezari et al., *The Role of Permutation Invariance in Linear Mode Connectivity*, ICLR 2022 (``excess``).

    Examples
    --------
    >>> import torch
    >>> well = lambda p: {"loss": (p["w"] ** 2 - 1) ** 2}
    >>> slice_between(well, {"w": torch.tensor(-1.0)}, {"w": torch.tensor(1.0)})["barrier"]
    {'loss': 1.0}
    """
    if n < 2:
        raise ValueError(f"the path needs its two ends: n must be at least 2, got {n}")
    start, end = _checked(start, end), detached(end)
    x = np.linspace(0.0, 1.0, n)
    # lerp is exact at both ends; start + (end - start) is not
    points = ({name: torch.lerp(p, end[name], float(at)) for name, p in start.items()} for at in x)
    result = _grid(loss_fn, points, (n,), "loss path", show_progress)
    heights = result["values"].items()
    barrier = {key: float(v.max() - max(v[0], v[-1])) for key, v in heights}
    excess = {key: float((v - ((1 - x) * v[0] + x * v[-1])).max()) for key, v in heights}
    return {"x": x, "barrier": barrier, "excess": excess} | result


def _checked(params: Mapping[str, Tensor], *directions: Mapping[str, Tensor]) -> Params:
    for direction in directions:
        check_same_shapes(params, direction)
    return detached(params)


@torch.no_grad()
def _grid(
    loss_fn: LossFn, points: Iterable[Params], shape: tuple[int, ...], description: str, show: bool
) -> dict[str, Any]:
    total = int(np.prod(shape))
    points = progress(points, description, total=total, show=show)
    rows = [losses(loss_fn, point) for point in points]
    # one transfer at the end, so that an accelerator does not wait after every point
    keys = list(rows[0])
    table = torch.stack([torch.stack([row[key] for key in keys]) for row in rows]).cpu().double().numpy()
    return {
        "values": {key: column.reshape(shape).copy() for key, column in zip(keys, table.T, strict=True)},
        "n_forwards": total,
    }

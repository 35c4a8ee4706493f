"""Directions in parameter space along which a loss is worth looking at."""

import operator
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmopt.curvature.parameters import Params, check_same_shapes, detached

Normalization = Literal["filter", "layer", "none"]


def random_direction(
    params: Mapping[str, Tensor],
    *,
    normalize: Normalization = "filter",
    vectors: Literal["zero", "match"] = "zero",
    filter_axes: Mapping[str, int | None] | None = None,
    random_state: int = 0,
) -> Params:
    """Draw a Gaussian direction and give it the scale of the parameters.

    A network whose layer is multiplied by 10 and the next divided by 10 computes the same function, yet looks
    flatter along raw Gaussian directions. Matching norms removes that artefact for linear layers (not every
    rescaling symmetry: a softmax shift or a normalisation layer keeps its own).

    Parameters
    ----------
    params
        Named parameters.
    normalize
        ``"filter"``: every filter of a weight gets the norm of the same filter of ``params``. ``"layer"``: every weight
        as a whole does. ``"none"``: the raw draw, also for vectors.
    vectors
        What tensors without filters (biases, normalisation layers, dispersions) get under ``"filter"`` and
        ``"layer"``: ``"zero"``, or the norm of the parameter (``"match"``).
    filter_axes
        By name, along which axis the filters of a tensor are counted; ``None`` for a tensor that has none, such as a
        table of biases. Tensors that are not named have them along the first axis (the rows of a matrix), those with
        fewer than two dimensions have none.
    random_state
        Seed. The same seed gives the same draw on every device and dtype.

    Returns
    -------
    Tensors named, shaped, typed and placed as ``params``.

    References
    ----------
    Li et al., *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> random_direction({"weight": weight, "bias": torch.ones(2)})["weight"].norm(dim=1)
    tensor([5., 2.])
    """
    if normalize not in ("filter", "layer", "none"):
        raise ValueError(f"normalize={normalize!r} is not known; choose 'filter', 'layer' or 'none'")
    if vectors not in ("zero", "match"):
        raise ValueError(f"vectors={vectors!r} is not known; choose 'zero' or 'match'")
    generator = torch.Generator().manual_seed(operator.index(random_state))
    direction = {}
    for name, p in detached(params).items():
        # float32 on the CPU whatever the parameters are: their dtype and device must not change the draw
        draw = torch.randn(p.shape, generator=generator).to(p)
        if normalize != "none":
            axis = (filter_axes or {}).get(name, 0 if p.ndim >= 2 else None)
            if axis is None and vectors == "zero":
                draw = torch.zeros_like(p)
            else:
                draw = _norm_matched(draw, p, axis if normalize == "filter" else None)
        direction[name] = draw
    return direction


def orthogonalise(a: Params, b: Params) -> Params:
    """Remove from ``b`` its component along ``a``, both taken as single long vectors.

    Normalise first: the two random directions of a plane are nearly orthogonal already, so that this step moves
    their row norms by about one over the square root of the number of parameters.

    Raises
    ------
    ValueError
        If the directions differ in names or shapes, or ``b`` is parallel to ``a``.

    Examples
    --------
    >>> import torch
    >>> orthogonalise({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([3.0, 2.0])})
    {'w': tensor([0., 2.])}
    """
    check_same_shapes(a, b)
    squared = _dot(a, a)
    share = _dot(a, b) / squared if squared > 0 else 0.0
    rest = {name: b[name] - share * a[name] for name in a}
    if _dot(rest, rest) <= 1e-12 * _dot(b, b):
        raise ValueError(
            "the second direction is zero or parallel to the first; draw it with another `random_state`"
        )
    return rest


def difference(start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> Params:
    """Direction from one set of parameters to another, ``end - start``.

    Raises
    ------
    ValueError
        If the two belong to different architectures.

    Examples
    --------
    >>> import torch
    >>> difference({"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])})
    {'w': tensor([2.])}
    """
    check_same_shapes(start, end)
    start, end = detached(start), detached(end)
    return {name: end[name] - start[name] for name in start}


def _norm_matched(draw: Tensor, p: Tensor, axis: int | None) -> Tensor:
    """Give ``draw`` the norm of ``p`` at every place along an axis, or as a whole."""
    axes = tuple(i for i in range(p.ndim) if i != axis)
    norm = torch.linalg.vector_norm
    return draw * (norm(p, dim=axes, keepdim=True) / norm(draw, dim=axes, keepdim=True))


def _dot(a: Params, b: Params) -> float:
    return sum(
        float(torch.vdot(*(x[name].detach().cpu().double().reshape(-1) for x in (a, b)))) for name in a
    )

"""The contract between a model and this package: named parameters in, a dict of scalar losses out."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

Params = dict[str, Tensor]
LossFn = Callable[[Params], Mapping[str, Tensor]]


def detached(params: Mapping[str, Tensor]) -> Params:
    """Return the same values cut off from autograd; memory is shared, so treat them as read-only."""
    return {name: p.detach() for name, p in params.items()}


def losses(loss_fn: LossFn, params: Params) -> dict[str, Tensor]:
    """Call ``loss_fn`` once and check that it keeps the contract.

    Raises
    ------
    ValueError
        If the result has no ``"loss"``, or holds something else than 0-d tensors.
    """
    result = dict(loss_fn(params))
    if "loss" not in result:
        raise ValueError(
            f"loss_fn must return a dict with the total under 'loss'; it returned {sorted(result)}"
        )
    wrong = [key for key, value in result.items() if not isinstance(value, Tensor) or value.ndim]
    if wrong:
        raise ValueError(f"loss_fn must return 0-d tensors; reduce {wrong} with `.sum()` or `.mean()`")
    return result


def values(loss_fn: LossFn, params: Params) -> dict[str, float]:
    """One forward without gradients, as Python floats."""
    with torch.no_grad():
        return {key: value.item() for key, value in losses(loss_fn, params).items()}


def leaves(params: Mapping[str, Tensor]) -> Params:
    """Fresh autograd leaves with the values of ``params``, whose own ``.grad`` is never touched."""
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def flatten(params: Mapping[str, Tensor]) -> np.ndarray:
    """Concatenate all entries into one float64 vector."""
    return torch.cat([p.detach().reshape(-1).cpu().double() for p in params.values()]).numpy()


def unflatten(vector: np.ndarray, like: Mapping[str, Tensor]) -> Params:
    """Cut a flat vector into tensors with the names, shapes, dtypes and device of ``like``."""
    pieces = np.split(vector, np.cumsum([p.numel() for p in like.values()])[:-1])
    return {
        name: torch.as_tensor(piece).reshape(p.shape).to(p.dtype).to(p.device)
        for piece, (name, p) in zip(pieces, like.items(), strict=True)
    }


def shifted(params: Params, *steps: tuple[float, Params]) -> Params:
    """Return ``params + sum(scale * direction)`` as new tensors."""
    for scale, direction in steps:
        params = {name: p + scale * direction[name] for name, p in params.items()}
    return params


def check_same_shapes(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Refuse two sets of parameters that do not belong to one architecture.

    Raises
    ------
    ValueError
        If names or shapes differ.
    """
    shapes_a, shapes_b = ({n: tuple(p.shape) for n, p in x.items()} for x in (a, b))
    if shapes_a != shapes_b:
        differing = sorted(n for n in {*shapes_a, *shapes_b} if shapes_a.get(n) != shapes_b.get(n))
        raise ValueError(
            f"the two sets of parameters belong to different architectures: {differing[:5]} differ in presence or "
            "shape; fit both models with the same settings"
        )

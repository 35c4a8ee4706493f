"""The vote: whether the new gradient of a coordinate points along its momentum or against it.

``S = mean_i sign(g_i n_i)`` is +1 where every coordinate goes on as before (the path is flat and straight, the rate
may grow), -1 where every one turns back (the path is sharp, the rate must shrink), near 0 for pure noise.
"""

from collections.abc import Sequence
from functools import cache
from itertools import count
from math import ceil, isqrt

import torch
from torch import Tensor

# neighbours that are read together: reading single coordinates all over the memory costs more than the counting
BLOCK = 32


def agreement(
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    turn: int | Tensor,
    max_votes: int,
    maximize: bool = False,
    weight_decay: float = 0.0,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """Mean sign of gradient times momentum over all coordinates, and whether any coordinate voted.

    Up to ``max_votes`` coordinates all vote, counted in whole numbers: neither the order of the tensors nor how the
    coordinates are cut into tensors matters. Beyond that one block of neighbours in ``k`` votes, spread evenly over
    every tensor, and the choice moves on by a block per turn, so that all are heard about equally often: blocks at both
    ends of a tensor less so, and what is left over at its end, fewer than a block, never. Tensors smaller than ``k``
    blocks are then always heard in full, with a weight of 1 instead of ``k``.

    Parameters
    ----------
    gradients, momenta
        Tensors of equal shapes. Complex ones vote with their real and imaginary parts.
    turn
        Number of the step: an integer, or a whole-number tensor on the device (branch-free form).
    max_votes
        How many coordinates vote at most, about.
    maximize
        Whether the momenta are those of the negated gradients.
    weight_decay, parameters
        Coupled weight decay: ``weight_decay * parameters`` is part of the gradient.

    Returns
    -------
    Tensor of shape (2,): S in [-1, 1], and 1 if any coordinate had a non-zero finite vote, else 0.
    """
    stride = _stride(sum(g.numel() for g in gradients), max_votes)
    gradient, whole = _hear(gradients, turn, stride)
    momentum, _ = _hear(momenta, turn, stride)
    if maximize:
        gradient.neg_()
    if parameters:
        gradient.add_(_hear(parameters, turn, stride)[0], alpha=weight_decay)
    # signs first: the product of two small numbers is zero, and zero times infinity is not a number
    vote = gradient.sign_().mul_(momentum.sign_())
    size, dtype = vote.numel(), torch.promote_types(vote.dtype, torch.float32)
    agree = vote[:whole].sum(dtype=dtype)
    if whole < size:
        agree = agree.add(vote[whole:].sum(dtype=dtype), alpha=stride)
        size = whole + stride * (size - whole)
    return torch.stack([agree / max(size, 1), vote.abs_().sum(dtype=dtype).clamp(max=1)])


def _hear(tensors: Sequence[Tensor], turn: int | Tensor, stride: int) -> tuple[Tensor, int]:
    """Copy of the coordinates that vote, and how many of them (the first ones) are of tensors heard in full."""
    flat = [torch.view_as_real(x).reshape(-1) if x.is_complex() else x.reshape(-1) for x in tensors]
    whole, part = flat, []
    if stride > 1:
        whole = [x for x in flat if x.numel() < stride * BLOCK]
        part = [_blocks(x, turn, stride) for x in flat if x.numel() >= stride * BLOCK]
    device = flat[0].device  # a model may be spread over several
    pieces = [x if x.device == device else x.to(device, non_blocking=True) for x in whole + part]
    return torch.cat(pieces), sum(x.numel() for x in whole)


def _blocks(flat: Tensor, turn: int | Tensor, stride: int) -> Tensor:
    """Every ``stride``-th block of a flat tensor, flat again; the first one depends on the turn."""
    rows = flat.numel() // BLOCK
    blocks, n = flat[: rows * BLOCK].view(rows, BLOCK), rows // stride
    first = turn % stride + turn // stride % (rows % stride + 1)
    if isinstance(first, Tensor):
        return blocks.index_select(0, first + torch.arange(0, n * stride, stride, device=flat.device)).view(
            -1
        )
    return blocks[first : first + (n - 1) * stride + 1 : stride].reshape(-1)


@cache
def _stride(size: int, max_votes: int) -> int:
    """Smallest sufficient stride that is prime: it then falls in step with no row length of a weight matrix."""
    if size <= max_votes:
        return 1
    return next(k for k in count(ceil(size / max_votes)) if all(k % d for d in range(2, isqrt(k) + 1)))

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
    every tensor, and the choice moves on by a block per turn, so that all are heard equally often. Tensors smaller
    than ``k`` blocks are then always heard in full, with a weight of 1 instead of ``k``.

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
    heard = [_hear(tensors, turn, stride) for tensors in (gradients, momenta, parameters) if tensors]
    agree, votes, size = 0.0, 0.0, 0
    for weight, gradient, momentum, *parameter in zip((1, stride), *heard, strict=False):
        if maximize:
            gradient = gradient.neg_()
        if parameter:
            gradient = gradient.add_(parameter[0], alpha=weight_decay)
        # signs first: the product of two small numbers is zero, and zero times infinity is not a number
        vote = gradient.sign_() * momentum.sign_()
        sums = torch.promote_types(vote.dtype, torch.float32)
        agree = agree + weight * vote.sum(dtype=sums)
        votes = votes + vote.abs_().sum(dtype=sums)
        size += weight * vote.numel()
    return torch.stack([agree / max(size, 1), (votes > 0).to(agree.dtype)])


def _hear(tensors: Sequence[Tensor], turn: int | Tensor, stride: int) -> list[Tensor]:
    """Copy of the coordinates that vote: those of the tensors heard in full, then (if any) those of the sampled."""
    flat = [torch.view_as_real(x).reshape(-1) if x.is_complex() else x.reshape(-1) for x in tensors]
    if stride == 1:
        return [_join(flat)]
    large = [x.numel() >= stride * BLOCK for x in flat]
    whole = [x for x, sampled in zip(flat, large, strict=True) if not sampled]
    part = [_blocks(x, turn, stride) for x, sampled in zip(flat, large, strict=True) if sampled]
    return [_join(pieces).view(-1) for pieces in (whole or [flat[0][:0]], part) if pieces]


def _join(pieces: list[Tensor]) -> Tensor:
    """One tensor of all pieces, on the device of the first (a model may be spread over several)."""
    device = pieces[0].device
    return torch.cat([x if x.device == device else x.to(device, non_blocking=True) for x in pieces])


def _blocks(flat: Tensor, turn: int | Tensor, stride: int) -> Tensor:
    """Every ``stride``-th block of a flat tensor, (n, BLOCK); the first one depends on the turn."""
    rows = flat.numel() // BLOCK
    blocks, n = flat[: rows * BLOCK].view(rows, BLOCK), rows // stride
    first = turn % stride + turn // stride % (rows % stride + 1)
    if isinstance(first, Tensor):
        return blocks.index_select(0, first + torch.arange(0, n * stride, stride, device=flat.device))
    return blocks[first : first + (n - 1) * stride + 1 : stride]


@cache
def _stride(size: int, max_votes: int) -> int:
    """Smallest sufficient stride that is prime: it then falls in step with no row length of a weight matrix."""
    if size <= max_votes:
        return 1
    return next(k for k in count(ceil(size / max_votes)) if all(k % d for d in range(2, isqrt(k) + 1)))

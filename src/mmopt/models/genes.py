"""The negative-binomial likelihood of RNA from the logits of the head, with a gradient that is written out.

What autograd would keep of a step is a dozen cells × genes matrices; three are needed. :func:`negative_binomial` in
:mod:`mmopt.models.likelihoods` is the same in plain operations, differentiable as often as one likes.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmopt.models.likelihoods import LARGE_DISPERSION, log_factorial, log_rising
from mmopt.models.sparse import Csr

SMALL = 16  # counts up to it are looked up
LEAST = -40.0  # logarithm of a dispersion; far below, its inverse overflows


def negative_binomial_of_shares(x: Csr, logits: Tensor, log_theta: Tensor) -> Tensor:
    """Log-probability of each row of counts, given its total, with means ``total * softmax(logits)``.

    Differentiable once.

    Parameters
    ----------
    x
        Cells × genes.
    logits
        The same, dense.
    log_theta
        Logarithm of the dispersion of each gene.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        return _Kernel.apply(x, logits, log_theta)


def _rising(x: Csr, theta: Tensor) -> tuple[Tensor, Tensor]:
    """``lgamma(x + theta) - lgamma(theta)`` of each stored count and its derivative by ``theta``."""
    if theta.device.type != "cpu":  # where lookups would wait for what is to be looked up
        return _exact(x.counts, theta.index_select(0, x.indices))
    # of a small count a sum of few logarithms, the same for all cells: those of each gene are tabled
    terms = theta + torch.arange(SMALL, dtype=theta.dtype)[:, None]
    count = x.counts.clamp_max(SMALL).int()
    places = count * len(theta) + x.indices
    value, slope = (
        torch.cat([torch.zeros_like(terms[:1]), t.cumsum(0)]).view(-1).index_select(0, places)
        for t in (terms.log(), terms.reciprocal())
    )
    rest = torch.nonzero(x.counts != count)[:, 0]  # larger
    if len(rest):
        at = theta.index_select(0, x.indices.index_select(0, rest))
        value[rest], slope[rest] = _exact(x.counts.index_select(0, rest), at)
    return value, slope


def _exact(counts: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same of counts of any size, each with its own ``theta``."""
    large = theta.clamp_min(LARGE_DISPERSION)
    small, summed = theta.clamp_max(LARGE_DISPERSION), counts + large
    exact = torch.digamma(counts + small) - torch.digamma(small)
    series = torch.log1p(counts / large) + counts / (2 * large * summed)
    series += (large**-2 - summed**-2) / 12
    return log_rising(counts, theta), torch.where(theta < LARGE_DISPERSION, exact, series)


class _Kernel(torch.autograd.Function):
    """With ``a`` = log mean - log dispersion: ``sum(rising - lgamma(x + 1) - x * softplus(-a)) - sum(theta * softplus(a))``."""

    @staticmethod
    def forward(ctx, x: Csr, logits: Tensor, log_theta: Tensor) -> Tensor:
        log_theta, total = log_theta.clamp_min(LEAST), x.totals().clamp_min(1)[:, None]
        theta = log_theta.exp()
        share = torch.softmax(logits, 1)
        ratio = (share * total).mul_(1 / theta)  # exp(a)
        places = x.places(logits.shape[1])
        of_zero = ratio.log1p()
        stored, slope = _rising(x, theta)
        stored = stored - log_factorial(x.counts)
        # at stored counts from the logits: where a is so low that exp(a) is nothing, its logarithm is not
        per_cell = total[:, 0].log() - logits.amax(1) + share.amax(1).log()
        apart = logits.reshape(-1).index_select(0, places) + per_cell.index_select(0, x.rows)
        apart -= log_theta.index_select(0, x.indices)
        stored -= x.counts * softplus(-apart)
        ctx.save_for_backward(share, ratio.div_(ratio + 1), of_zero, theta, places, slope, *x)
        return x._replace(counts=stored).totals() - of_zero @ theta

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[None, Tensor, Tensor]:
        share, gate, of_zero, theta, places, slope, *arrays = ctx.saved_tensors
        x = Csr(*arrays)
        here = upstream.index_select(0, x.rows)
        by_apart = (gate * theta).mul_(-upstream[:, None])
        of_stored = x.counts * (1 - gate.view(-1).index_select(0, places)) * here
        by_apart.view(-1).index_add_(0, places, of_stored)
        by_theta = torch.zeros_like(theta).index_add_(0, x.indices, slope * here) - upstream @ of_zero
        by_log_theta = theta * by_theta - by_apart.sum(0)
        return None, by_apart.sub_(share.mul_(by_apart.sum(1, keepdim=True))), by_log_theta

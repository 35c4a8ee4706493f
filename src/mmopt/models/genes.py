"""The negative-binomial likelihood of RNA from the logits of the head, with a gradient that is written out.

What autograd would keep of a step is a dozen cells × genes matrices; three are needed. :func:`negative_binomial` in
:mod:`mmopt.models.likelihoods` is the same in plain operations, differentiable as often as one likes.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmopt.models.likelihoods import LARGE_DISPERSION, log_rising
from mmopt.models.sparse import Csr


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
        return _Kernel.apply(x, logits.float() if logits.is_cuda else logits, log_theta)


def _rising(x: Csr, theta: Tensor) -> tuple[Tensor, Tensor]:
    """``lgamma(x + theta) - lgamma(theta)`` of each stored count and its derivative by ``theta``."""
    at = theta.index_select(0, x.indices)
    if theta.is_cuda or theta.max() >= LARGE_DISPERSION:
        value, large = log_rising(x.counts, at), at.clamp_min(LARGE_DISPERSION)
        small, summed = at.clamp_max(LARGE_DISPERSION), x.counts + large
        exact = torch.digamma(x.counts + small) - torch.digamma(small)
        series = torch.log1p(x.counts / large) + x.counts / (2 * large * summed)
        series += (large**-2 - summed**-2) / 12
        return value, torch.where(at < LARGE_DISPERSION, exact, series)
    summed = x.counts + at  # what belongs to the gene alone is computed once per gene
    value = torch.lgamma(summed) - torch.lgamma(theta).index_select(0, x.indices)
    return value, torch.digamma(summed) - torch.digamma(theta).index_select(0, x.indices)


class _Kernel(torch.autograd.Function):
    """With ``a`` = log mean - log dispersion: ``sum(rising - lgamma(x + 1) - x * softplus(-a)) - sum(theta * softplus(a))``."""

    @staticmethod
    def forward(ctx, x: Csr, logits: Tensor, log_theta: Tensor) -> Tensor:
        theta = log_theta.exp()
        apart = torch.log_softmax(logits, 1)
        share = apart.exp()
        apart.add_(x.totals().clamp_min(1).log_()[:, None]).sub_(log_theta)
        places = x.places(logits.shape[1])
        of_zero = softplus(apart)
        stored, slope = _rising(x, theta)
        stored = stored - torch.lgamma(x.counts + 1)
        stored -= x.counts * softplus(-apart.view(-1).index_select(0, places))
        ctx.save_for_backward(share, apart.sigmoid_(), of_zero, theta, places, slope, *x)
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

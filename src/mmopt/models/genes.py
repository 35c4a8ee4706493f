"""The negative-binomial likelihood of RNA from the logits of the head, with a gradient that is written out.

What autograd would keep of a step is a dozen cells × genes matrices; three are needed. :func:`negative_binomial` in
:mod:`mmopt.models.likelihoods` is the same in plain operations, differentiable as often as one likes.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmopt.models.likelihoods import log_rising
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
        rising = log_rising(x.counts, log_theta.exp().index_select(0, x.indices))
        stored = x.row_sums(rising - torch.lgamma(x.counts + 1))
        return stored + _Kernel.apply(x, logits.float() if logits.is_cuda else logits, log_theta)


class _Kernel(torch.autograd.Function):
    """``-sum(x * softplus(-a)) - sum(theta * softplus(a))`` with ``a`` = log mean - log dispersion."""

    @staticmethod
    def forward(ctx, x: Csr, logits: Tensor, log_theta: Tensor) -> Tensor:
        theta = log_theta.exp()
        apart = torch.log_softmax(logits, 1)
        share = apart.exp()
        apart.add_(x.totals().clamp_min(1).log_()[:, None]).sub_(log_theta)
        at = x.places(logits.shape[1])
        of_zero = softplus(apart)
        of_stored = x.counts * softplus(-apart.view(-1).index_select(0, at))
        ctx.save_for_backward(share, apart.sigmoid_(), of_zero, theta, at, *x)
        return -x.row_sums(of_stored) - of_zero @ theta

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[None, Tensor, Tensor]:
        share, gate, of_zero, theta, at, *arrays = ctx.saved_tensors
        x = Csr(*arrays)
        of_stored = x.counts * (1 - gate.view(-1).index_select(0, at)) * upstream.index_select(0, x.rows)
        by_apart = (gate * theta).mul_(-upstream[:, None])
        by_apart.view(-1).index_add_(0, at, of_stored)
        by_log_theta = -by_apart.sum(0) - theta * (upstream @ of_zero)
        return None, by_apart.sub_(share.mul_(by_apart.sum(1, keepdim=True))), by_log_theta

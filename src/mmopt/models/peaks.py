"""The multinomial likelihood of a low-rank peak head, exactly or from a sample of the peaks.

With logits ``l = W h + b`` the log-likelihood of a cell is ``sum(x * l) - N * log(sum(exp(l)))`` and its gradient by the
logit of a peak ``x - N * softmax(l)``. The first sum costs as much as the cell has fragments, the second as much as
there are peaks. A step may look at one peak of every ``one_in`` neighbours, drawn anew each time:

- value, and gradient by the hidden state: the first sum is taken over all peaks. The second is the sample's, times what
  the whole average profile ``exp(b)`` holds over what the sample holds of it; only deviations from the profile are
  estimated.
- gradient by ``W`` and ``b``: at every peak exact but for the curvature of ``exp``: the line that touches it at the
  average profile, ``exp(b) * (1 + W h)``, takes its place, and at the drawn peaks ``one_in`` times what is missing is
  added. Each peak is drawn with probability ``1 / one_in``, so this is right on average.

What is not right on average is the ratio of two sums, by a term of the order of one over the number of peaks drawn;
``one_in = 1`` is exact.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from mmopt.models.likelihoods import log_factorial
from mmopt.models.sparse import Csr

CHUNK = 4096  # peaks at a time, where not all are needed together


def draw(n_peaks: int, one_in: int) -> Tensor:
    """Draw one peak of every ``one_in`` neighbours; near peaks are alike, so this varies less than any others would."""
    groups = torch.arange(0, n_peaks, one_in)
    if one_in == 1:
        return groups
    chosen = groups + torch.randint(one_in, groups.shape)
    return chosen[chosen < n_peaks]  # the last group may be smaller


def multinomial(x: Csr, hidden: Tensor, weight: Tensor, bias: Tensor, one_in: int = 1) -> Tensor:
    """Log-probability of each row of counts given its total, under ``softmax(hidden @ weight.T + bias)``.

    Differentiable once, by ``hidden``, ``weight`` and ``bias``.

    Parameters
    ----------
    x
        Cells × peaks.
    hidden, weight, bias
        Cells × rank, peaks × rank, peaks.
    one_in
        Look at one peak of so many.
    """
    total = x.totals()
    constant = torch.lgamma(total + 1) - x._replace(counts=log_factorial(x.counts)).totals()
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = hidden.float() if hidden.dtype in (torch.bfloat16, torch.float16) else hidden
        if torch.is_grad_enabled():
            return constant + _Kernel.apply(x, total, hidden, weight, bias, one_in)
        return constant + _stored(x, hidden, weight, bias)[0] - total * _log_partition(hidden, weight, bias)


def _stored(x: Csr, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """``sum(x * l)`` of each cell, and its gradient by the hidden state."""
    by_hidden, by_bias = (
        embedding_bag(
            x.indices, w, x.indptr, per_sample_weights=x.counts, mode="sum", include_last_offset=True
        )
        for w in (weight, bias[:, None])
    )
    return (by_hidden * hidden).sum(1) + by_bias[:, 0], by_hidden


def _log_partition(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    parts = zip(weight.split(CHUNK), bias.split(CHUNK), strict=True)
    return torch.stack([torch.logsumexp(torch.addmm(b, hidden, w.T), 1) for w, b in parts]).logsumexp(0)


class _Kernel(torch.autograd.Function):
    """Value and gradient with one cells × drawn peaks matrix, ``exp(W h)``; the bias joins the small factors beside it."""

    @staticmethod
    def forward(
        ctx, x: Csr, total: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, one_in: int
    ) -> Tensor:
        chosen = draw(len(bias), one_in).to(bias.device, non_blocking=True)
        w, b = (weight, bias) if one_in == 1 else (t.index_select(0, chosen) for t in (weight, bias))
        whole, held = torch.logsumexp(bias, 0), torch.logsumexp(b, 0)
        ratio = hidden @ w.T
        top = ratio.amax(1)
        ratio.sub_(top[:, None]).exp_()
        norm = ratio @ (b - held).exp()
        stored, by_hidden = _stored(x, hidden, weight, bias)
        ctx.save_for_backward(
            hidden, weight, bias, w, ratio, norm, top, total, by_hidden, chosen, whole, held, *x
        )
        ctx.one_in = one_in
        return stored - total * (norm.log() + top + whole)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, w, ratio, norm, top, *rest = ctx.saved_tensors
        total, by_hidden, chosen, whole, held, *arrays = rest
        x, one_in = Csr(*arrays), ctx.one_in
        scale = (upstream * total / norm)[:, None]
        profile = (bias - whole).exp()[:, None]
        here = profile if one_in == 1 else profile.index_select(0, chosen)
        by_hidden = upstream[:, None] * by_hidden - scale * (ratio @ (here * w)) * (whole - held).exp()

        # by weight and bias together: one column more
        states = torch.cat([hidden, torch.ones_like(scale)], 1)
        weighed = scale * states
        off = here * (ratio.T @ weighed)
        if one_in > 1:
            # all peaks by the line that touches exp(W h), and the drawn ones by how far they are from it
            weighed = weighed * (-top).exp()[:, None]
            constant, slope = weighed.sum(0), hidden.T @ weighed
            off.sub_(torch.addmm(constant, w, slope).mul_(here))
        by_weight, by_bias = torch.empty_like(weight), torch.empty_like(bias)
        for at, seen in x.transposed_products(upstream[:, None] * states, len(weight), CHUNK):
            if one_in > 1:
                seen.sub_((weight[at] @ slope).add_(constant).mul_(profile[at]))
            else:
                seen.sub_(off[at])
            by_weight[at], by_bias[at] = seen[:, :-1], seen[:, -1]
        if one_in > 1:
            by_weight.index_add_(0, chosen, off[:, :-1], alpha=-one_in)
            by_bias.index_add_(0, chosen, off[:, -1], alpha=-one_in)
        return None, None, by_hidden, by_weight, by_bias, None

"""Log-likelihoods of counts, one value per cell."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mmopt.models.sparse import Csr

LARGE_DISPERSION = 30.0
NODES = [math.exp(s) for s in range(-18, 3)]  # evenly spaced logarithms, so that their distance is 1
FACTORIALS = 1024  # tabled; most counts are small and lgamma is slow


def log_rising(x: Tensor, theta: Tensor) -> Tensor:
    """Return ``lgamma(x + theta) - lgamma(theta)``, by Stirling's series where ``theta`` is large.

    There the two terms are huge and nearly equal, and their float32 difference is rounding noise.
    """
    if theta.device.type == "cpu" and (not theta.numel() or theta.detach().max() < LARGE_DISPERSION):
        return torch.lgamma(x + theta) - torch.lgamma(theta)
    small, large = theta.clamp_max(LARGE_DISPERSION), theta.clamp_min(LARGE_DISPERSION)
    exact = torch.lgamma(x + small) - torch.lgamma(small)
    series = (
        (x + large - 0.5) * torch.log1p(x / large)
        + x * (large.log() - 1)
        + (1 / (x + large) - 1 / large) / 12
    )
    return torch.where(theta < LARGE_DISPERSION, exact, series)


def log_factorial(counts: Tensor) -> Tensor:
    """Return ``lgamma(counts + 1)``."""
    if counts.device.type != "cpu" or not len(counts) or counts.max() >= FACTORIALS:
        return torch.lgamma(counts + 1)
    table = torch.lgamma(torch.arange(1, FACTORIALS + 1, dtype=counts.dtype))
    return table.index_select(0, counts.int())


def negative_binomial(x: Csr, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """Log-probability of each row of counts under negative binomials of mean ``exp(log_mean)``, dispersion ``exp(log_theta)``.

    The variance is ``mean + mean**2 / theta``. Written in logarithms, so that it and its second derivatives stay finite
    for means and dispersions near zero. Only ``theta * log(theta / (theta + mean))`` is needed where the count is zero.

    Parameters
    ----------
    x
        Cells × features.
    log_mean
        The same, dense.
    log_theta
        Features.
    """
    apart = log_mean - log_theta
    theta = log_theta.exp()
    here, theta_here = apart[x.rows, x.indices], theta[x.indices]
    stored = log_rising(x.counts, theta_here) - torch.lgamma(x.counts + 1) - x.counts * softplus(-here)
    return x.row_sums(stored) - (softplus(apart) @ theta)


def negative_binomial_mixture(
    x: Tensor, log_background: Tensor, log_foreground: Tensor, log_theta: Tensor, background_logit: Tensor
) -> Tensor:
    """Log-probability of each count under background or foreground, as for antibody-derived tags (Gayoso et al. 2021)."""
    theta = log_theta.exp()
    shared = log_rising(x, theta) - torch.lgamma(x + 1)

    def component(log_mean: Tensor) -> Tensor:
        apart = log_mean - log_theta
        return x * apart - (x + theta) * softplus(apart)

    background = logsigmoid(background_logit) + component(log_background)
    foreground = logsigmoid(-background_logit) + component(log_foreground)
    # log(exp(background) + exp(foreground)); torch.logaddexp has no finite second derivative when they are far apart
    return shared + foreground + softplus(background - foreground)


def expected_log1p(log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """Return the expectation of log1p of a negative-binomial count; it lies below log1p of the mean.

    As log(1 + x) is the integral of (1 - exp(-t x)) exp(-t) / t over all t > 0, and the expectation of exp(-t x) has a closed
    form, one sum over t gives it, within 0.001 for means up to 30,000.
    """
    theta, relative = log_theta.exp(), (log_mean - log_theta).exp()
    total = torch.zeros_like(log_mean)
    for t in NODES:
        unseen = torch.log1p(relative * -math.expm1(-t)).mul_(-theta).expm1_()
        total = total.sub_(unseen, alpha=math.exp(-t))
    return total


def multinomial(x: Csr, logits: Tensor) -> Tensor:
    """Log-probability of each row of counts, given its total, under ``softmax(logits)``; 0 for a row without counts."""
    total = x.totals()
    stored = x.counts * logits[x.rows, x.indices] - torch.lgamma(x.counts + 1)
    return x.row_sums(stored) - total * torch.logsumexp(logits, 1) + torch.lgamma(total + 1)

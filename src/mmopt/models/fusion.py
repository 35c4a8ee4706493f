"""How the modalities' posteriors become one: a product of experts, and the random masking that trains every subset."""

import torch
from torch import Tensor


def product_of_experts(means: Tensor, log_variances: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the product of Gaussian experts and a standard normal prior expert.

    Parameters
    ----------
    means, log_variances
        Modalities × cells × latent dimensions.
    present
        Modalities × cells, true where the expert speaks; with none the product is the prior.

    References
    ----------
    Hinton (2002), Neural Computation 14:1771; Wu and Goodman (2018), NeurIPS 31.
    """
    precision = torch.exp(-log_variances) * present.unsqueeze(-1)
    variance = 1 / (1 + precision.sum(0))
    return variance * (precision * means).sum(0), variance


def precision_shares(log_variances: Tensor, present: Tensor) -> Tensor:
    """Return each modality's share of a cell's data precision (modalities × cells), averaged over dimensions; sums to 1."""
    precision = torch.exp(-log_variances) * present.unsqueeze(-1)
    return (precision / precision.sum(0).clamp_min(1e-12)).mean(-1)


def drop_modalities(present: Tensor, probability: float) -> Tensor:
    """Hide each present modality with ``probability``; a cell that would be left with none keeps all of its own."""
    kept = present & (torch.rand(present.shape, device=present.device) >= probability)
    return torch.where(kept.any(0), kept, present)

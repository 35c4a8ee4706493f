"""From the counts of one modality to the mean and log-variance of its expert.

Inputs are standardised per feature. Dense modalities are standardised as they come; ATAC stays sparse up to its first
layer, whose weights carry the scale and whose bias carries the shift.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from mmopt.models.dropout import Dropout, dropout
from mmopt.models.sparse import Csr

LOG_VARIANCE_RANGE = (-8.0, 6.0)
CLIP = 10.0  # standard deviations


class Trunk(nn.Module):
    """What follows the first layer: normalise, activate, and give the expert's two parameters."""

    def __init__(self, n_hidden: int, n_latent: int, dropout_rate: float):
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(n_hidden), nn.SiLU(), Dropout(dropout_rate))
        self.head = nn.Linear(n_hidden, 2 * n_latent)
        with torch.no_grad():  # experts start near the prior, so that none dominates the product by accident
            self.head.weight.mul_(0.5)
            self.head.bias.zero_()

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.head(self.body(hidden)).chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


class RnaEncoder(nn.Module):
    """log1p of counts per ten thousand, standardised."""

    def __init__(self, n_features: int, n_hidden: int, n_latent: int, dropout_rate: float):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.dropout = Dropout(dropout_rate)
        self.first = nn.Linear(n_features, n_hidden)
        self.trunk = Trunk(n_hidden, n_latent, dropout_rate)

    def normalise(self, counts: Csr) -> Tensor:
        per_ten_thousand = counts.counts * (1e4 / counts.totals().clamp_min(1))[counts.rows]
        return counts._replace(counts=torch.log1p(per_ten_thousand)).dense(len(self.mean))

    def forward(self, counts: Csr) -> tuple[Tensor, Tensor]:
        x = ((self.normalise(counts) - self.mean) / self.scale).clamp(-CLIP, CLIP)
        return self.trunk(self.first(self.dropout(x)))


class ProteinEncoder(RnaEncoder):
    """Centred log-ratio of the counts (log1p minus the cell's mean), standardised."""

    def normalise(self, counts: Csr) -> Tensor:
        logs = counts._replace(counts=torch.log1p(counts.counts)).dense(len(self.mean))
        return logs - logs.mean(1, keepdim=True)


class AtacEncoder(nn.Module):
    """Binary TF-IDF of the accessible peaks, standardised without leaving the sparse form.

    ``log1p(1e4 * tf * idf)`` with ``tf`` = 1 / number of accessible peaks of the cell.
    """

    def __init__(self, n_features: int, n_hidden: int, n_latent: int, dropout_rate: float):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("idf", torch.ones(n_features))
        self.dropout_rate = dropout_rate
        self.weight = nn.Parameter(
            torch.empty(n_features, n_hidden).uniform_(-1, 1) / n_features**0.5
        )  # as nn.Linear
        self.bias = nn.Parameter(torch.zeros(n_hidden))
        self.trunk = Trunk(n_hidden, n_latent, dropout_rate)

    @torch.no_grad()
    def centre(self) -> None:
        """Let the bias undo the mean input, as subtracting it from every value would."""
        self.bias.copy_(-(self.mean / self.scale) @ self.weight)

    def forward(self, counts: Csr) -> tuple[Tensor, Tensor]:
        indptr, _, indices, _ = counts
        tf = (1e4 / counts.lengths.clamp_min(1))[counts.rows]
        value = torch.log1p(tf * self.idf[indices]) / self.scale[indices]
        ceiling = self.mean[indices] / self.scale[indices] + CLIP
        value = dropout(torch.minimum(value, ceiling), self.dropout_rate, self.training)
        if self.training or not torch.is_grad_enabled():
            hidden = embedding_bag(
                indices, self.weight, indptr, per_sample_weights=value, mode="sum", include_last_offset=True
            )
        else:  # embedding_bag has no second derivative, which curvature needs
            hidden = counts.row_sums(value[:, None] * self.weight[indices])
        return self.trunk(hidden + self.bias)

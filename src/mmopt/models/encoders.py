"""From the counts of one modality to the mean and log-variance of its expert.

Inputs are standardised per feature. Dense modalities are standardised as they come; ATAC stays sparse up to its first
layer, whose weights carry the scale and whose bias carries the shift; with many peaks the first layer is not learned.
"""

import torch
from torch import Tensor, nn

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

    def standardised(self, counts: Csr, measured: Tensor | None = None) -> Tensor:
        """Return the dense input; most of it are zero counts, which differ only from gene to gene.

        ``measured`` is for proteins: of genes all are.
        """
        size = (1e4 / counts.totals().clamp_min(1)).index_select(0, counts.rows)
        mean, scale = (t.index_select(0, counts.indices) for t in (self.mean, self.scale))
        x = (-self.mean / self.scale).clamp(-CLIP, CLIP).repeat(len(counts.lengths), 1)
        values = ((torch.log1p(counts.counts * size) - mean) / scale).clamp(-CLIP, CLIP)
        x.view(-1).scatter_(0, counts.places(len(self.mean)), values)
        return x

    def forward(self, counts: Csr, measured: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.trunk(self.first(self.dropout(self.standardised(counts, measured))))


class ProteinEncoder(RnaEncoder):
    """Centred log-ratio of the counts (log1p minus the cell's mean), standardised.

    Proteins that are not ``measured`` (cells × proteins) do not enter the cell's mean, and count as average.
    """

    def standardised(self, counts: Csr, measured: Tensor | None = None) -> Tensor:
        logs = counts._replace(counts=torch.log1p(counts.counts)).dense(len(self.mean))
        if measured is None:
            return ((logs - logs.mean(1, keepdim=True) - self.mean) / self.scale).clamp(-CLIP, CLIP)
        mean = (logs * measured).sum(1, keepdim=True) / measured.sum(1, keepdim=True).clamp_min(1)
        return ((logs - mean - self.mean) / self.scale).clamp(-CLIP, CLIP) * measured


class TfIdf(nn.Module):
    """Binary TF-IDF of the accessible peaks, standardised without leaving the sparse form.

    ``log1p(1e4 * tf * idf)`` with ``tf`` = 1 / number of accessible peaks of the cell.
    """

    def __init__(self, n_features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("idf", torch.ones(n_features))

    def normalise(self, counts: Csr) -> Tensor:
        """Return the standardised value of each stored count, less that of a closed peak."""
        peaks = counts.indices
        tf = (1e4 / counts.lengths.clamp_min(1)).index_select(0, counts.rows)
        value = torch.log1p(tf * self.idf.index_select(0, peaks))
        ceiling = (self.mean + CLIP * self.scale).index_select(0, peaks)
        return torch.minimum(value, ceiling) / self.scale.index_select(0, peaks)

    def average(self, weight: Tensor) -> Tensor:
        """Return what a first layer of these weights makes of the average cell: what its bias has to undo."""
        return (self.mean / self.scale) @ weight


class AtacEncoder(TfIdf):
    """Standardised TF-IDF and a first layer that is learned."""

    def __init__(self, n_features: int, n_hidden: int, n_latent: int, dropout_rate: float):
        super().__init__(n_features)
        self.dropout_rate = dropout_rate
        # as nn.Linear
        self.weight = nn.Parameter(torch.empty(n_features, n_hidden).uniform_(-1, 1) / n_features**0.5)
        self.bias = nn.Parameter(torch.zeros(n_hidden))
        self.trunk = Trunk(n_hidden, n_latent, dropout_rate)

    @torch.no_grad()
    def centre(self) -> None:
        """Let the bias undo the mean input, as subtracting it from every value would."""
        self.bias.copy_(-self.average(self.weight))

    def forward(self, counts: Csr, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        value = dropout(self.normalise(counts), self.dropout_rate, self.training)
        if self.training or not torch.is_grad_enabled():
            hidden = counts.product(value, self.weight)
        else:  # that product has no second derivative, which curvature needs
            hidden = counts.row_sums(value[:, None] * self.weight[counts.indices])
        return self.trunk(hidden + self.bias)


class ProjectedAtacEncoder(TfIdf):
    """Standardised TF-IDF, projected to leading components of the data (latent semantic indexing), which are not learned.

    With many peaks a first layer that is learned is most of the model and of the work, and predicts held-out cells
    worse. A cell's projection never changes, so in training each is computed once: between :meth:`keep` and
    :meth:`forget`, for cells whose number in the data is given.
    """

    def __init__(self, n_features: int, n_hidden: int, n_latent: int, dropout_rate: float, n_components: int):
        super().__init__(n_features)
        self.register_buffer("components", torch.zeros(n_features, n_components))
        self.register_buffer("shift", torch.zeros(n_components))
        self.first = nn.Linear(n_components, n_hidden)
        self.trunk = Trunk(n_hidden, n_latent, dropout_rate)
        self.forget()

    @torch.no_grad()
    def centre(self) -> None:
        """Let the average cell lie at the origin."""
        self.shift.copy_(self.average(self.components))

    def keep(self, n_rows: int) -> None:
        """Keep the projections of the rows of one data set, each from when it is first computed."""
        self._kept = torch.empty(n_rows, len(self.shift))
        self._known = torch.zeros(n_rows, dtype=torch.bool)

    def forget(self) -> None:
        self._kept = self._known = None

    @torch.no_grad()
    def project(self, counts: Csr) -> Tensor:
        return counts.product(self.normalise(counts), self.components) - self.shift

    def forward(self, counts: Csr, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if at is None or self._kept is None:
            return self.trunk(self.first(self.project(counts)))
        if not self._known[at].all():
            self._kept[at] = self.project(counts)
            self._known[at] = True
        return self.trunk(self.first(self._kept[at]))

"""From the latent state and the batch to the expected counts of one modality, and their log-likelihood per cell.

Every decoder has a second, lean way to the likelihood, for training and wherever no gradient is asked for: faster and
with less memory, but differentiable only once.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, softplus

from mmopt.models import peaks
from mmopt.models.dropout import Dropout
from mmopt.models.genes import negative_binomial_of_shares
from mmopt.models.likelihoods import (
    expected_log1p,
    multinomial,
    negative_binomial,
    negative_binomial_mixture,
)
from mmopt.models.sparse import Csr


class FirstLayer(nn.Linear):
    """Linear in the latent state and the batch, with weights of their own for batches added later (the last inputs)."""

    def __init__(self, n_in: int, n_out: int, n_added: int = 0):
        super().__init__(n_in - n_added, n_out)
        self.added = nn.Parameter(torch.zeros(n_out, n_added)) if n_added else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, joined(self.weight, self.added, 1), self.bias)


def joined(kept: Tensor, added: Tensor | None, dim: int) -> Tensor:
    """Put what belongs to added batches behind what belongs to the batches that were there before."""
    return kept if added is None else torch.cat([kept, added], dim)


def _body(n_latent: int, n_batch: int, n_hidden: int, dropout_rate: float, n_added: int = 0) -> nn.Sequential:
    return nn.Sequential(
        FirstLayer(n_latent + n_batch, n_hidden, n_added),
        nn.LayerNorm(n_hidden),
        nn.SiLU(),
        Dropout(dropout_rate),
    )


def _head(n_hidden: int, n_out: int) -> nn.Linear:
    head = nn.Linear(n_hidden, n_out)
    # small weights: decoding starts at the data's average profile, which the bias holds
    with torch.no_grad():
        head.weight.mul_(0.3)
        head.bias.zero_()
    return head


class RnaDecoder(nn.Module):
    """Negative binomial with the observed library size and one dispersion per gene."""

    def __init__(
        self,
        n_features: int,
        n_latent: int,
        n_batch: int,
        n_hidden: int,
        dropout_rate: float,
        n_added: int = 0,
    ):
        super().__init__()
        self.body = _body(n_latent, n_batch, n_hidden, dropout_rate, n_added)
        self.head = _head(n_hidden, n_features)
        self.log_theta = nn.Parameter(torch.zeros(n_features))

    def lean(self, z: Tensor, batch: Tensor) -> Tensor:
        """Return unnormalised logarithms of the shares."""
        return self.head(self.body(torch.cat([z, batch], 1)))

    def forward(self, z: Tensor, batch: Tensor) -> Tensor:
        """Return the logarithm of each gene's share of the library (cells × genes)."""
        return log_softmax(self.lean(z, batch), 1)

    def lean_log_likelihood(self, logits: Tensor, counts: Csr) -> Tensor:
        return negative_binomial_of_shares(counts, logits, self.log_theta)

    def log_likelihood_towards(
        self, log_profile: Tensor, strength: float, logits: Tensor, counts: Csr
    ) -> Tensor:
        """Log-likelihood with the logits drawn towards a profile: 1 leaves them, 0 is the profile."""
        return self.lean_log_likelihood(strength * logits + (1 - strength) * log_profile, counts)

    def log_likelihood(self, log_share: Tensor, counts: Csr) -> Tensor:
        return negative_binomial(
            counts, log_share + counts.totals().clamp_min(1).log()[:, None], self.log_theta
        )


class ProteinDecoder(nn.Module):
    """Negative-binomial mixture of background and foreground per protein; the background belongs to the batch."""

    def __init__(
        self,
        n_features: int,
        n_latent: int,
        n_batch: int,
        n_hidden: int,
        dropout_rate: float,
        n_added: int = 0,
    ):
        super().__init__()
        self.body = _body(n_latent, n_batch, n_hidden, dropout_rate, n_added)
        self.increment = _head(n_hidden, n_features)
        self.mixing = _head(n_hidden, n_features)
        self.log_background = nn.Parameter(torch.zeros(n_batch - n_added, n_features))
        self.log_theta = nn.Parameter(torch.zeros(n_batch - n_added, n_features))
        self.added_background = nn.Parameter(torch.zeros(n_added, n_features)) if n_added else None
        self.added_theta = nn.Parameter(torch.zeros(n_added, n_features)) if n_added else None

    def forward(self, z: Tensor, batch: Tensor) -> dict[str, Tensor]:
        hidden = self.body(torch.cat([z, batch], 1))
        log_background = batch @ joined(self.log_background, self.added_background, 0)
        return {
            "log_background": log_background,
            "log_foreground": log_background + softplus(self.increment(hidden)),
            "background_logit": self.mixing(hidden),
            "log_theta": batch @ joined(self.log_theta, self.added_theta, 0),
        }

    def log_likelihood(
        self, parameters: dict[str, Tensor], counts: Csr, measured: Tensor | None = None
    ) -> Tensor:
        each = negative_binomial_mixture(counts.dense(self.mixing.out_features), **parameters)
        return (each if measured is None else each * measured).sum(1)

    lean, lean_log_likelihood = forward, log_likelihood

    @staticmethod
    def expected(parameters: dict[str, Tensor]) -> Tensor:
        """Return expected counts (cells × proteins)."""
        background, foreground = parameters["log_background"].exp(), parameters["log_foreground"].exp()
        return foreground + torch.sigmoid(parameters["background_logit"]) * (background - foreground)

    @staticmethod
    def log_level(parameters: dict[str, Tensor]) -> Tensor:
        """Return the expectation of log1p of the count (cells × proteins), which is below log1p of the expected count."""
        background, foreground = (
            expected_log1p(parameters[f"log_{which}"], parameters["log_theta"])
            for which in ("background", "foreground")
        )
        return foreground + torch.sigmoid(parameters["background_logit"]) * (background - foreground)


class AtacDecoder(nn.Module):
    """Multinomial over peaks given the cell's fragments: a low-rank head and a bias per peak.

    The head's weights carry a Gaussian prior whose strength falls with the number of cells: with few cells and many
    peaks an unpenalised head predicts held-out cells worse than the average profile does.
    """

    PRIOR_PRECISION = 100.0

    def __init__(
        self,
        n_features: int,
        n_latent: int,
        n_batch: int,
        n_hidden: int,
        dropout_rate: float,
        n_added: int = 0,
        *,
        rank: int,
        one_in: int = 1,
    ):
        super().__init__()
        self.body = _body(n_latent, n_batch, n_hidden, dropout_rate, n_added)
        self.low_rank = nn.Linear(n_hidden, rank)
        self.head = _head(rank, n_features)
        self.one_in = one_in

    def lean(self, z: Tensor, batch: Tensor) -> Tensor:
        """Return what goes into the head (cells × rank)."""
        return self.low_rank(self.body(torch.cat([z, batch], 1)))

    def forward(self, z: Tensor, batch: Tensor) -> Tensor:
        """Return unnormalised log-probabilities (cells × peaks)."""
        return self.head(self.lean(z, batch))

    @staticmethod
    def log_likelihood(logits: Tensor, counts: Csr) -> Tensor:
        return multinomial(counts, logits)

    def lean_log_likelihood(self, hidden: Tensor, counts: Csr) -> Tensor:
        """In training look at one peak of ``one_in``, else at all of them."""
        one_in = self.one_in if self.training else 1
        return peaks.multinomial(counts, hidden, self.head.weight, self.head.bias, one_in)

    def log_likelihood_towards(
        self, log_profile: Tensor, strength: float, hidden: Tensor, counts: Csr
    ) -> Tensor:
        """Log-likelihood at all peaks with the logits drawn towards a profile: 1 leaves them, 0 is the profile."""
        bias = strength * self.head.bias + (1 - strength) * log_profile
        return peaks.multinomial(counts, strength * hidden, self.head.weight, bias)

    def penalty(self) -> Tensor:
        """Negative log-prior of the two head matrices, for the whole data set."""
        norms = (torch.linalg.vector_norm(w).square() for w in (self.low_rank.weight, self.head.weight))
        return self.PRIOR_PRECISION * sum(norms)

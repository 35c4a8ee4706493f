"""What is said of a modality that was not measured: how many counts it would have had, and how far to trust its profile."""

import numpy as np
import torch
from torch import Tensor, nn

PENALTIES = np.logspace(-1, 5, 25)
MIN_CELLS = 10


class Depth(nn.Module):
    """Total counts of one modality given the others, and the strength of its profile, for every subset of modalities heard.

    The logarithm of the total is linear in the latent mean, in the logarithms of the totals and of the numbers of detected
    features of the modalities heard (of two cells with as many transcripts, the one with more genes is the better one), and
    in the batch. Before :meth:`fit`, and where nothing was learned, it is the median of the data.

    A subset is written as an integer with bit ``i`` set if modality ``i`` is heard.

    Attributes
    ----------
    spread
        Standard deviation of the logarithm around its prediction, from cells left out.
    strength
        Exponent of the decoded profile, relative to the average profile of the data: 1 trusts it, 0 ignores it.
    """

    def __init__(self, n_latent: int, n_modalities: int, n_batch: int):
        super().__init__()
        n_subsets = 2**n_modalities
        self.register_buffer("weight", torch.zeros(n_subsets, n_latent + 2 * n_modalities + n_batch))
        self.register_buffer("intercept", torch.zeros(n_subsets))
        self.register_buffer("spread", torch.zeros(n_subsets))
        self.register_buffer("strength", torch.ones(n_subsets))

    def forward(self, heard: Tensor, z: Tensor, log_sizes: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of the logarithm of each cell's total.

        Parameters
        ----------
        heard
            The subset of modalities heard of each cell.
        z, log_sizes, batch
            Latent means; logarithms of 1 + total counts of each modality, then of 1 + its detected features, 0 where it is not
            heard; shares of batches.
        """
        x = torch.cat([z, log_sizes, batch], 1)
        return (self.weight[heard] * x).sum(1) + self.intercept[heard], self.spread[heard]

    @torch.no_grad()
    def reset(self, totals: np.ndarray) -> None:
        """Predict the median of ``totals`` for every cell, with the spread that they have."""
        logs = np.log(np.maximum(totals, 1))
        self.weight.zero_()
        self.strength.fill_(1)
        self.intercept.fill_(float(np.median(logs)))
        self.spread.fill_(float(logs.std()))

    @torch.no_grad()
    def fit(self, heard: int, x: np.ndarray, totals: np.ndarray) -> None:
        """Learn the regression for one subset, from the inputs of :meth:`forward` side by side and the true totals."""
        weight, intercept, spread = ridge(x, np.log(np.maximum(totals, 1)))
        self.weight[heard] = torch.as_tensor(weight, dtype=self.weight.dtype)
        self.intercept[heard], self.spread[heard] = intercept, spread

    @torch.no_grad()
    def copy_subset(self, heard: int, source: int) -> None:
        """Answer for one subset as for another."""
        for values in (self.weight, self.intercept, self.spread, self.strength):
            values[heard] = values[source]


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Ridge regression on standardised inputs, its penalty chosen by leaving each row out in turn.

    Parameters
    ----------
    x, y
        Rows × inputs, and one value for each row.

    Returns
    -------
    Weights, intercept, and the root mean square of the residuals of rows left out.
    """
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-6] = np.inf  # a constant input gets no weight
    u, s, vt = np.linalg.svd((x - mean) / scale, full_matrices=False)
    projected, centred = u.T @ (y - y.mean()), y - y.mean()
    best = (np.inf, None)
    for penalty in PENALTIES:
        shrunk = s**2 / (s**2 + penalty)
        leverage = 1 / len(y) + (u**2) @ shrunk
        left_out = (centred - u @ (shrunk * projected)) / np.maximum(1 - leverage, 1e-6)
        best = min(best, (float(np.sqrt(np.mean(left_out**2))), penalty), key=lambda b: b[0])
    spread, penalty = best
    weight = vt.T @ (s / (s**2 + penalty) * projected) / scale
    return weight, float(y.mean() - mean @ weight), spread

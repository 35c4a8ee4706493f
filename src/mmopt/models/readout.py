"""What the decoders say of one modality for the cells of a minibatch, measured or not."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Normal

from mmopt.models.module import TriModule


def heard_code(present: Tensor) -> Tensor:
    """Write which modalities are heard of each cell (modalities × cells) as integers, bit ``i`` for modality ``i``."""
    bits = 2 ** torch.arange(len(present), device=present.device)
    return (present * bits[:, None]).sum(0)


def log_sizes(module: TriModule, tensors: dict[str, Tensor], present: Tensor) -> Tensor:
    """Return log1p of each modality's total counts, then of its detected features, 0 where not heard (cells × 2 modalities)."""
    out = torch.zeros(2, *present.shape, device=present.device)
    for i, m in enumerate(module.modalities):
        sizes = torch.stack([tensors[m].totals(), tensors[m].lengths]).to(out.device)
        out[:, i] = out[:, i].index_copy(1, tensors[f"{m}_rows"].to(out.device), torch.log1p(sizes))
    return (out * present).flatten(0, 1).T


def batch_shares(measured: Tensor, batch: Tensor) -> Tensor:
    """Return one-hot batches, or equal shares of all that measured the modality where a cell's batch did not."""
    one = torch.eye(len(measured), device=batch.device)[batch]
    seen = measured.any(1)
    return torch.where(seen[batch][:, None], one, seen / seen.sum().clamp_min(1))


class Readout:
    """Levels and counts of a modality at latent states of the cells of a minibatch.

    A cell has its own depth if it was measured in the modality and the modality was heard (so that what is predicted
    from other modalities knows nothing of it), else the one that :class:`mmopt.models.depth.Depth` predicts.

    Cells of a batch that never measured a modality, or a protein, are read as in the batches that did: levels are their
    mean (of protein, on the logarithmic scale), counts come from one of them at random.

    Parameters
    ----------
    module
        The network.
    modality
        What to read.
    tensors, posterior
        A minibatch and the answer of ``module.inference`` to it.
    batch
        Batches to decode in, the cells' own if not given.
    library_size
        Depth of all cells, instead of what is said above.
    """

    def __init__(
        self,
        module: TriModule,
        modality: str,
        tensors: dict[str, Tensor],
        posterior: dict,
        *,
        batch: Tensor | None = None,
        library_size: float | None = None,
    ):
        self.module, self.modality = module, modality
        present = posterior["present"]
        self.batch = tensors["batch"].to(present.device) if batch is None else batch
        self.measured = getattr(module, f"measured_{modality}")
        if modality == "prot":
            return
        depth = module.depths[modality]
        heard = heard_code(present)
        self.strength = depth.strength[heard][:, None]
        self.log_depth, self.spread = depth(
            heard,
            posterior["qz"].loc,
            log_sizes(module, tensors, present),
            batch_shares(self.measured, self.batch),
        )
        self.own = torch.full_like(self.log_depth, torch.nan)
        rows = tensors[f"{modality}_rows"].to(present.device)
        if library_size is not None:
            self.own.fill_(library_size)
        else:
            self.own[rows] = tensors[modality].totals().to(present.device)
            self.own[~present[module.modalities.index(modality)]] = torch.nan

    def state(
        self, qz: Normal, generator: torch.Generator | None = None, *, any_depth: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return latent states and depths: draws from the posterior, or its mean without a generator.

        Depths are drawn only with ``any_depth``: their expectation is known, and drawing would add noise to a mean.
        """
        z = qz.loc
        if generator is not None:
            z = z + qz.scale * torch.randn(z.shape, generator=generator).to(z.device)
        if self.modality == "prot":
            return z, None
        predicted = (self.log_depth + self.spread.square() / 2).exp()
        if generator is not None:
            # also where it is not used: same draws of z
            noise = torch.randn(len(z), generator=generator).to(z.device)
            if any_depth:
                predicted = (self.log_depth + self.spread * noise).exp()
        return z, torch.where(self.own.isnan(), predicted, self.own)

    def levels(self, z: Tensor, depth: Tensor | None) -> Tensor:
        """Return expected counts; of protein, log1p of the level (cells × features)."""
        if self.modality == "prot":
            return self._across_batches(
                z, lambda z, batch, _: self.module.decoders["prot"].log_level(self._decode(z, batch)), "mean"
            )
        shares = self._across_batches(z, lambda *at: torch.softmax(self._logits(*at), 1), "mean")
        return shares * depth[:, None]

    def counts(self, z: Tensor, depth: Tensor | None) -> Tensor:
        """Draw counts, with torch's global generator (cells × features)."""

        def draw(z: Tensor, batch: Tensor, cells: Tensor) -> Tensor:
            if self.modality == "prot":
                return draw_protein(self._decode(z, batch))
            shares = torch.softmax(self._logits(z, batch, cells), 1)
            if self.modality == "rna":
                theta = self.module.decoders["rna"].log_theta.exp()
                return draw_negative_binomial(shares * depth[cells, None], theta)
            return draw_multinomial(shares, depth[cells].round().long())

        return self._across_batches(z, draw, "pick")

    def _decode(self, z: Tensor, batch: Tensor) -> Tensor | dict[str, Tensor]:
        return self.module._decode(self.modality, z, batch)

    def _logits(self, z: Tensor, batch: Tensor, cells: Tensor) -> Tensor:
        logits, strength = cast(Tensor, self._decode(z, batch)), self.strength[cells]
        if bool((strength == 1).all()):
            return logits
        return strength * logits + (1 - strength) * getattr(self.module, f"log_profile_{self.modality}")

    def _across_batches(
        self, z: Tensor, read: Callable[[Tensor, Tensor, Tensor], Tensor], how: str
    ) -> Tensor:
        """Read in each cell's batch, or in those that measured the feature where that one did not."""
        everyone = torch.arange(len(z), device=z.device)
        out = read(z, self.batch, everyone)
        own = self.measured[self.batch]
        cells = everyone[~own.all(1)]
        if not len(cells):
            return out
        weights = self.measured.to(z.dtype)
        if how == "pick":  # one of the batches for each cell and feature, all equally likely
            choice = torch.rand(len(cells), *weights.shape, device=z.device) * weights
            weights = torch.zeros_like(choice).scatter_(1, choice.argmax(1, keepdim=True), 1.0)
        else:
            weights = (weights / weights.sum(0).clamp_min(1)).expand(len(cells), -1, -1)
        mixed = torch.zeros_like(out[cells])
        for b in torch.nonzero(self.measured.any(1))[:, 0].tolist():
            mixed += weights[:, b] * read(z[cells], torch.full_like(cells, b), cells)
        out = out.clone()
        out[cells] = torch.where(own[cells], out[cells], mixed)
        return out


class Readouts:
    """What one network, or several, say of a minibatch: their mean, or draws that each come from one of them.

    Parameters
    ----------
    each
        Of each network what reads it, and its posterior.
    first
        The network from which the first draw comes, the same for all minibatches of a call; see :func:`any_of`.
    """

    def __init__(self, each: list[tuple[Readout, Normal]], first: int = 0):
        self.each, self.first = each, first

    def mean_levels(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Mean level over the networks, and in each over so many draws of its posterior; with 1 at its mean."""
        source = generator if n_samples > 1 else None
        return torch.stack(
            [
                readout.levels(*readout.state(qz, source))
                for readout, qz in self.each
                for _ in range(n_samples)
            ]
        ).mean(0)

    def drawn_levels(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draws of the level (draws × cells × features); one alone is the mean at the posterior means."""
        if n_samples == 1:
            return self.mean_levels(1, generator)[None]
        return torch.stack(
            [
                readout.levels(*readout.state(qz, generator, any_depth=True))
                for readout, qz in self._in_turn(n_samples)
            ]
        )

    def drawn_counts(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draws of counts (draws × cells × features), with torch's global generator."""
        return torch.stack(
            [
                readout.counts(*readout.state(qz, generator, any_depth=True))
                for readout, qz in self._in_turn(n_samples)
            ]
        )

    def _in_turn(self, n: int) -> list[tuple[Readout, Normal]]:
        """Go through the networks one after the other."""
        return [self.each[(self.first + i) % len(self.each)] for i in range(n)]


def any_of(n_networks: int, generator: torch.Generator) -> int:
    """Choose a network, without a random number where there is but one."""
    return int(torch.randint(n_networks, (), generator=generator)) if n_networks > 1 else 0


def draw_negative_binomial(mean: Tensor, theta: Tensor) -> Tensor:
    """Draw counts of the given means, with one dispersion for each feature."""
    if mean.device.type == "mps":  # which draws neither gamma nor Poisson
        return draw_negative_binomial(mean.cpu(), theta.cpu()).to(mean.device)
    theta = theta.expand_as(mean)
    rate = torch._standard_gamma(theta) * mean / theta
    return torch.poisson(rate)


def draw_protein(parameters: dict[str, Tensor]) -> Tensor:
    """Draw counts from background or foreground."""
    background = torch.bernoulli(torch.sigmoid(parameters["background_logit"])).bool()
    mean = torch.where(background, parameters["log_background"], parameters["log_foreground"]).exp()
    return draw_negative_binomial(mean, parameters["log_theta"].exp())


def draw_multinomial(shares: Tensor, totals: Tensor) -> Tensor:
    """Draw ``totals[i]`` counts with probabilities ``shares[i]``, for each row."""
    most = int(totals.max()) if len(totals) else 0
    out = torch.zeros_like(shares)
    if most:
        drawn = torch.multinomial(shares, most, replacement=True)
        kept = (torch.arange(most, device=shares.device) < totals[:, None]).to(shares.dtype)
        out.scatter_add_(1, drawn, kept)
    return out

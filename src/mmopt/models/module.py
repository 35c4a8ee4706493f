"""The network of TriVI: encoders, product of experts, decoders and the evidence lower bound."""

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal

from mmopt.models import fusion
from mmopt.models.decoders import AtacDecoder, ProteinDecoder, RnaDecoder
from mmopt.models.encoders import AtacEncoder, ProteinEncoder, RnaEncoder

ENCODERS = {"rna": RnaEncoder, "atac": AtacEncoder, "prot": ProteinEncoder}
DECODERS = {"rna": RnaDecoder, "atac": AtacDecoder, "prot": ProteinDecoder}
SAMPLED_ABOVE, SAMPLE = 8_192, 3_000  # peaks; with fewer, all of them cost little
PROJECTED_ABOVE = 8_192  # peaks; with more, the first layer of the encoder is most of the model


class TriModule(BaseModuleClass):
    """Variational autoencoder of one to three modalities, any of which a cell may lack.

    A minibatch holds, per modality, the measured rows only (as :class:`mmopt.models.sparse.Csr`) and
    ``<modality>_rows``, their places in the minibatch; so nothing is computed for absent rows and a row of zeros is a measurement like any other.

    Parameters
    ----------
    n_features
        Number of features of each modality in use; its keys are the modalities, in order.
    n_batch
        Number of batches, at least 1.
    n_latent, n_hidden, atac_rank
        Sizes of the latent space, of the hidden layers and of the bottleneck before the peaks (also behind them, in
        the encoder, if there are more than 8,192).
    peaks_per_step
        The ATAC likelihood of a training step looks at so many peaks (or somewhat more), drawn anew each time; see
        :mod:`mmopt.models.peaks`. Held-out likelihoods always look at all. If not given: 3,000 if there are more than
        8,192 peaks, else all.
    dropout_rate
        Dropout of inputs and hidden units.
    modality_dropout
        Probability with which a modality is withheld from a cell's posterior in training.
    alignment
        Weight of the squared distance between each expert's mean and the joint mean.
    """

    def __init__(
        self,
        n_features: dict[str, int],
        n_batch: int = 1,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        atac_rank: int = 32,
        peaks_per_step: int | None = None,
        dropout_rate: float = 0.3,
        modality_dropout: float = 0.3,
        alignment: float = 0.5,
    ):
        super().__init__()
        self.modalities = tuple(n_features)
        self.n_latent = n_latent
        self.modality_dropout = modality_dropout
        self.alignment = alignment
        n_peaks = n_features.get("atac", 0)
        peaks_per_step = peaks_per_step or (SAMPLE if n_peaks > SAMPLED_ABOVE else max(n_peaks, 1))
        of_encoder = {"atac": {"rank": atac_rank if n_peaks > PROJECTED_ABOVE else None}}
        of_decoder = {"atac": {"rank": atac_rank, "one_in": max(1, n_peaks // peaks_per_step)}}
        self.encoders = nn.ModuleDict(
            {
                m: ENCODERS[m](n, n_hidden, n_latent, dropout_rate, **of_encoder.get(m, {}))
                for m, n in n_features.items()
            }
        )
        self.decoders = nn.ModuleDict(
            {
                m: DECODERS[m](n, n_latent, n_batch, n_hidden, dropout_rate, **of_decoder.get(m, {}))
                for m, n in n_features.items()
            }
        )
        self.register_buffer("n_cells", torch.tensor(1.0))
        for m in self.modalities:
            self.register_buffer(f"depth_{m}", torch.tensor(1.0))  # median counts of a measured cell
            self.register_buffer(f"decoded_as_{m}", torch.eye(n_batch))

    @torch.no_grad()
    def adopt(
        self, statistics: dict[str, dict[str, np.ndarray]], seen: dict[str, np.ndarray], n_cells: int
    ) -> None:
        """Start from the data: input scales, average profiles, and the batches in which each modality was measured.

        A batch that never had a modality has untrained decoder weights for it; it is decoded as the average of the
        batches that had it.
        """

        def set_(target: Tensor, value: np.ndarray) -> None:
            target.copy_(torch.as_tensor(value, dtype=target.dtype))

        set_(self.n_cells, n_cells)
        for m, s in statistics.items():
            encoder, decoder = self.encoders[m], self.decoders[m]
            set_(encoder.mean, s["mean"])
            set_(encoder.scale, s["scale"])
            set_(
                getattr(self, f"decoded_as_{m}"),
                np.where(seen[m][:, None], np.eye(len(seen[m])), seen[m] / seen[m].sum()),
            )
            if m == "prot":
                set_(decoder.log_background, s["log_background"])
                set_(decoder.increment.bias, np.log(np.expm1(s["step"])))
                continue
            set_(getattr(self, f"depth_{m}"), s["depth"])
            set_(decoder.head.bias, s["log_profile"])
            if m == "atac":
                set_(encoder.idf, s["idf"])
                encoder.centre()

    def _get_inference_input(self, tensors: dict[str, Tensor], **_) -> dict:
        return {"tensors": tensors}

    def _get_generative_input(self, tensors: dict[str, Tensor], inference_outputs: dict, **_) -> dict:
        return {"z": inference_outputs["z"], "tensors": tensors}

    @auto_move_data
    def inference(
        self, tensors: dict[str, Tensor], given: tuple[str, ...] | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor | Normal]:
        """Posterior of each cell from its measured modalities, or from those of them in ``given``."""
        n_cells = len(tensors["batch"])
        shape = (len(self.modalities), n_cells, self.n_latent)
        device = tensors["batch"].device
        means, log_variances = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        present = torch.zeros(shape[:2], dtype=torch.bool, device=device)
        for i, m in enumerate(self.modalities):
            if given is not None and m not in given:
                continue
            rows = tensors[f"{m}_rows"]
            mean, log_variance = self.encoders[m](tensors[m])
            means[i] = means[i].index_copy(0, rows, mean.float())
            log_variances[i] = log_variances[i].index_copy(0, rows, log_variance.float())
            present[i] = present[i].index_fill(0, rows, True)
        heard = fusion.drop_modalities(present, self.modality_dropout) if self.training else present
        mean, variance = fusion.product_of_experts(means, log_variances, heard)
        qz = Normal(
            mean, variance.sqrt(), validate_args=False
        )  # the guard names the modality that went wrong
        if noise is None:
            noise = torch.randn_like(mean)
        return {
            "z": mean + qz.scale * noise.to(device),
            "qz": qz,
            "expert_means": means,
            "expert_log_variances": log_variances,
            "present": present,
            "heard": heard,
        }

    @property
    def _lean(self) -> bool:
        """Whether second derivatives are not wanted."""
        return self.training or not torch.is_grad_enabled()

    def _decode(
        self, modality: str, z: Tensor, batch: Tensor, lean: bool = False
    ) -> Tensor | dict[str, Tensor]:
        decoder = self.decoders[modality]
        batch = getattr(self, f"decoded_as_{modality}")[batch]
        return decoder.lean(z, batch) if lean else decoder(z, batch)

    def generative(
        self, z: Tensor, tensors: dict[str, Tensor], lean: bool | None = None
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Parameters of every modality's likelihood for the rows in which it was measured.

        In training also where there are none: processes that train together must all touch every parameter.
        """
        lean = self._lean if lean is None else lean
        return {
            m: self._decode(m, z[rows], tensors["batch"][rows], lean)
            for m in self.modalities
            if len(rows := tensors[f"{m}_rows"]) or self.training
        }

    @auto_move_data
    def expected(self, modality: str, z: Tensor, batch: Tensor, depth: Tensor) -> Tensor:
        """Return expected counts: shares times ``depth`` for RNA and ATAC, the log1p-scale level for protein."""
        decoded = self._decode(modality, z, batch)
        if modality == "prot":
            return torch.expm1(self.decoders["prot"].log_level(decoded))
        return torch.softmax(decoded, 1) * depth[:, None]

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict,
        generative_outputs: dict,
        kl_weight: float = 1.0,
    ) -> LossOutput:
        """Negative evidence lower bound per cell, with the alignment of the experts and the prior of the peak head."""
        qz = inference_outputs["qz"]
        kl = 0.5 * (qz.loc.square() + qz.variance - 1 - qz.variance.log()).sum(1)
        reconstruction = {}
        for m in self.modalities:
            reconstruction[f"nll_{m}"] = torch.zeros_like(kl)
            if m in generative_outputs:
                decoder = self.decoders[m]
                log_likelihood = decoder.lean_log_likelihood if self._lean else decoder.log_likelihood
                likelihood = log_likelihood(generative_outputs[m], tensors[m])
                reconstruction[f"nll_{m}"] = reconstruction[f"nll_{m}"].index_copy(
                    0, tensors[f"{m}_rows"], -likelihood
                )
        apart = (inference_outputs["expert_means"] - qz.loc.detach()).square().sum(-1)
        heard = inference_outputs["heard"] if len(self.modalities) > 1 else torch.zeros_like(apart)
        loss = sum(reconstruction.values()).mean() + kl_weight * kl.mean()
        if self.training:
            loss = loss + self.alignment * (apart * heard).sum(0).mean()
            if "atac" in self.decoders:
                loss = loss + self.decoders["atac"].penalty() / self.n_cells
        return LossOutput(
            loss=loss, reconstruction_loss=reconstruction, kl_local={"kl": kl}, n_obs_minibatch=len(kl)
        )

    @torch.inference_mode()
    @auto_move_data
    def sample(self, tensors: dict[str, Tensor], n_samples: int = 1) -> list[dict[str, Tensor]]:
        """Draw counts of the measured modalities from the posterior predictive, ``n_samples`` times."""
        drawn = []
        for _ in range(n_samples):
            z = self.inference(tensors)["z"]
            drawn.append(self._draw(self.generative(z, tensors, lean=False), tensors))
        return drawn

    def _draw(self, decoded: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for m, p in decoded.items():
            if m == "rna":
                mean = p.exp() * tensors["rna"].totals()[:, None]
                theta = self.decoders["rna"].log_theta.exp()
                out[m] = torch.poisson(
                    torch.distributions.Gamma(theta.expand_as(mean), theta / mean).sample()
                )
            elif m == "prot":
                background = torch.bernoulli(torch.sigmoid(p["background_logit"])).bool()
                mean = torch.where(background, p["log_background"], p["log_foreground"]).exp()
                theta = p["log_theta"].exp()
                out[m] = torch.poisson(torch.distributions.Gamma(theta, theta / mean).sample())
            else:
                depths = tensors["atac"].totals().int().tolist()
                rows = [
                    torch.bincount(torch.multinomial(q, n, replacement=True), minlength=p.shape[1])
                    if n
                    else 0 * q
                    for q, n in zip(torch.softmax(p, 1), depths, strict=True)
                ]
                out[m] = torch.stack([row.float() for row in rows])
        return out

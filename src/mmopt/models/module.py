"""The network of TriVI: encoders, product of experts, decoders and the evidence lower bound."""

import numpy as np
import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import one_hot

from mmopt.models import fusion
from mmopt.models.decoders import AtacDecoder, ProteinDecoder, RnaDecoder
from mmopt.models.depth import Depth
from mmopt.models.encoders import AtacEncoder, ProjectedAtacEncoder, ProteinEncoder, RnaEncoder

ENCODERS = {"rna": RnaEncoder, "atac": AtacEncoder, "prot": ProteinEncoder}
DECODERS = {"rna": RnaDecoder, "atac": AtacDecoder, "prot": ProteinDecoder}
SAMPLED_ABOVE, SAMPLE = 8_192, 3_000  # peaks; with fewer, all of them cost little
PROJECTED_ABOVE, COMPONENTS = 8_192, 32  # peaks; with more, the encoder sees so many components of them


class TriModule(BaseModuleClass):
    """Variational autoencoder of one to three modalities, any of which a cell may lack.

    A minibatch holds, per modality, the measured rows only (as :class:`mmopt.models.sparse.Csr`) and
    ``<modality>_rows``, their places in the minibatch; so nothing is computed for absent rows and a row of zeros is a
    measurement like any other. In training ``atac_at`` says which rows of the data those of the peaks are.

    Parameters
    ----------
    n_features
        Number of features of each modality in use; its keys are the modalities, in order.
    n_batch
        Number of batches, at least 1.
    n_latent, n_hidden, atac_rank
        Sizes of the latent space, of the hidden layers and of the bottleneck before the peaks; if not given, the latter
        is 32, with more than 8,192 peaks 16. With so many the encoder sees 32 components of them, see
        :class:`mmopt.models.encoders.ProjectedAtacEncoder`.
    peaks_per_step
        The ATAC likelihood of a training step looks at so many peaks (or somewhat more), drawn anew each time; see
        :mod:`mmopt.models.peaks`. Held-out likelihoods always look at all. If not given: 3,000 if there are more than
        8,192 peaks, else all.
    dropout_rate
        Dropout of inputs (not of the components of peaks) and hidden units.
    modality_dropout
        Probability with which a modality is withheld from a cell's posterior in training.
    alignment
        Weight of the squared distance between each expert's mean and the joint mean.
    n_added_batches
        So many of the batches, the last ones, were added to a model trained without them: what belongs to them is all
        that is trained.
    """

    def __init__(
        self,
        n_features: dict[str, int],
        n_batch: int = 1,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        atac_rank: int | None = None,
        peaks_per_step: int | None = None,
        dropout_rate: float = 0.3,
        modality_dropout: float = 0.3,
        alignment: float = 0.5,
        n_added_batches: int = 0,
    ):
        super().__init__()
        self.modalities = tuple(n_features)
        self.n_latent = n_latent
        self.n_batch, self.n_added_batches = n_batch, n_added_batches
        self.modality_dropout = modality_dropout
        self.alignment = alignment
        n_peaks = n_features.get("atac", 0)
        peaks_per_step = peaks_per_step or (SAMPLE if n_peaks > SAMPLED_ABOVE else max(n_peaks, 1))
        atac_rank = atac_rank or (16 if n_peaks > PROJECTED_ABOVE else 32)
        self.n_components = COMPONENTS if n_peaks > PROJECTED_ABOVE else 0
        encoders, of_encoder = ENCODERS, {}
        if self.n_components:
            encoders, of_encoder = ENCODERS | {"atac": ProjectedAtacEncoder}, {"n_components": COMPONENTS}
        of_decoder = {"atac": {"rank": atac_rank, "one_in": max(1, n_peaks // peaks_per_step)}}
        self.encoders = nn.ModuleDict(
            {
                m: encoders[m](n, n_hidden, n_latent, dropout_rate, **(of_encoder if m == "atac" else {}))
                for m, n in n_features.items()
            }
        )
        self.decoders = nn.ModuleDict(
            {
                m: DECODERS[m](
                    n, n_latent, n_batch, n_hidden, dropout_rate, n_added_batches, **of_decoder.get(m, {})
                )
                for m, n in n_features.items()
            }
        )
        self.register_buffer("n_cells", torch.tensor(1.0))
        for m, n in n_features.items():  # which batch measured a modality; of protein, which of its features
            self.register_buffer(
                f"measured_{m}", torch.ones(n_batch, n if m == "prot" else 1, dtype=torch.bool)
            )
        self.depths = nn.ModuleDict()
        for m, n in n_features.items():
            if m != "prot":
                self.depths[m] = Depth(n_latent, len(n_features), n_batch)
                self.register_buffer(f"log_profile_{m}", torch.zeros(n))
        if n_added_batches:
            freeze(self)

    @torch.no_grad()
    def adopt(
        self, statistics: dict[str, dict[str, np.ndarray]], measured: dict[str, np.ndarray], n_cells: int
    ) -> None:
        """Start from the data: input scales, average profiles, and what each batch measured (batches × 1 or × proteins)."""

        def set_(target: Tensor, value: np.ndarray) -> None:
            target.copy_(torch.as_tensor(value, dtype=target.dtype))

        set_(self.n_cells, n_cells)
        for m, s in statistics.items():
            encoder, decoder = self.encoders[m], self.decoders[m]
            set_(encoder.mean, s["mean"])
            set_(encoder.scale, s["scale"])
            set_(getattr(self, f"measured_{m}"), measured[m])
            if m == "prot":
                set_(decoder.log_background, s["log_background"])
                set_(decoder.increment.bias, np.log(np.expm1(s["step"])))
                continue
            self.depths[m].reset(s["totals"])
            set_(getattr(self, f"log_profile_{m}"), s["log_profile"])
            set_(decoder.head.bias, s["log_profile"])
            if m == "atac":
                set_(encoder.idf, s["idf"])
                if self.n_components:
                    n = s["components"].shape[1]  # fewer where there are few cells
                    set_(encoder.components[:, :n], s["components"])
                encoder.centre()

    def keep_projections(self, n_rows: int) -> None:
        """From here on compute the projection of the peaks of each of so many rows once; see :meth:`forget_projections`."""
        if self.n_components:
            self.encoders["atac"].keep(n_rows)

    def forget_projections(self) -> None:
        if self.n_components:
            self.encoders["atac"].forget()

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
            beside = (tensors.get("atac_at"),) if m == "atac" else self._panel(m, tensors)
            mean, log_variance = self.encoders[m](tensors[m], *beside)
            means[i] = means[i].index_copy(0, rows, mean.float())
            log_variances[i] = log_variances[i].index_copy(0, rows, log_variance.float())
            present[i] = present[i].index_fill(0, rows, True)
        heard = fusion.drop_modalities(present, self.modality_dropout) if self.training else present
        mean, variance = fusion.product_of_experts(means, log_variances, heard)
        # not validated: the guard names the modality that went wrong
        qz = Normal(mean, variance.sqrt(), validate_args=False)
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

    def _panel(self, modality: str, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Which proteins the measured cells' batches have (nothing for other modalities)."""
        if modality != "prot":
            return ()
        panel = self.measured_prot[tensors["batch"][tensors["prot_rows"]]]
        # where a batch had none, what comes later is all measured
        return (panel | ~panel.any(1, keepdim=True),)

    def _decode(
        self, modality: str, z: Tensor, batch: Tensor, lean: bool = False
    ) -> Tensor | dict[str, Tensor]:
        decoder = self.decoders[modality]
        batch = one_hot(batch, self.n_batch).to(z.dtype)
        return decoder.lean(z, batch) if lean else decoder(z, batch)

    def generative(self, z: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor | dict[str, Tensor]]:
        """Parameters of every modality's likelihood for the rows in which it was measured.

        In training also where there are none: processes that train together must all touch every parameter.
        """
        return {
            m: self._decode(m, z[rows], tensors["batch"][rows], self._lean)
            for m in self.modalities
            if len(rows := tensors[f"{m}_rows"]) or self.training
        }

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
                likelihood = log_likelihood(generative_outputs[m], tensors[m], *self._panel(m, tensors))
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


def freeze(module: nn.Module, unfrozen: bool = False) -> None:
    """Train only what belongs to added batches, or everything."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(unfrozen or "added" in name)


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing is trained but what belongs to added batches."""
    return not any(p.requires_grad for name, p in module.named_parameters() if "added" not in name)

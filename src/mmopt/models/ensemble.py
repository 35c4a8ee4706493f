"""Several networks fitted one after the other to the same cells, read as one."""

from collections.abc import Iterable

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal

from mmopt.models.module import TriModule


class TriModules(BaseModuleClass):
    """Networks that share nothing but the data: latent states stand side by side, bounds are averaged.

    The mean of the networks' bounds lies below the bound of the mixture of the networks.

    Parameters
    ----------
    networks
        Networks with the same modalities; their latent dimensions may differ in number.

    References
    ----------
    Lakshminarayanan et al. (2017) NeurIPS 30.
    """

    def __init__(self, networks: Iterable[TriModule]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.modalities: tuple[str, ...] = self.networks[0].modalities
        self.n_latent = sum(network.n_latent for network in self.networks)

    def _get_inference_input(self, tensors: dict[str, Tensor], **_) -> dict:
        return {"tensors": tensors}

    def _get_generative_input(self, tensors: dict[str, Tensor], inference_outputs: dict, **_) -> dict:
        return {"each": inference_outputs["each"], "tensors": tensors}

    @auto_move_data
    def inference(
        self, tensors: dict[str, Tensor], given: tuple[str, ...] | None = None, noise: Tensor | None = None
    ) -> dict:
        """Posteriors of the networks side by side; with ``noise`` of all latent dimensions or of one for all."""
        sizes = [network.n_latent for network in self.networks]
        noises = [noise] * len(sizes) if noise is None or noise.ndim < 2 else noise.split(sizes, -1)
        each = [
            network.inference(tensors, given=given, noise=own)
            for network, own in zip(self.networks, noises, strict=True)
        ]

        def beside(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts, -1)

        posteriors = [out["qz"] for out in each]
        joint = Normal(
            beside([q.loc for q in posteriors]), beside([q.scale for q in posteriors]), validate_args=False
        )
        out = {k: beside([out[k] for out in each]) for k in ("z", "expert_means", "expert_log_variances")}
        return {**out, "qz": joint, "present": each[0]["present"], "each": each}

    def generative(self, each: list[dict], tensors: dict[str, Tensor]) -> dict[str, list]:
        """Parameters of the likelihoods, of each network."""
        pairs = zip(self.networks, each, strict=True)
        return {"each": [network.generative(out["z"], tensors) for network, out in pairs]}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict,
        generative_outputs: dict,
        kl_weight: float = 1.0,
    ) -> LossOutput:
        """Mean of the networks' losses and of their parts."""
        parts = [
            network.loss(tensors, heard, said, kl_weight)
            for network, heard, said in zip(
                self.networks, inference_outputs["each"], generative_outputs["each"], strict=True
            )
        ]

        def mean(of_each: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
            of_each = list(of_each)
            return {k: torch.stack([own[k] for own in of_each]).mean(0) for k in of_each[0]}

        return LossOutput(
            loss=torch.stack([part.loss for part in parts]).mean(),
            reconstruction_loss=mean(part.reconstruction_loss for part in parts),
            kl_local=mean(part.kl_local for part in parts),
            n_obs_minibatch=parts[0].n_obs_minibatch,
        )

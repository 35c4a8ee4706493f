"""What can be asked of a trained TriVI: embedding, modality weights, imputation, likelihood."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from torch import Tensor

from mmopt._random import isolated
from mmopt.models import fusion

NO_NOISE = torch.zeros(1)  # given where the posterior mean is asked for, so that no random number is drawn


class Answers:
    """The getters of :class:`mmopt.models.TriVI`."""

    def _batches(
        self, mdata: MuData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> Iterable[dict]:
        self._check_if_trained(warn=False)
        mdata = self._validate_anndata(mdata)
        return self._make_data_loader(mdata, indices=indices, batch_size=batch_size or 512)

    def _known(self, given: str | Sequence[str] | None) -> tuple[str, ...] | None:
        if given is None:
            return None
        given = (given,) if isinstance(given, str) else tuple(given)
        unknown = [m for m in given if m not in self.modalities]
        if unknown or not given:
            raise ValueError(
                f"given={list(given)} must name one or more of the model's modalities, {list(self.modalities)}"
            )
        return given

    @torch.inference_mode()
    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        given: str | Sequence[str] | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        return_dist: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return the posterior mean of each cell.

        Parameters
        ----------
        mdata
            Data with the same features; those the model was made with if not given.
        given
            Use these modalities only (``"rna"``, ``"atac"``, ``"prot"``).
        indices
            Positions of the cells; all if not given.
        batch_size
            Cells per pass.
        return_dist
            Return means and variances.

        Returns
        -------
        Array of cells × ``n_latent``, or two of them. A cell that has none of ``given`` is a row of NaN.

        Examples
        --------
        >>> from_protein_alone = model.get_latent_representation(given="prot")
        """
        given = self._known(given)
        means, variances = [], []
        for tensors in self._batches(mdata, indices, batch_size):
            out = self.module.inference(tensors, given=given, noise=NO_NOISE)
            blind = ~out["present"].any(0)
            means.append(out["qz"].loc.masked_fill(blind[:, None], torch.nan).cpu())
            variances.append(out["qz"].variance.masked_fill(blind[:, None], torch.nan).cpu())
        mean = torch.cat(means).numpy()
        _warn_blind(np.isnan(mean[:, 0]), given)
        return (mean, torch.cat(variances).numpy()) if return_dist else mean

    @torch.inference_mode()
    def get_modality_weights(
        self,
        mdata: MuData | None = None,
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Return the share of each modality in the precision of a cell's posterior; 0 where absent, rows sum to 1."""
        shares = []
        for tensors in self._batches(mdata, indices, batch_size):
            out = self.module.inference(tensors, noise=NO_NOISE)
            shares.append(fusion.precision_shares(out["expert_log_variances"], out["present"]).T.cpu())
        mdata = self.adata if mdata is None else mdata
        names = mdata.obs_names if indices is None else mdata.obs_names[np.asarray(indices)]
        return pd.DataFrame(torch.cat(shares).numpy(), index=names, columns=list(self.modalities))

    @torch.inference_mode()
    def get_normalized(
        self,
        modality: str,
        given: str | Sequence[str] | None = None,
        *,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        transform_batch: str | None = None,
        return_samples: bool = False,
        batch_size: int | None = None,
        random_state: int = 0,
    ) -> np.ndarray:
        """Return expected counts of one modality, decoded from any subset of the modalities.

        Parameters
        ----------
        modality
            What to predict: ``"rna"``, ``"atac"`` or ``"prot"``.
        given
            Modalities to predict from; all a cell has if not given. ``given="rna"`` imputes from RNA.
        mdata, indices, batch_size
            As in :meth:`get_latent_representation`.
        n_samples
            1 decodes the posterior mean; more average over so many draws from the posterior.
        transform_batch
            Decode every cell as if it belonged to this batch.
        return_samples
            Return all draws instead of their mean.
        random_state
            Seed of the draws.

        Returns
        -------
        Array of cells × features, or draws × cells × features. RNA and ATAC: expected counts at the cell's own depth,
        or at the median depth of the data where the cell lacks the modality. Protein has no depth: its value is the
        expected level on the log1p scale, on which antibody counts are read, turned back into counts. Cells of a
        batch that never had the modality are decoded as the average of the batches that had it. A cell that has none
        of ``given`` is a row of NaN.

        Raises
        ------
        ValueError
            A modality or a batch the model does not know.

        Examples
        --------
        >>> protein = model.get_normalized("prot", given="rna", n_samples=8)
        """
        if modality not in self.modalities:
            raise ValueError(f"modality {modality!r} is not in the model; it has {list(self.modalities)}")
        given = self._known(given)
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}")
        categories = list(
            self.registry_["field_registries"]["batch"]["state_registry"]["categorical_mapping"]
        )
        if transform_batch is not None and str(transform_batch) not in categories:
            raise ValueError(
                f"transform_batch={transform_batch!r} is not a batch of the model; it has {categories}"
            )
        generator = torch.Generator().manual_seed(random_state)
        parts = []
        for tensors in self._batches(mdata, indices, batch_size):
            out = self.module.inference(tensors, given=given, noise=NO_NOISE)
            batch = tensors["batch"].to(out["qz"].loc.device)
            if transform_batch is not None:
                batch = torch.full_like(batch, categories.index(str(transform_batch)))
            depth = _depth(modality, tensors, getattr(self.module, f"depth_{modality}"))
            draws = []
            for _ in range(n_samples):
                noise = NO_NOISE if n_samples == 1 else torch.randn(out["qz"].loc.shape, generator=generator)
                z = out["qz"].loc + out["qz"].scale * noise.to(batch.device)
                draws.append(self.module.expected(modality, z, batch, depth))
            drawn = torch.stack(draws)
            if not return_samples:
                # protein is averaged where it is read, on the logarithmic scale
                drawn = drawn.log1p().mean(0).expm1() if modality == "prot" else drawn.mean(0)
            blind = ~out["present"].any(0)
            parts.append(drawn.masked_fill(blind[:, None], torch.nan).cpu())
        values = torch.cat(parts, -2).numpy()
        _warn_blind(np.isnan(values[..., 0]).reshape(-1, values.shape[-2])[0], given)
        return values

    def get_elbo(self, *args, random_state: int = 0, **kwargs) -> Tensor:
        """Return the evidence lower bound (higher is better), as in scvi-tools, with noise fixed by ``random_state``."""
        return self._repeatable(super().get_elbo, random_state, *args, **kwargs)

    def get_reconstruction_error(self, *args, random_state: int = 0, **kwargs) -> dict[str, Tensor]:
        """Return the negative log-likelihood of each modality per cell, as in scvi-tools, noise fixed by ``random_state``."""
        return self._repeatable(super().get_reconstruction_error, random_state, *args, **kwargs)

    def _repeatable(self, ask: Any, random_state: int, *args, **kwargs) -> Any:
        self._check_if_trained(warn=False)
        with isolated(random_state):
            return ask(*args, **kwargs)


def _depth(modality: str, tensors: dict[str, Tensor], median: Tensor) -> Tensor:
    depth = median.repeat(len(tensors["batch"]))
    if modality == "prot":
        return depth
    return depth.index_copy(
        0, tensors[f"{modality}_rows"].to(depth.device), tensors[modality].totals().to(depth.device)
    )


def _warn_blind(blind: np.ndarray, given: tuple[str, ...] | None) -> None:
    if blind.any():
        warnings.warn(
            f"{int(blind.sum())} cells have none of {list(given or ())}: their rows are NaN", stacklevel=4
        )

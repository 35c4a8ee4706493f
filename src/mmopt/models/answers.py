"""What can be asked of a trained TriVI: embedding, modality weights, imputation, likelihood."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from torch import Tensor

from mmopt import _checks
from mmopt._batches import batch_label
from mmopt._random import checked_seed, isolated
from mmopt._threads import sensible_threads
from mmopt.models import fusion
from mmopt.models.predictions import DRAWS, Interval, check_level, given_or, summary, warn_blind
from mmopt.models.readout import Readout, Readouts, any_of
from mmopt.models.trained import check_model

NO_NOISE = torch.zeros(1)  # given where the posterior mean is asked for, so that no random number is drawn


class Answers:
    """The getters of :class:`mmopt.models.TriVI`."""

    def _batches(
        self, mdata: MuData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> Iterator[dict]:
        check_model(self)
        mdata = self._validate_anndata(mdata)
        batch_size = given_or(batch_size, 512)
        with sensible_threads(batch_size * self._n_values):
            yield from self._make_data_loader(mdata, indices=indices, batch_size=batch_size)

    def get_var_names(self, legacy_mudata_format: bool = False) -> dict[str, np.ndarray]:
        """Return the names of the features that are modelled, by modality: columns of what :meth:`get_normalized` returns.

        Parameters
        ----------
        legacy_mudata_format
            Not used; scvi-tools has it.

        Examples
        --------
        >>> protein = model.get_normalized("prot", given="rna")
        >>> table = pd.DataFrame(protein, mdata.obs_names, model.get_var_names()["prot"])
        """
        fields = self.registry_["field_registries"]
        return {m: np.array(fields[m]["state_registry"]["features"], dtype=object) for m in self.modalities}

    @property
    def _n_values(self) -> int:
        """Features of all modalities together."""
        return sum(self.summary_stats[f"n_{m}"] for m in self.modalities)

    def _known(self, given: str | Sequence[str] | None) -> tuple[str, ...] | None:
        if given is None:
            return None
        given = (given,) if isinstance(given, str) else given
        # a MuData can be asked for its first item, its second and so on for ever
        if not isinstance(given, Collection) or not all(isinstance(m, str) for m in given):
            raise TypeError(
                f"given= takes names of modalities, not {type(given).__name__}; data go in as `mdata=`"
            )
        given = tuple(given)
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
        warn_blind(np.isnan(mean[:, 0]), given)
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

    def _readouts(
        self,
        modality: str,
        given: str | Sequence[str] | None,
        mdata: MuData | None,
        indices: Sequence[int] | None,
        batch_size: int | None,
        library_size: float | str = "latent",
        transform_batch: str | None = None,
        first: int = 0,
    ) -> Iterator[tuple[Readouts, Tensor]]:
        """Check what was asked, then give, per minibatch, what reads it (from network ``first``), and the cells that are blind."""
        if modality not in self.modalities:
            raise ValueError(f"modality {modality!r} is not in the model; it has {list(self.modalities)}")
        known = self._known(given)
        size = None
        if library_size != "latent":
            if isinstance(library_size, str) or not 0 < library_size < math.inf:
                raise ValueError(f'library_size must be "latent" or a positive number; got {library_size!r}')
            if modality == "prot":
                raise ValueError("protein has no library size; leave out `library_size`")
            size = float(library_size)
        categories = list(
            self.registry_["field_registries"]["batch"]["state_registry"]["categorical_mapping"]
        )
        asked_batch = None if transform_batch is None else batch_label(transform_batch)
        if asked_batch is not None and asked_batch not in categories:
            raise ValueError(
                f"transform_batch={transform_batch!r} is not a batch of the model; it has {categories}"
            )
        for tensors in self._batches(mdata, indices, batch_size):
            batch = None
            if asked_batch is not None:
                batch = torch.full_like(tensors["batch"], categories.index(asked_batch))
                batch = batch.to(self.device)
            each = []
            for network in self.networks:
                out = network.inference(tensors, given=known, noise=NO_NOISE)
                each.append(
                    (Readout(network, modality, tensors, out, batch=batch, library_size=size), out["qz"])
                )
            yield Readouts(each, first), ~out["present"].any(0)

    @torch.inference_mode()
    def get_normalized(
        self,
        modality: str,
        given: str | Sequence[str] | None = None,
        *,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        library_size: float | Literal["latent"] = "latent",
        transform_batch: str | None = None,
        return_samples: bool = False,
        interval: float | None = None,
        batch_size: int | None = None,
        random_state: int = 0,
    ) -> np.ndarray | Interval:
        """Return expected values of one modality for every cell, measured or not.

        Parameters
        ----------
        modality
            ``"rna"``, ``"atac"`` or ``"prot"``.
        given
            Infer from these modalities only, e.g. ``given="rna"`` imputes from RNA.
        mdata, indices, batch_size
            As in :meth:`get_latent_representation`.
        n_samples
            1 decodes the posterior mean; more average over so many draws from the posterior.
        library_size
            Depth, in counts, at which RNA and ATAC are read. ``"latent"``: the cell's own where the modality was
            measured and is among ``given``, otherwise the one predicted from what is given, so that an answer
            ``given="rna"`` knows nothing of the cell's ATAC. A number: that depth for all cells.
        transform_batch
            Decode every cell as if it belonged to this batch, at the depth predicted for it there if it has none of its own.
        return_samples
            Return all draws instead of their mean; where the depth is predicted, they spread with its error.
        interval
            Return, with the mean, the central interval of this share of the draws, e.g. 0.9; of 100 draws unless
            ``n_samples`` asks for more than one. It is about where the cell lies in the latent space, its predicted depth
            and which network speaks, and knows nothing of what a network gets wrong: on simulated cells it held the true
            expected values far less often. Counts are :meth:`get_predictive_interval`'s matter.
        random_state
            Seed of the draws; which cells pass together (``batch_size``) matters to them too.

        Returns
        -------
        Array of cells × features, or draws × cells × features, or (``mean``, ``lower``, ``upper``). Features are those
        that are modelled: :meth:`get_var_names` has their names. RNA and ATAC: expected counts. Protein has no depth, and
        antibody counts are read on the log1p scale: its value is exp(m) - 1, where m is the expectation of log(1 + count).
        That is a typical count, below the expected one; ``np.log1p`` of it is to be compared with log1p counts.
        What is predicted from other modalities alone is drawn towards the average profile as far as held-out cells
        asked for it. Cells of a batch that never measured the modality, or a protein, get the mean of what they would
        have in each batch that did (of protein on the log1p scale). A cell that has none of ``given`` is a row of NaN.

        Raises
        ------
        ValueError
            A modality or a batch the model does not know; a library size or an interval that is none.

        Examples
        --------
        >>> protein = model.get_normalized("prot", given="rna", n_samples=8)
        >>> mean, lower, upper = model.get_normalized("prot", given="rna", interval=0.9)
        """
        n_samples = _checks.whole_number("n_samples", n_samples)
        if interval is not None:
            check_level(interval, "interval", DRAWS if n_samples == 1 else n_samples)
            if return_samples:
                raise ValueError("ask for draws (return_samples) or for an interval, not for both")
            n_samples = DRAWS if n_samples == 1 else n_samples
            batch_size = given_or(batch_size, self._cells_per_pass(modality, n_samples))
        parts, generator = [], torch.Generator().manual_seed(checked_seed(random_state))
        first = any_of(len(self.networks), generator)
        for readouts, blind in self._readouts(
            modality, given, mdata, indices, batch_size, library_size, transform_batch, first
        ):
            if return_samples or interval is not None:
                drawn = readouts.drawn_levels(n_samples, generator)
                drawn = drawn if interval is None else torch.stack(summary(drawn, interval))
            else:  # protein is averaged where it is read, on the logarithmic scale
                drawn = readouts.mean_levels(n_samples, generator)
            drawn = drawn.expm1() if modality == "prot" else drawn
            parts.append(drawn.masked_fill(blind[:, None], torch.nan).cpu())
        values = torch.cat(parts, -2).numpy()
        warn_blind(np.isnan(values[..., 0]).reshape(-1, values.shape[-2])[0], self._known(given))
        return values if interval is None else Interval(*values)

    def get_normalized_expression(self, *args, **kwargs) -> NoReturn:
        """Refuse, and name the getter of all modalities."""
        raise TypeError('TriVI has three modalities: ask `get_normalized("rna")`, "atac" or "prot"')

    def get_marginal_ll(self, *args, **kwargs) -> NoReturn:
        """Refuse, and name the bound."""
        raise TypeError("TriVI does not estimate the marginal likelihood: `get_elbo()` is its lower bound")

    def get_elbo(self, mdata: MuData | None = None, *args, random_state: int = 0, **kwargs) -> Tensor:
        """Return the evidence lower bound (higher is better), as in scvi-tools, with noise fixed by ``random_state``."""
        return self._repeatable(super().get_elbo, random_state, mdata, *args, **kwargs)

    def get_reconstruction_error(
        self,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dataloader: Iterator[dict] | None = None,
        return_mean: bool = True,
        data_loader_kwargs: dict[str, Any] | None = None,
        *,
        random_state: int = 0,
        **kwargs,
    ) -> dict[str, Tensor]:
        """Return the negative log-likelihood of each modality, as in scvi-tools, noise fixed by ``random_state``.

        The mean is over the cells in which the modality was measured, as in the history; of each cell
        (``return_mean=False``) it is 0 where it was not.
        """
        if dataloader is None:
            mdata = self._validate_anndata(mdata)
            dataloader = self._make_data_loader(
                mdata, indices=indices, batch_size=batch_size, **(data_loader_kwargs or {})
            )
        elif mdata is not None:
            raise ValueError("give the data (`mdata`) or a `dataloader`, not both")
        n_measured = dict.fromkeys(self.modalities, 0)

        def counted() -> Iterator[dict]:
            for tensors in dataloader:
                for m in n_measured:
                    n_measured[m] += len(tensors[f"{m}_rows"])
                yield tensors

        of_cells = self._repeatable(
            super().get_reconstruction_error,
            random_state,
            dataloader=counted(),
            return_mean=False,
            **kwargs,
        )
        if not return_mean:
            return of_cells
        return {name: v.sum() / n_measured[name.removeprefix("nll_")] for name, v in of_cells.items()}

    def _repeatable(self, ask: Any, random_state: int, *args, **kwargs) -> Any:
        check_model(self)
        with isolated(random_state):
            return ask(*args, **kwargs)

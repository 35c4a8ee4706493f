"""The tri-modal model."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data._manager import AnnDataManagerValidationCheck
from scvi.model.base import BaseModelClass, VAEMixin
from torch import Tensor

from mmopt import _checks, optim
from mmopt._compat import versions
from mmopt._keys import MODALITIES
from mmopt._random import isolated
from mmopt.models import fusion, persistence, statistics
from mmopt.models.data import MosaicLoader, MosaicSplitter, read
from mmopt.models.fields import BatchField, CountsField
from mmopt.models.module import TriModule
from mmopt.models.quiet import quiet_lightning
from mmopt.models.threads import sensible_threads
from mmopt.models.training import MosaicTrainRunner, TriTrainingPlan

MIN_STEPS, MAX_STEPS, EPOCHS = 600, 20_000, 30
NO_NOISE = torch.zeros(1)  # given where the posterior mean is asked for, so that no random number is drawn


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Thirty epochs, but at least 600 steps (small data) and not many more than 20,000 (large data)."""
    per_epoch = math.ceil(n_cells / batch_size)
    return max(math.ceil(MIN_STEPS / per_epoch), min(EPOCHS, math.ceil(MAX_STEPS / per_epoch)))


class TriVI(VAEMixin, BaseModelClass):
    """Variational autoencoder of RNA, ATAC and surface protein, any of which a cell may lack.

    Every modality has an encoder; a cell's posterior is the product of the experts of the modalities it has and a
    standard normal prior. In training, modalities are withheld at random, so that every subset of them gives a
    usable posterior. RNA counts are negative binomial given the observed library size, ATAC fragments multinomial
    given the cell's fragments, protein counts a negative-binomial mixture of background and foreground. Decoders see
    the batch.

    Parameters
    ----------
    mdata
        Data prepared by :meth:`setup_mudata`.
    n_latent
        Dimensions of the embedding.
    n_hidden
        Units of the hidden layers.
    dropout_rate
        Dropout of inputs and hidden units.
    modality_dropout
        Probability with which a modality is withheld from a cell's posterior in a training step.
    random_state
        Seed of the starting weights.
    registry
        A setup to use without data, as :meth:`load` does.
    **module_kwargs
        Further arguments of :class:`mmopt.models.module.TriModule`.

    Examples
    --------
    >>> mm.models.TriVI.setup_mudata(mdata, batch_key="donor")
    >>> model = mm.models.TriVI(mdata)
    >>> model.train()
    >>> mdata.obsm["X_mmopt"] = model.get_latent_representation()

    References
    ----------
    The likelihoods follow Lopez et al. (2018) Nat Methods 15:1053 and Gayoso et al. (2021) Nat Methods 18:272, the
    product of experts Wu and Goodman (2018) NeurIPS 31.
    """

    _module_cls = TriModule
    _data_loader_cls = MosaicLoader
    _data_splitter_cls = MosaicSplitter
    _training_plan_cls = TriTrainingPlan
    _train_runner_cls = MosaicTrainRunner

    def __init__(
        self,
        mdata: MuData | None = None,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        dropout_rate: float = 0.3,
        modality_dropout: float = 0.3,
        random_state: int = 0,
        registry: dict | None = None,
        **module_kwargs,
    ):
        super().__init__(mdata, registry)
        self.arguments_ = {
            "n_latent": n_latent,
            "n_hidden": n_hidden,
            "dropout_rate": dropout_rate,
            "modality_dropout": modality_dropout,
            **module_kwargs,
        }
        n_features = {m: self.summary_stats[f"n_{m}"] for m in MODALITIES if f"n_{m}" in self.summary_stats}
        n_batch = self.summary_stats["n_batch"]
        with isolated(random_state):
            self.module = TriModule(n_features, n_batch, **self.arguments_)
            if mdata is not None:
                mosaic = read(self.adata_manager)
                per_modality = {
                    m: statistics.protein(
                        x, mosaic.batch[mosaic.rows[m] >= 0][_order(mosaic.rows[m])], n_batch
                    )
                    if m == "prot"
                    else getattr(statistics, m)(x)
                    for m, x in mosaic.counts.items()
                }
                self.module.adopt(per_modality, mosaic.seen(n_batch), len(mosaic.batch))
        self.module.eval()
        self.steps_: pd.DataFrame | None = None
        self.optimizer_settings_: dict[str, Any] = {}
        sizes = ", ".join(f"{m} {n}" for m, n in n_features.items())
        self._model_summary_string = (
            f"TriVI: {sizes} features; {n_batch} batches; {n_latent} latent dimensions"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities in use: ``"rna"``, ``"atac"``, ``"prot"``, in this order."""
        return self.module.modalities

    # ------------------------------------------------------------------ data
    @classmethod
    def setup_anndata(cls, adata: AnnData, **_) -> None:
        """Refuse, and say how one modality becomes a MuData."""
        raise TypeError(
            'TriVI reads MuData: wrap the AnnData, `mdata = mudata.MuData({"rna": adata})`, and call setup_mudata'
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna: str | None = None,
        atac: str | None = None,
        prot: str | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        use_highly_variable: bool | None = None,
        **kwargs,
    ) -> None:
        """Tell the model which modalities, counts and batches to use.

        Parameters
        ----------
        mdata
            The data; cells may lack modalities.
        rna, atac, prot
            Names of the modalities; found by their usual names if not given, left out if ``False``.
        layer
            Layer with the raw counts; ``layers["counts"]`` where there is one, else ``X``.
        batch_key
            Column of ``mdata.obs`` or of the modalities' ``obs``.
        use_highly_variable
            Use the features marked by ``var["highly_variable"]``: where there is such a column (``None``), in every
            modality (``True``), or not at all (``False``).

        Raises
        ------
        KeyError, TypeError, ValueError
            A modality, layer or column that is absent; values that are not counts; names that repeat.
        """
        setup_method_args = cls._get_setup_method_args(**{k: v for k, v in locals().items() if k != "kwargs"})
        source = kwargs.get("source_registry")
        if source is None:
            modalities = _checks.find_modalities(mdata, rna, atac, prot)
        else:
            fields = source["field_registries"]
            modalities = {m: fields[m]["state_registry"]["modality"] for m in MODALITIES if m in fields}
        there = {m: name for m, name in modalities.items() if name in mdata.mod}
        if not there:
            raise ValueError(
                f"the data have none of the model's modalities {_checks.listed(modalities.values())}; they have "
                f"{_checks.listed(mdata.mod)}"
            )
        _checks.check_obs(mdata, there)
        manager = AnnDataManager(
            fields=[CountsField(m, name, layer, use_highly_variable) for m, name in modalities.items()]
            + [BatchField(batch_key, modalities)],
            setup_method_args=setup_method_args,
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    # ------------------------------------------------------------------ training
    def train(
        self,
        max_epochs: int | None = None,
        *,
        optimizer: str | Callable[[Iterable[Tensor]], torch.optim.Optimizer] = "asgdadam",
        lr: float = 1e-3,
        optimizer_kwargs: dict[str, Any] | None = None,
        batch_size: int = 128,
        train_size: float = 0.9,
        held_out: Sequence[int] | None = None,
        early_stopping: bool = True,
        early_stopping_patience: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        checkpoint: str | os.PathLike | None = None,
        random_state: int = 0,
        progress_bar: bool = True,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Epochs of a full run. If not given: 30, but at least 600 steps and not many more than 20,000.
        optimizer
            A name known to :func:`mmopt.optim.available`, or a function from parameters to an optimizer.
        lr, optimizer_kwargs
            Its learning rate and further arguments.
        batch_size
            Cells per step.
        train_size, held_out
            Share of the cells to train on, or the positions of the cells to hold out.
        early_stopping, early_stopping_patience
            Stop when the bound on held-out cells has not improved for so many epochs, not before half the epochs, and
            end with the parameters that were best on held-out cells.
        accelerator, devices
            As in Lightning; the fastest device there is by default.
        checkpoint
            A file in which the state is kept after each epoch. If it exists, training goes on from there and ends as
            it would have without the interruption.
        random_state
            Seed of the split, of the order of cells and of all noise. Global random states are left as they were.
        progress_bar
            Show one.
        plan_kwargs, **trainer_kwargs
            Further arguments of the training plan and of the scvi-tools trainer (``callbacks``, ``precision``, …).

        Raises
        ------
        ValueError
            An argument out of range, or an unknown optimizer.
        mmopt.models.NonFiniteLossError
            The loss became NaN or infinite. The model holds its last finite state.
        """
        if self.adata is None:
            raise ValueError("the model has no data to train on; load it with `TriVI.load(path, mdata)`")
        if not 0 < train_size <= 1:
            raise ValueError(f"train_size must lie in (0, 1]; got {train_size}")
        if batch_size < 1 or (max_epochs is not None and max_epochs < 1):
            raise ValueError(
                f"batch_size and max_epochs must be at least 1; got {batch_size} and {max_epochs}"
            )
        create = optimizer
        if isinstance(optimizer, str):
            create = optim.creator(optimizer, lr=lr, **(optimizer_kwargs or {}))
        splitter = self._data_splitter_cls(
            self.adata_manager,
            train_size=train_size,
            held_out=None if held_out is None else np.asarray(held_out),
            batch_size=batch_size,
            seed=random_state,
        )
        if not splitter.n_train:
            raise ValueError("no cell is left to train on; hold out fewer")
        max_epochs = max_epochs or default_epochs(splitter.n_train, batch_size)
        per_epoch = math.ceil(splitter.n_train / batch_size)
        stopping = early_stopping and splitter.n_val > 0
        checkpoint = None if checkpoint is None else Path(checkpoint)
        plan = self._training_plan_cls(
            self.module,
            create,
            n_steps=max_epochs * per_epoch,
            keep_best=stopping,
            checkpoint=checkpoint,
            seed=random_state,
            **(plan_kwargs or {}),
        )
        n_values = batch_size * sum(self.summary_stats[f"n_{m}"] for m in self.modalities)
        with isolated(random_state), quiet_lightning(), sensible_threads(n_values):
            self.module.train()
            self._train_runner_cls(
                self,
                training_plan=plan,
                data_splitter=splitter,
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                enable_progress_bar=progress_bar,
                early_stopping=stopping,
                early_stopping_patience=early_stopping_patience or max(10, math.ceil(200 / per_epoch)),
                early_stopping_warmup_epochs=max_epochs // 2,
                check_val_every_n_epoch=1,
                ckpt_path=str(checkpoint) if checkpoint is not None and checkpoint.exists() else None,
                **({"gradient_clip_val": 1000.0} | trainer_kwargs),
            )()
        self.optimizer_settings_ = dict(optimizer_kwargs or {}) | _bounds(plan.trainer.optimizers[0])
        table = pd.DataFrame(plan.epochs).rename_axis("epoch")
        self.history_ = {column: table[[column]] for column in table}
        self.steps_ = pd.DataFrame(
            {"loss": torch.stack(plan.losses).cpu().numpy(), "rate": torch.stack(plan.rates).cpu().numpy()}
        ).rename_axis("step")

    # ------------------------------------------------------------------ answers
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

    # ------------------------------------------------------------------ files
    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the model to one file in the safetensors format, whole or not at all; the data are not in it.

        Raises
        ------
        FileExistsError
            The file exists and ``overwrite`` is false.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass `overwrite=True` to replace it")
        fields = {
            key: {"state_registry": dict(value["state_registry"])}
            for key, value in self.registry_["field_registries"].items()
        }
        split = {k: _plain(getattr(self, f"{k}_indices_")) for k in ("train", "validation", "test")}
        history = None if self.history_ is None else {k: v[k].tolist() for k, v in self.history_.items()}
        steps = None if self.steps_ is None else {k: self.steps_[k].tolist() for k in self.steps_}
        persistence.write(
            path,
            self.module.state_dict(),
            {
                "arguments": self.arguments_,
                "registry": {"setup_args": self.registry_["setup_args"], "field_registries": fields},
                "split": split,
                "history": history,
                "steps": steps,
                "trained": self.is_trained_,
                "versions": versions(),
            },
        )

    @classmethod
    def load(
        cls, path: str | os.PathLike, mdata: MuData | None = None, *, accelerator: str = "auto"
    ) -> "TriVI":
        """Read a model from a file; nothing in a file is ever executed.

        Parameters
        ----------
        path
            File written by :meth:`save`.
        mdata
            Data to attach, with the features the model was trained on. Can be given later, to any method.
        accelerator
            Where to put the model; the fastest device there is by default.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file; a truncated, foreign or tampered file; data that lack the model's features.
        """
        from scvi.model._utils import parse_device_args

        tensors, header = persistence.read(path)
        try:
            model = cls(registry=_registry(header["registry"]), **header["arguments"])
            model.module.load_state_dict(tensors)
            model._restore(header)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"{path} does not hold together ({error}); it has been changed and is not used"
            ) from error
        *_, device = parse_device_args(accelerator=accelerator, devices="auto", return_device="torch")
        model.to_device(device)
        if mdata is not None:
            model._validate_anndata(mdata)
        return model

    def _restore(self, header: dict[str, Any]) -> None:
        self.is_trained_ = bool(header["trained"])
        for k, v in header["split"].items():
            setattr(self, f"{k}_indices_", None if v is None else np.array(v, dtype=int))
        if header["history"] is not None:
            table = pd.DataFrame(header["history"]).rename_axis("epoch")
            self.history_ = {column: table[[column]] for column in table}
        if header["steps"] is not None:
            self.steps_ = pd.DataFrame(header["steps"]).rename_axis("step")


def _order(rows: np.ndarray) -> np.ndarray:
    """Order that brings values of the cells having a modality into the order of that modality's rows."""
    return np.argsort(rows[rows >= 0])


def _depth(modality: str, tensors: dict[str, Tensor], median: Tensor) -> Tensor:
    depth = median.repeat(len(tensors["batch"]))
    if modality == "prot":
        return depth
    return depth.index_copy(
        0, tensors[f"{modality}_rows"].to(depth.device), tensors[modality].totals().to(depth.device)
    )


def _bounds(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the bounds between which an ASGD optimizer moves its rate."""
    defaults = optimizer.defaults
    return {k: defaults[k] for k in ("alpha_min", "alpha_max") if k in defaults}


def _warn_blind(blind: np.ndarray, given: tuple[str, ...] | None) -> None:
    if blind.any():
        warnings.warn(
            f"{int(blind.sum())} cells have none of {list(given or ())}: their rows are NaN", stacklevel=3
        )


def _plain(indices: np.ndarray | None) -> list[int] | None:
    return None if indices is None else np.asarray(indices).tolist()


def _registry(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the saved setup in the form scvi-tools keeps it."""
    fields = saved["field_registries"]
    for key, field in fields.items():
        state = field["state_registry"]
        n = len(state["categorical_mapping"] if key == "batch" else state["features"])
        field |= {"data_registry": {}, "summary_stats": {f"n_{key}": n}}
    return saved | {"model_name": "TriVI", "setup_method_name": "setup_mudata"}

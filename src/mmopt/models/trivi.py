"""The tri-modal model."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.data._manager import AnnDataManagerValidationCheck
from scvi.model.base import BaseModelClass, VAEMixin
from torch import Tensor

from mmopt import _checks, optim
from mmopt._keys import MODALITIES
from mmopt._random import derived, isolated
from mmopt._threads import sensible_threads
from mmopt.models import panels, starting
from mmopt.models.answers import Answers
from mmopt.models.calibration import calibrate
from mmopt.models.data import MosaicLoader, MosaicSplitter, read
from mmopt.models.ensemble import TriModules
from mmopt.models.fields import BatchField, CountsField
from mmopt.models.files import Files
from mmopt.models.manager import MosaicManager, Registered
from mmopt.models.module import TriModule
from mmopt.models.predictions import Predictions
from mmopt.models.query import Queries
from mmopt.models.quiet import quiet_lightning
from mmopt.models.resuming import describe, resumable
from mmopt.models.training import MosaicTrainRunner, TriTrainingPlan, trainer_options

MIN_STEPS, MAX_STEPS, EPOCHS = 600, 20_000, 30


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Thirty epochs, but at least 600 steps (small data) and not many more than 20,000 (large data)."""
    per_epoch = math.ceil(n_cells / batch_size)
    return max(math.ceil(MIN_STEPS / per_epoch), min(EPOCHS, math.ceil(MAX_STEPS / per_epoch)))


class TriVI(Registered, Files, Queries, Answers, Predictions, VAEMixin, BaseModelClass):
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
        Dropout of inputs (not of the components of more than 8,192 peaks) and hidden units.
    modality_dropout
        Probability with which a modality is withheld from a cell's posterior in a training step.
    n_networks
        Networks, fitted one after the other. Each has its share of the dimensions of the embedding; imputed values are their
        mean, and draws and intervals come from all of them, so that these know of the chance in a fit. With the same number
        of dimensions in all, two are better than one for a few hundred or thousand cells, at twice the time.
    random_state
        Seed of the starting weights.
    registry
        A setup to use without data, as :meth:`TriVI.load` does.
    **module_kwargs
        Further arguments of the network, ``mmopt.models.module.TriModule``.

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
        n_networks: int = 1,
        random_state: int = 0,
        registry: dict | None = None,
        **module_kwargs,
    ):
        sizes = {"n_latent", "n_hidden", "n_networks"}
        sizes |= {
            k for k in ("atac_rank", "peaks_per_step") if module_kwargs.get(k) is not None
        }  # None: what pays
        sized = {"n_latent": n_latent, "n_hidden": n_hidden, "n_networks": n_networks}
        for name, value in (sized | module_kwargs).items():
            if name in sizes and not (isinstance(value, Integral) and value > 0):
                raise ValueError(f"{name} must be a positive integer; got {value!r}")
            if name == "alignment" and not 0 <= value < math.inf:
                raise ValueError(f"alignment must be a number of at least 0; got {value!r}")
        if n_networks > n_latent:
            raise ValueError(f"{n_networks} networks cannot share n_latent={n_latent} dimensions")
        for name, value in {"dropout_rate": dropout_rate, "modality_dropout": modality_dropout}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {value!r}")
        if registry is None and (mdata is None or self._get_most_recent_anndata_manager(mdata) is None):
            raise ValueError("a model needs data that are set up; call `TriVI.setup_mudata(mdata)` first")
        super().__init__(mdata, registry)
        arguments = {
            "n_hidden": n_hidden,
            "dropout_rate": dropout_rate,
            "modality_dropout": modality_dropout,
            **module_kwargs,
        }
        self.arguments_ = {"n_latent": n_latent, "n_networks": n_networks, **arguments}
        n_features = {m: self.summary_stats[f"n_{m}"] for m in MODALITIES if f"n_{m}" in self.summary_stats}
        n_batch = self.summary_stats["n_batch"]
        own, more = divmod(n_latent, n_networks)
        with isolated(random_state):
            networks = [
                TriModule(n_features, n_batch, n_latent=own + (i < more), **arguments)
                for i in range(n_networks)
            ]
        if mdata is not None:
            found = starting.found(self.adata_manager, networks[0].n_components)
            for network in networks:
                network.adopt(*found)
        self.module = networks[0] if n_networks == 1 else TriModules(networks)
        self.module.eval()
        self.steps_: pd.DataFrame | None = None
        self.optimizer_settings_: dict[str, Any] = {}
        sizes = ", ".join(f"{m} {n}" for m, n in n_features.items())
        self._model_summary_string = (
            f"TriVI: {sizes} features; {n_batch} batches; {n_latent} latent dimensions"
        )
        self._model_summary_string += f" in {n_networks} networks" * (n_networks > 1)
        self.init_params_ = self._get_init_params(locals())

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities in use, of ``"rna"``, ``"atac"``, ``"prot"``, in this order."""
        return self.module.modalities

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The networks that are fitted one after the other; most models have one."""
        return list(getattr(self.module, "networks", [self.module]))

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
        protein_panels: panels.Panels = "auto",
        **kwargs,
    ) -> None:
        """Tell the model which modalities, counts and batches to use.

        Parameters
        ----------
        mdata
            The data; cells may lack modalities. Counts in ``X`` stay on disk if they are there
            (``mudata.read_h5mu(path, backed=True)``), and training reads them piece by piece.
        rna, atac, prot
            Names of the modalities; found by their usual names if not given, left out if ``False``.
        layer
            Layer with the raw counts; ``layers["counts"]`` where there is one, else ``X``.
        batch_key
            Column of ``mdata.obs`` or of the modalities' ``obs``.
        use_highly_variable
            Use the features marked by ``var["highly_variable"]``: where there is such a column (``None``), in every
            modality (``True``), or not at all (``False``).
        protein_panels
            Which proteins each batch measured: a mapping from batches to names (batches that are not in it measured
            all), ``None`` if all batches measured all, ``"auto"`` to take a protein without a single count in a batch
            as not measured there if other batches have it. What a batch did not measure is absent, not zero: it enters
            neither the likelihood nor the embedding, and :meth:`get_normalized` imputes it.

        Raises
        ------
        KeyError, TypeError, ValueError
            A modality, layer, column, batch or protein that is absent; values that are not counts; names that repeat.
        """
        setup_method_args = cls._get_setup_method_args(**{k: v for k, v in locals().items() if k != "kwargs"})
        source = kwargs.get("source_registry")
        if source is None:
            modalities = _checks.find_modalities(mdata, rna, atac, prot)
        else:
            fields = source["field_registries"]
            modalities = {m: fields[m]["state_registry"]["modality"] for m in MODALITIES if m in fields}
        _check_has_some(mdata, modalities)
        if mdata.is_view or any(adata.is_view for adata in mdata.mod.values()):
            raise ValueError(
                "mdata is a view and cannot be written to; make it your own: `mdata = mdata.copy()`"
            )
        if source is None and "prot" in modalities:
            _, batches = _checks.batch_codes(mdata, batch_key, modalities)
            names = list(map(str, mdata.mod[modalities["prot"]].var_names))
            setup_method_args["setup_args"]["protein_panels"] = panels.check(protein_panels, names, batches)
        manager = MosaicManager(
            fields=[CountsField(m, name, layer, use_highly_variable) for m, name in modalities.items()]
            + [BatchField(batch_key, modalities)],
            setup_method_args=setup_method_args,
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    def _validate_anndata(self, adata: MuData | None = None, copy_if_view: bool = True) -> MuData:
        if adata is None and self._adata is None:
            raise ValueError("the model was loaded and has no data yet; pass `mdata`")
        if adata is not None and adata is not self._adata:
            fields = self.registry_["field_registries"]
            _check_has_some(adata, {m: fields[m]["state_registry"]["modality"] for m in self.modalities})
        return super()._validate_anndata(adata, copy_if_view)

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
            Cells per step, of each process.
        train_size, held_out
            Share of the cells to train on, or the positions of the cells to hold out.
        early_stopping, early_stopping_patience
            Stop when the bound on held-out cells has not improved for so many epochs, not before half the epochs, and
            end with the parameters that were best on held-out cells.
        accelerator, devices
            As in Lightning; the fastest device there is by default. With ``devices=2, strategy="ddp"`` in a script,
            two processes share every step.
        checkpoint
            A file in which the state is kept after each epoch. If it exists, training goes on from there and ends as
            it would have without the interruption. Of several networks each has a file, the first this one.
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
        MemoryError
            Out of memory; the message says what would take less.
        mmopt.models.NonFiniteLossError
            The loss became NaN or infinite. The model holds its last finite state.

        Notes
        -----
        On several machines, ``fit.py`` calls ``model.train(devices=4, num_nodes=2, strategy="ddp")`` and SLURM starts
        it as ``srun --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 python fit.py``. Early stopping and checkpoints
        work as in one process; every process ends with the same model, and one of them should save it
        (``model.trainer.is_global_zero``).
        """
        if self.adata is None:
            raise ValueError("the model has no data to train on; load it with `TriVI.load(path, mdata)`")
        if not any(p.requires_grad for p in self.module.parameters()):
            raise ValueError(
                "the query has no batch that its reference does not know, so there is nothing to train: ask for its "
                "embedding, or call `load_query_data(..., unfrozen=True)`"
            )
        if not 0 < train_size <= 1:
            raise ValueError(f"train_size must lie in (0, 1]; got {train_size}")
        for name, value in {
            "batch_size": batch_size,
            "max_epochs": max_epochs,
            "early_stopping_patience": early_stopping_patience,
        }.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        create = optimizer
        if isinstance(optimizer, str):
            create = optim.creator(optimizer, lr=lr, **(optimizer_kwargs or {}))
        checkpoint = None if checkpoint is None else Path(checkpoint)
        fitted_before, histories, steps = self.is_trained_, [], []
        for i, network in enumerate(self.networks):  # the same cells are held out of all
            seed = derived(random_state, 3, i) if i else random_state
            splitter = self._data_splitter_cls(
                self.adata_manager,
                train_size=train_size,
                held_out=self.validation_indices if i else held_out,
                batch_size=batch_size,
                seed=seed,
            )
            max_epochs = max_epochs or default_epochs(splitter.n_train, batch_size)
            per_epoch = math.ceil(splitter.n_train / batch_size)
            patience = None
            if early_stopping and splitter.n_val:
                patience = early_stopping_patience or max(10, math.ceil(200 / per_epoch))
            file = (
                checkpoint if checkpoint is None or not i else checkpoint.with_name(f"{checkpoint.name}.{i}")
            )
            plan = self._training_plan_cls(
                network,
                create,
                n_steps=max_epochs * per_epoch,
                patience=patience,
                half=max_epochs // 2,
                checkpoint=file,
                seed=seed,
                **(plan_kwargs or {}),
            )
            if checkpoint is not None:
                plan.description = describe(
                    read(self.adata_manager),
                    splitter.val_idx,
                    arguments=self.arguments_,
                    optimizer=optimizer,
                    optimizer_kwargs=optimizer_kwargs,
                    lr=lr,
                    batch_size=batch_size,
                    max_epochs=max_epochs,
                    patience=patience,
                    random_state=seed,
                    plan_kwargs=plan_kwargs,
                )
            go_on = resumable(file, plan.description)
            self.is_trained_ = fitted_before
            try:
                with isolated(seed), quiet_lightning(), sensible_threads(batch_size * self._n_values):
                    network.train()
                    self._train_runner_cls(
                        self,
                        training_plan=plan,
                        data_splitter=splitter,
                        max_epochs=max_epochs,
                        accelerator=accelerator,
                        devices=devices,
                        ckpt_path=go_on,
                        **trainer_options(progress_bar, trainer_kwargs),
                    )()
                    calibrate(network, self.adata_manager, splitter.train_idx, splitter.val_idx, seed)
            finally:
                if network is not self.networks[-1]:  # no model before all of them are fitted
                    self.is_trained_ = fitted_before
            histories.append(pd.DataFrame(plan.epochs).rename_axis("epoch"))
            steps.append(
                pd.DataFrame(
                    {
                        "loss": torch.stack(plan.losses).cpu().numpy(),
                        "rate": torch.stack(plan.rates).cpu().numpy(),
                    }
                ).rename_axis("step")
            )
        self.optimizer_settings_ = dict(optimizer_kwargs or {}) | _bounds(plan.trainer.optimizers[0])
        table, self.steps_ = _one_below_the_other(histories), _one_below_the_other(steps)
        self.history_ = {column: table[[column]] for column in table}


def _one_below_the_other(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return what was written down of each network, which is named where there are several."""
    if len(tables) == 1:
        return tables[0]
    return pd.concat([table.assign(network=i) for i, table in enumerate(tables)])


def _check_has_some(mdata: MuData, modalities: dict[str, str]) -> None:
    """Refuse data with none of the modalities, cells with none of them, and names that repeat."""
    if not isinstance(mdata, MuData):
        raise TypeError(
            f'a MuData is needed, not {type(mdata).__name__} (wrap it: `mudata.MuData({{"rna": adata}})`)'
        )
    there = {m: name for m, name in modalities.items() if name in mdata.mod}
    if not there:
        raise ValueError(
            f"the data have none of the model's modalities {_checks.listed(modalities.values())}; they have "
            f"{_checks.listed(mdata.mod)}"
        )
    _checks.check_obs(mdata, there)


def _bounds(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the bounds between which an ASGD optimizer moves its rate."""
    defaults = optimizer.defaults
    return {k: defaults[k] for k in ("alpha_min", "alpha_max") if k in defaults}

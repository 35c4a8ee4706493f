"""Fitting the networks of a TriVI, one after the other."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mmopt import optim
from mmopt._checks import whole_number
from mmopt._random import checked_seed, derived, isolated
from mmopt._threads import sensible_threads
from mmopt.models.calibration import calibrate
from mmopt.models.data import MosaicSplitter
from mmopt.models.devices import find_device
from mmopt.models.module import TriModule
from mmopt.models.mosaic import read_mosaic
from mmopt.models.quiet import quiet_lightning
from mmopt.models.resuming import describe, remember, resumable, start_of
from mmopt.models.training import Creator, TriTrainingPlan, trainer_options

MIN_STEPS, MAX_STEPS, EPOCHS = 600, 20_000, 30
# what of a trainer decides where training ends
DECISIVE = (
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "limit_train_batches",
    "limit_val_batches",
    "world_size",
)


def default_epochs(n_cells: int, per_step: int) -> int:
    """Thirty epochs, but at least 600 steps (small data) and not many more than 20,000 (large data)."""
    per_epoch = math.ceil(n_cells / per_step)
    return max(math.ceil(MIN_STEPS / per_epoch), min(EPOCHS, math.ceil(MAX_STEPS / per_epoch)))


class Fitting:
    """``train`` of :class:`mmopt.models.TriVI`."""

    is_trained_: bool

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
            Epochs of a full run. If not given: 30, but at least 600 steps and not many more than 20,000 (steps that
            several processes take together count once).
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
            it would have without the interruption. Of several networks each has a file, the first this one. The file of
            a run with other data, settings or number of processes is refused.
        random_state
            Seed of the split, of the order of cells and of all noise. Global random states are left as they were.
        progress_bar
            Show one.
        plan_kwargs, **trainer_kwargs
            Further arguments of the training plan and of the scvi-tools trainer (``callbacks``, ``precision``, …).

        Raises
        ------
        TypeError, ValueError
            An argument that is no number or out of range, an unknown optimizer, or a device that is not there.
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
        if not (isinstance(train_size, Real) and 0 < train_size <= 1):
            raise ValueError(f"train_size must lie in (0, 1]; got {train_size!r}")
        batch_size = whole_number("batch_size", batch_size)
        if max_epochs is not None:
            max_epochs = whole_number("max_epochs", max_epochs)
        if early_stopping_patience is not None:
            early_stopping_patience = whole_number("early_stopping_patience", early_stopping_patience)
        random_state = checked_seed(random_state)
        for name, arguments in {"optimizer_kwargs": optimizer_kwargs, "plan_kwargs": plan_kwargs}.items():
            if not isinstance(arguments, Mapping | None):
                raise TypeError(
                    f"{name}={arguments!r}: a mapping from names of arguments to values is needed"
                )
        find_device(accelerator, devices)
        create = optimizer
        if isinstance(optimizer, str):
            create = optim.creator(optimizer, lr=lr, **(optimizer_kwargs or {}))
        elif not callable(optimizer):
            raise TypeError(
                f"optimizer={optimizer!r}: a name of `mm.optim.available()` is needed, or a function from parameters to "
                "an optimizer"
            )
        checkpoint = None if checkpoint is None else Path(checkpoint)
        fitted_before, plans = self.is_trained_, []
        for i, network in enumerate(self.networks):  # the same cells are held out of all
            seed = derived(random_state, 3, i) if i else random_state
            splitter = self._data_splitter_cls(
                self.adata_manager,
                train_size=train_size,
                held_out=self.validation_indices if i else held_out,
                batch_size=batch_size,
                seed=seed,
            )
            self.is_trained_ = fitted_before
            try:
                plan = self._fit_network(
                    network,
                    splitter,
                    create,
                    checkpoint.with_name(f"{checkpoint.name}.{i}") if checkpoint and i else checkpoint,
                    max_epochs,
                    (early_stopping_patience or 0) if early_stopping and splitter.n_val else None,
                    plan_kwargs or {},
                    {"accelerator": accelerator, "devices": devices}
                    | trainer_options(progress_bar, trainer_kwargs),
                    optimizer=optimizer,
                    optimizer_kwargs=optimizer_kwargs,
                    lr=lr,
                )
            finally:
                if network is not self.networks[-1]:  # no model before all of them are fitted
                    self.is_trained_ = fitted_before
            plans.append(plan)
        self.optimizer_settings_ = dict(optimizer_kwargs or {}) | _bounds(plan.trainer.optimizers[0])
        table = _one_below_the_other([pd.DataFrame(p.epochs).rename_axis("epoch") for p in plans])
        self.steps_ = _one_below_the_other([p.steps() for p in plans])
        self.history_ = {column: table[[column]] for column in table}

    def _fit_network(
        self,
        network: TriModule,
        splitter: MosaicSplitter,
        create: Creator,
        checkpoint: Path | None,
        max_epochs: int | None,
        patience: int | None,
        plan_kwargs: dict[str, Any],
        trainer_kwargs: dict[str, Any],
        **described: Any,
    ) -> TriTrainingPlan:
        """Fit one network.

        ``max_epochs`` and ``patience`` are found where they are not given (``None`` and 0; ``patience=None`` is no early
        stopping), and what is ``described`` beside them tells the checkpoint from that of another run.
        """
        seed, batch_size = splitter.seed, splitter.batch_size
        with isolated(seed), quiet_lightning(), sensible_threads(batch_size * self._n_values):
            runner = self._train_runner_cls(self, None, splitter, max_epochs or 1, **trainer_kwargs)
            trainer = runner.trainer
            together = batch_size * trainer.world_size  # cells of a step of all processes
            if not max_epochs:
                trainer.fit_loop.max_epochs = max_epochs = default_epochs(splitter.n_train, together)
            if patience == 0:
                patience = max(10, math.ceil(200 / math.ceil(splitter.n_train / together)))
            plan = runner.training_plan = self._training_plan_cls(
                network,
                create,
                n_steps=max_epochs * math.ceil(splitter.n_train / batch_size),
                patience=patience,
                half=max_epochs // 2,
                checkpoint=checkpoint,
                seed=seed,
                **plan_kwargs,
            )
            if checkpoint is not None:
                start = start_of(network, checkpoint)
                plan.description = describe(
                    read_mosaic(self.adata_manager),
                    splitter.val_idx,
                    start=start,
                    arguments=self.arguments_,
                    batch_size=batch_size,
                    max_epochs=max_epochs,
                    patience=patience,
                    random_state=seed,
                    plan_kwargs=plan_kwargs,
                    trainer={name: getattr(trainer, name) for name in DECISIVE},
                    **described,
                )
                runner.ckpt_path = resumable(checkpoint, plan.description)
            try:
                network.train()
                runner()
                calibrate(network, self.adata_manager, splitter.train_idx, splitter.val_idx, seed)
            finally:
                if checkpoint is not None:
                    remember(network, checkpoint, start)
        return plan


def _one_below_the_other(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return what was written down of each network, which is named where there are several."""
    if len(tables) == 1:
        return tables[0]
    return pd.concat([table.assign(network=i) for i, table in enumerate(tables)])


def _bounds(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the bounds between which an ASGD optimizer moves its rate."""
    defaults = optimizer.defaults
    return {k: defaults[k] for k in ("alpha_min", "alpha_max") if k in defaults}

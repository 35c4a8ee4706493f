"""The training plan: what happens in a step, in an epoch, and what is written down of it."""

import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pandas as pd
import torch
from scvi.module.base import LossOutput
from scvi.train import TrainRunner
from torch import Tensor

from mmopt._cells import digest
from mmopt._files import atomic_path
from mmopt._random import derived
from mmopt.models.guard import FiniteGuard, NonFiniteLossError
from mmopt.models.module import TriModule
from mmopt.optim.averaging import WeightAverage, keeps_average

Creator = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class TriTrainingPlan(lightning.LightningModule):
    """Automatic optimization of the evidence lower bound.

    Parameters
    ----------
    module
        The network.
    optimizer_creator
        From parameters to an optimizer.
    n_steps
        Steps of a full run: the weight of the Kullback-Leibler term rises over the first ``warmup`` of them.
    warmup
        See there.
    averaging
        Validation and the trained model are at an average of the iterates: the optimizer's own if it keeps one, else one
        that is kept beside it, with weights of this power (see :func:`mmopt.optim.averaging.weight`). ``None`` keeps
        none beside.
    patience
        Stop when the held-out bound has not improved for so many epochs, though not in the first half, and end with
        the parameters that were best; ``None`` trains to the end and keeps the last.
    half
        The first epoch in which it may stop.
    checkpoint
        File to which everything needed to resume is written, whole or not at all, after each epoch.
    seed
        All randomness of epoch ``i`` comes from ``seed`` and ``i``, so that a resumed run repeats an uninterrupted one.
    """

    def __init__(
        self,
        module: TriModule,
        optimizer_creator: Creator,
        *,
        n_steps: int,
        warmup: float = 0.3,
        averaging: float | None = 8.0,
        patience: int | None = None,
        half: int = 0,
        checkpoint: Path | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.module = module
        self.optimizer_creator = optimizer_creator
        self.n_warmup, self.averaging = warmup * n_steps, averaging
        self.patience, self.half, self.checkpoint, self.seed = patience, half, checkpoint, seed
        self.description = ""  # of the run, so that a checkpoint is not taken for that of another
        self.average: WeightAverage | None = None
        self.average_state: dict | None = None  # of a run that is to go on
        self.guard = FiniteGuard(module)
        self.best: dict[str, Tensor] = {}
        self.best_value, self.best_epoch = float("inf"), -1
        self.epochs: list[dict[str, float]] = []  # one row per finished epoch
        self.losses: list[Tensor] = []  # one value per step, left on the device
        self.rates: list[Tensor] = []
        self._losses: list[Tensor] = []  # of the batches whose gradients add up to the next step
        self._sums: dict[str, dict[str, Tensor]] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        optimizer = self.optimizer_creator(parameters)
        self.keeper = optimizer if keeps_average(optimizer) else None
        if self.averaging is not None and self.keeper is None:
            self.keeper = self.average = WeightAverage(parameters, self.averaging)
            if self.average_state is not None:
                self.average.load_state_dict(self.average_state)
        return optimizer

    def _at_average(self, yes: bool) -> None:
        """Put the average in the place of the parameters, or take it out again."""
        if self.keeper is not None:
            self.keeper.eval() if yes else self.keeper.train()

    @property
    def _together(self) -> bool:
        """Whether several processes train."""
        return self.trainer.world_size > 1

    @property
    def kl_weight(self) -> float:
        return min(1.0, (self.global_step + 1) / max(self.n_warmup, 1))

    # ------------------------------------------------------------------ steps
    def on_fit_start(self) -> None:
        # processes that train together, and batches whose gradients add up, take so many steps fewer
        self.n_warmup /= self.trainer.world_size * self.trainer.accumulate_grad_batches
        # a GPU projects faster than it could ask what is known
        if self.trainer.strategy.root_device.type == "cpu":
            self.module.keep_projections(self.trainer.datamodule.n_atac)

    def on_train_epoch_start(self) -> None:
        # their noise is not that of the first process
        others = (self.global_rank,) if self.global_rank else ()
        torch.manual_seed(derived(self.seed, 1, self.current_epoch, *others))
        self.guard.save()
        self._sums["train"] = {}
        self._n_before = len(self.losses)

    def training_step(self, batch: dict[str, Tensor], _) -> Tensor:
        posterior, _, out = self.module(batch, loss_kwargs={"kl_weight": self.kl_weight})
        # experts first: what is wrong in one of them is wrong in every reconstruction
        experts = dict(zip(self.module.modalities, posterior["expert_means"], strict=True))
        terms = {**experts, **out.reconstruction_loss, **out.kl_local, "total": out.loss}
        self.guard.watch(terms, self.global_step, self._together)
        self._add("train", batch, out)
        self._losses.append(out.loss.detach())
        return out.loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Leave gradients within the limit alone; torch multiplies them by one, which is a pass over all of them."""
        if not gradient_clip_val or gradient_clip_algorithm == "value" or self.device.type != "cpu":
            return super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if norm > gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def on_train_batch_end(self, *_) -> None:
        if self.global_step == len(self.rates):  # no step yet
            return
        self.losses.append(torch.stack(self._losses).mean())
        self._losses.clear()
        optimizer = self.optimizers().optimizer
        rate = optimizer.alphas()[0] if hasattr(optimizer, "alphas") else optimizer.param_groups[0]["lr"]
        self.rates.append(torch.as_tensor(rate, dtype=torch.float32, device=self.device).detach().clone())
        if self.average is not None:
            self.average.update()

    def on_validation_epoch_start(self) -> None:
        self._at_average(True)
        self._sums["validation"] = {}

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        # the same noise every time: epochs, runs and optimizers are compared on equal terms
        generator = torch.Generator().manual_seed(derived(0, index))
        noise = torch.randn(len(batch["batch"]), self.module.n_latent, generator=generator)
        *_, out = self.module(batch, inference_kwargs={"noise": noise})
        self._add("validation", batch, out)

    def on_validation_epoch_end(self) -> None:
        means = self._log("validation")
        if self.patience is not None and means["elbo_validation"] < self.best_value:
            self.best_value, self.best_epoch = means["elbo_validation"], self.current_epoch
            self.best = {k: v.clone() for k, v in self.module.state_dict().items()}
        self._at_average(False)

    def on_train_epoch_end(self) -> None:
        self.guard.check(self._together)
        if self._together:  # each process knows the loss of its own cells
            mean = torch.stack(self.losses[self._n_before :]) / self.trainer.world_size
            torch.distributed.all_reduce(mean)
            self.losses[self._n_before :] = mean
        row = self._log("train")
        held_out = {k: float(v) for k, v in self.trainer.callback_metrics.items() if "validation" in k}
        self.guard.check_end(held_out, self.global_step - 1)
        row |= held_out
        self.epochs.append(row)
        if self.patience is not None and self.current_epoch >= self.half:
            self.trainer.should_stop |= self.current_epoch - self.best_epoch >= self.patience
        if self.checkpoint is None:
            return
        if self.trainer.is_global_zero:
            with atomic_path(self.checkpoint) as partial:
                self.trainer.save_checkpoint(partial)
        else:  # takes part, writes nothing
            self.trainer.save_checkpoint(self.checkpoint)

    def finish(self) -> None:
        """Leave the module with the averaged parameters, or the best ones; also after a run that was complete before."""
        self._at_average(True)
        if self.best:
            self.module.load_state_dict(self.best)

    @torch.no_grad()
    def held_out_bound(self) -> float:
        """Return the negative bound per held-out cell at the parameters as they are: in training, the last iterate."""
        self.module.eval()
        self._sums["validation"] = {}
        for index, batch in enumerate(self.trainer.val_dataloaders):
            self.validation_step(self.trainer.strategy.batch_to_device(batch), index)
        return self._means("validation")["elbo_validation"]

    # ------------------------------------------------------------------ what is written down
    @torch.no_grad()
    def _add(self, stage: str, batch: dict[str, Tensor], out: LossOutput) -> None:
        sums = self._sums[stage]
        # processes may be more than the cells of a minibatch: the mean over none is NaN
        loss = out.loss * out.n_obs_minibatch if out.n_obs_minibatch else torch.zeros_like(out.loss)
        terms = {**out.reconstruction_loss, **out.kl_local, "loss": loss}
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.sum()
            n = len(batch[f"{name[4:]}_rows"]) if name.startswith("nll_") else out.n_obs_minibatch
            sums[f"n_{name}"] = sums.get(f"n_{name}", 0) + n

    def _log(self, stage: str) -> dict[str, float]:
        """Give Lightning the means of the epoch, in the names scvi-tools uses.

        ``elbo`` (negative, per cell), ``reconstruction_loss`` and ``kl_local`` as there; ``nll_<modality>`` is per cell
        in which the modality was measured.
        """
        means = self._means(stage)
        n = int(means.pop("n"))
        self.log_dict(means, prog_bar=False, batch_size=n, sync_dist=self._together)
        return means

    def _means(self, stage: str) -> dict[str, float]:
        """Return the means over what was added, and of how many cells."""
        sums = {k: float(v) for k, v in self._sums[stage].items()}
        if self._together:  # the same means everywhere, so that all stop in the same epoch
            totals = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(totals)
            sums = dict(zip(sums, totals.tolist(), strict=True))
        n = sums["n_loss"]
        reconstruction = sum(v for k, v in sums.items() if k.startswith("nll_")) / n
        return {
            "n": n,
            f"{stage}_loss": sums["loss"] / n,
            f"elbo_{stage}": reconstruction + sums["kl"] / n,
            f"reconstruction_loss_{stage}": reconstruction,
            f"kl_local_{stage}": sums["kl"] / n,
        } | {
            f"{k}_{stage}": sums[k] / sums[f"n_{k}"] if sums[f"n_{k}"] else float("nan")
            for k in sums
            if k.startswith("nll_")
        }

    def steps(self) -> pd.DataFrame:
        """Return loss and rate of every step."""
        columns = {"loss": self.losses, "rate": self.rates}
        return pd.DataFrame({k: torch.stack(v).cpu().numpy() for k, v in columns.items()}).rename_axis("step")

    # ------------------------------------------------------------------ resuming
    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["mmopt"] = {
            "epochs": self.epochs,
            "losses": torch.stack(self.losses).cpu(),
            "rates": torch.stack(self.rates).cpu(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "stopped": self.trainer.should_stop,
            "description": self.description,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["mmopt"]
        self.epochs, self.best = state["epochs"], state["best"]
        self.best_value, self.best_epoch = state["best_value"], state["best_epoch"]
        self.trainer.should_stop = state["stopped"]
        device = self.trainer.strategy.root_device  # the module is moved there only later
        self.losses, self.rates = list(state["losses"].to(device)), list(state["rates"].to(device))
        self.average_state = state["average"]


class MosaicTrainRunner(TrainRunner):
    """Run the trainer; a checkpoint to resume from is read without unpickling anything but tensors and numbers."""

    def _run_training_core(self) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if self.trainer.world_size == 1:
            self.data_splitter.reside(self.device)
        try:
            self.trainer.fit(
                self.training_plan, self.data_splitter, ckpt_path=self.ckpt_path, weights_only=True
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MemoryError(self._advice()) from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):  # what torch says where there is no device
                raise MemoryError(self._advice()) from error
            raise
        except NonFiniteLossError:
            self.model.is_trained_ = self.model.is_trained_ or bool(self.training_plan.epochs)
            raise
        except SystemExit as end:
            # Lightning turns Ctrl-C into an exit of the interpreter and goes on ignoring Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
        finally:
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)
            self.training_plan.module.eval()
            self.training_plan.module.forget_projections()
            self.data_splitter.leave()
        self.training_plan.finish()
        self.model.train_indices = self.data_splitter.train_idx
        self.model.validation_indices = self.data_splitter.val_idx
        self.model.test_indices = self.data_splitter.test_idx
        self.model.cells_ = digest(self.model.adata.obs_names)
        self.model.is_trained_ = True
        self.model.to_device(self.device)
        self.model.trainer = self.trainer

    def _advice(self) -> str:
        batch_size, module = self.data_splitter.batch_size, self.training_plan.module
        advice = (
            f"training ran out of memory; take fewer cells per step (batch_size={max(1, batch_size // 2)})"
        )
        if "atac" in module.decoders:
            n_peaks, one_in = len(module.encoders["atac"].mean), module.decoders["atac"].one_in
            fewer = max(1, n_peaks // (2 * one_in))
            advice += f", fewer peaks (TriVI(mdata, peaks_per_step={fewer}), or mm.pp.prepare(mdata) to select some)"
        return advice + ", or leave the data on disk (mudata.read_h5mu(path, backed=True))"


def trainer_options(progress_bar: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the trainer: ours where the user gives none."""
    options = {
        "gradient_clip_val": 1000.0,
        "use_distributed_sampler": False,
        "enable_progress_bar": progress_bar,
    }
    options |= {"check_val_every_n_epoch": 1} | given
    if options["check_val_every_n_epoch"] != 1:
        raise ValueError("check_val_every_n_epoch must be 1: the history has a row for every epoch")
    options["callbacks"] = list(options.get("callbacks") or [])  # scvi-tools adds its own to the list
    return options

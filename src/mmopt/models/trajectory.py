"""Parameters along a training run, for the plane in which it moved."""

from typing import Any

import lightning.pytorch as lightning
from torch import Tensor


class RecordParameters(lightning.Callback):
    """Keep copies of the parameters: before the first epoch, and after every ``every``-th one, of a model of one network.

    The optimizer's own iterates are kept, not their running average, which the fit ends with.

    Parameters
    ----------
    every
        Epochs between two copies.
    max_snapshots
        Of more copies than this, every other one is dropped and the distance between later ones doubled. The memory is
        that of so many copies of the parameters; a ``checkpoint`` of the training holds them too.

    Attributes
    ----------
    snapshots
        Named parameters that are trained, on the CPU, in the order of training.
    epochs
        Finished epochs at each of them.

    Raises
    ------
    ValueError
        If ``every`` is less than 1 or ``max_snapshots`` less than 3.

    Examples
    --------
    >>> from mmopt.models import RecordParameters
    >>> recorder = RecordParameters()
    >>> model = mm.tl.integrate(mdata, n_networks=1, callbacks=[recorder])
    >>> mm.tl.landscape(mdata, model, directions="trajectory", trajectory=recorder)
    """

    def __init__(self, every: int = 1, max_snapshots: int = 60) -> None:
        if every < 1 or max_snapshots < 3:
            raise ValueError(
                f"every must be at least 1 and max_snapshots at least 3; got {every} and {max_snapshots}"
            )
        self.every, self.max_snapshots = every, max_snapshots
        self._clear()

    def _clear(self) -> None:
        self.snapshots: list[dict[str, Tensor]] = []
        self.epochs: list[int] = []
        self.stride = self.every

    def setup(self, trainer: lightning.Trainer, plan: lightning.LightningModule, stage: str) -> None:
        self._clear()

    def on_train_start(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        if not self.snapshots:  # a resumed run has some
            self._record(plan, 0)

    def on_train_epoch_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self._record(plan, trainer.current_epoch + 1)

    def _record(self, plan: lightning.LightningModule, epoch: int) -> None:
        if epoch % self.stride:
            return
        trained = ((n, p) for n, p in plan.module.named_parameters() if p.requires_grad)
        self.snapshots.append({n: p.detach().cpu().clone() for n, p in trained})
        self.epochs.append(epoch)
        if len(self.snapshots) > self.max_snapshots:
            self.snapshots, self.epochs = self.snapshots[::2], self.epochs[::2]
            self.stride *= 2

    def state_dict(self) -> dict[str, Any]:
        return {"snapshots": self.snapshots, "epochs": self.epochs, "stride": self.stride}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.snapshots, self.epochs, self.stride = state["snapshots"], state["epochs"], state["stride"]

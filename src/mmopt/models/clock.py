"""What a comparison of optimizers notes of a run: the time up to each evaluation, and the bound of the last iterate."""

import time

import lightning.pytorch as lightning
import torch


class Clock(lightning.Callback):
    """Note the step and the seconds of training, evaluations not counted, at each evaluation; and how the run ended.

    Attributes
    ----------
    steps, seconds
        One value per evaluation.
    last_iterate
        Held-out bound at the end, without any averaging of iterates.
    """

    def on_train_start(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self.steps: list[int] = []
        self.seconds: list[float] = []
        self._spent, self._since = 0.0, time.perf_counter()

    def on_validation_start(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        if plan.device.type == "cuda":  # steps that were handed over are not yet done
            torch.cuda.synchronize(plan.device)
        self._spent += time.perf_counter() - self._since
        self.steps.append(trainer.global_step)
        self.seconds.append(self._spent)

    def on_validation_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self.last_iterate = plan.held_out_bound()

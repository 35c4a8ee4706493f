"""Optimizers that are to be judged by an average of their iterates which they keep themselves."""

import lightning.pytorch as lightning


class EvaluateOwnAverage(lightning.Callback):
    """Evaluate, and end training, at the average that a Schedule-Free optimizer keeps.

    Such an optimizer has ``train()`` and ``eval()``; the plan's own average of the parameters is left out, because an
    average of averages is not what it promises. Nothing happens with any other optimizer.
    """

    def on_train_start(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self.optimizers = [o for o in trainer.optimizers if hasattr(o, "train") and hasattr(o, "eval")]
        if self.optimizers:
            plan.average_from = float("inf")
        self._switch("train")

    def on_validation_start(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self._switch("eval")

    def on_validation_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self._switch("train")

    def on_train_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self._switch("eval")

    def _switch(self, mode: str) -> None:
        for optimizer in self.optimizers:
            getattr(optimizer, mode)()

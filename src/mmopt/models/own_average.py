"""In other people's Lightning modules: optimizers judged at the average of their iterates which they keep."""

import lightning.pytorch as lightning

from mmopt.optim.averaging import keeps_average


class EvaluateOwnAverage(lightning.Callback):
    """Evaluate, and end training, at the average that an optimizer keeps (the ASGD family, Schedule-Free).

    Nothing happens with an optimizer that keeps none. TriVI and models given to :func:`mmopt.models.use_optimizer` do so
    by themselves. Running statistics of batch normalisation stay those of the iterates.

    Examples
    --------
    >>> ours = {"optimizer": "Custom", "optimizer_creator": mm.optim.creator("asgdadam", lr=1e-3)}
    >>> model = scvi.model.SCVI(adata)
    >>> model.train(plan_kwargs=ours, callbacks=[EvaluateOwnAverage()])
    """

    def on_train_start(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        self.optimizers = [o for o in trainer.optimizers if keeps_average(o)]
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

"""In other people's Lightning modules: optimizers judged at the average of their iterates which they keep."""

import lightning.pytorch as lightning

from mmopt.optim.averaging import keeps_average


class EvaluateOwnAverage(lightning.Callback):
    """Evaluate, and end training, at the average that an optimizer keeps (the ASGD family, Schedule-Free).

    The iterates come back when training goes on, so that a checkpoint that is written after a validation holds the
    parameters that were validated. Nothing happens with an optimizer that keeps no average. TriVI and models given to
    :func:`mmopt.models.use_optimizer` do so by themselves. Running statistics of batch normalisation stay those of the
    iterates.

    Examples
    --------
    >>> ours = {"optimizer": "Custom", "optimizer_creator": mm.optim.creator("asgdadam", lr=1e-3)}
    >>> model = scvi.model.SCVI(adata)
    >>> model.train(plan_kwargs=ours, callbacks=[EvaluateOwnAverage()])
    """

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
        _switch(trainer, "train")  # only now, so that what is saved after a validation is what was validated

    def on_validation_start(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        _switch(trainer, "eval")

    def on_train_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        _switch(trainer, "eval")


def _switch(trainer: lightning.Trainer, mode: str) -> None:
    for optimizer in trainer.optimizers:
        if keeps_average(optimizer):
            getattr(optimizer, mode)()

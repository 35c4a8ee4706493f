"""A Lightning callback that writes down what the rates do; the only module here that knows Lightning."""

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as lightning
from torch import Tensor
from torch.optim import Optimizer


class LogRates(lightning.Callback):
    """Log the rates of every optimizer to the trainer's loggers, for any LightningModule.

    An ASGD optimizer gives three values per controller, that is per parameter group: ``base_rate`` (A), ``alpha`` (the
    rate of the last step: A, times schedulers and warm-up) and ``agreement`` (the mean vote of the last window, NaN
    before there is one). Any other optimizer gives ``lr`` per group. The values go through Lightning's own logging: the
    loggers get them every ``trainer.log_every_n_steps``, and only then does anything wait for the device.

    The names are ``ASGDAdam/base_rate``, with several controllers ``ASGDAdam/0/base_rate``, ``ASGDAdam/1/base_rate``,
    …; a second optimizer of the same class is called ``ASGDAdam-1``.

    Examples
    --------
    >>> import lightning
    >>> from mmopt.optim import LogRates
    >>> trainer = lightning.Trainer(callbacks=[LogRates()], log_every_n_steps=10)  # doctest: +SKIP

    scvi-tools keeps the last value of each epoch, in ``model.history["ASGDAdam/base_rate"]``:

    >>> model.train(callbacks=[LogRates()])  # doctest: +SKIP
    """

    def on_train_batch_end(  # noqa: D102
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any
    ) -> None:
        # as Lightning's LearningRateMonitor asks; logging at every step would cost a millisecond each
        if trainer._logger_connector.should_update_logs:
            pl_module.log_dict(current_rates(trainer.optimizers), on_step=True, on_epoch=False)


def current_rates(optimizers: Iterable[Optimizer]) -> dict[str, float | Tensor]:
    """Rates by name; those on a device stay there."""
    found: dict[str, float | Tensor] = {}
    classes: list[str] = []
    for optimizer in optimizers:
        name = type(optimizer).__name__
        n_before = classes.count(name)
        classes.append(name)
        name += f"-{n_before}" if n_before else ""
        if hasattr(optimizer, "base_rates"):
            kinds = {
                "base_rate": optimizer.base_rates(),
                "alpha": optimizer.alphas(),
                "agreement": optimizer.agreements(),
            }
        else:
            kinds = {"lr": [group["lr"] for group in optimizer.param_groups]}
        for kind, values in kinds.items():
            for i, value in enumerate(values):
                found[f"{name}/{i}/{kind}" if len(values) > 1 else f"{name}/{kind}"] = value
    return found

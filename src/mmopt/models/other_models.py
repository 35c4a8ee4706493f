"""One line that lets an optimizer of this package train any scvi-tools model."""

from collections.abc import Callable
from typing import Any

from scvi.model.base import BaseModelClass
from scvi.train import TrainingPlan

from mmopt.models.own_average import EvaluateOwnAverage
from mmopt.optim import creator


def use_optimizer(model: BaseModelClass, name: str = "asgdadam", **kwargs: Any) -> None:
    """Make ``model.train`` of a scvi-tools model use an optimizer by its name in :func:`mmopt.optim.available`.

    Works for every model that trains with scvi-tools' own torch plans: SCVI, SCANVI, TOTALVI, PEAKVI, MULTIVI, … For
    MULTIVI it is the only way: its ``train`` replaces an optimizer that is given as ``plan_kwargs={"optimizer":
    "Custom", …}`` by AdamW, without a word. The model is validated at, and ends with, the average of iterates that the
    optimizer keeps; ``averaging=None`` leaves that out.

    Parameters
    ----------
    model
        The model; from now on its plan asks this package for the optimizer. An adversarial classifier, where there is
        one, keeps scvi-tools' Adam.
    name, kwargs
        As for :func:`mmopt.optim.create`. ``lr``, ``eps`` and ``weight_decay`` that are not given are those of the
        model's training plan, so that ``model.train(lr=…)`` still acts and nothing but the optimizer changes. Note
        that their defaults differ between models (MULTIVI starts at 1e-4, SCVI's ``eps`` is 0.01) and suit Adam: give
        Prodigy ``lr=1``.

    Raises
    ------
    TypeError
        If the model trains in another way, or the optimizer does not have an argument.
    ValueError
        If the name is not known.

    Examples
    --------
    >>> model = scvi.model.MULTIVI(mdata, n_genes=2000, n_regions=20000)
    >>> mm.models.use_optimizer(model, "asgdadam", lr=1e-3)
    >>> model.train()
    """
    plan = getattr(model, "_training_plan_cls", None)
    if not (isinstance(plan, type) and issubclass(plan, TrainingPlan)):
        raise TypeError(
            f"{type(model).__name__} does not train with a torch training plan of scvi-tools; "
            "give TriVI its optimizer with `train(optimizer=…)`, and other models in the way they document"
        )
    creator(name, **kwargs)  # refuses a wrong name or argument now, not when training starts

    def get_optimizer_creator(self: TrainingPlan) -> Callable:
        own = {"lr": self.lr, "eps": self.eps, "weight_decay": self.weight_decay}
        return creator(name, **{**own, **kwargs})

    def configure_callbacks(self: TrainingPlan) -> list:
        return [*plan.configure_callbacks(self), EvaluateOwnAverage()]

    hooks = {"get_optimizer_creator": get_optimizer_creator, "configure_callbacks": configure_callbacks}
    model._training_plan_cls = type(plan.__name__, (plan,), hooks)

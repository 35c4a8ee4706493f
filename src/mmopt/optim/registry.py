"""Optimizers by name, so that a model or a comparison can be told which to use."""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from . import rivals
from .asgd import ASGDAdam, ASGDAMSGrad
from .padam import Padam

# arguments every optimizer may be given; those it has no use for (SGD: betas and eps) are left out
COMMON = ("lr", "betas", "eps", "weight_decay")

# class and the arguments that make it what its name says
_BUILDERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "adam": (Adam, {}),
    "adamw": (AdamW, {}),
    "amsgrad": (Adam, {"amsgrad": True}),
    "asgdadam": (ASGDAdam, {}),
    "asgdamsgrad": (ASGDAMSGrad, {}),
    "padam": (Padam, {}),
    "sgd": (SGD, {}),
}
_DEFAULTS: dict[str, dict[str, Any]] = {"sgd": {"lr": 1e-3, "momentum": 0.9}}
_ALIASES = {"asgd_adam": "asgdadam", "asgd_amsgrad": "asgdamsgrad"}


def available() -> list[str]:
    """Names that :func:`create` always knows; :func:`available_rivals` lists the optional ones.

    Examples
    --------
    >>> from mmopt.optim import available
    >>> available()
    ['adam', 'adamw', 'amsgrad', 'asgdadam', 'asgdamsgrad', 'padam', 'sgd']
    """
    return sorted(_BUILDERS)


def create(name: str, params: Any, **kwargs: Any) -> Optimizer:
    """Build the optimizer called ``name``.

    Parameters
    ----------
    name
        One of :func:`available` or :func:`~mmopt.optim.available_rivals`, in any case.
    params
        Parameters, or dicts that define parameter groups.
    kwargs
        ``lr``, ``betas``, ``eps`` and ``weight_decay`` may be given to every optimizer; one that has no use for them
        leaves them out. Any other argument must be one that this optimizer has. What is not given stays at the
        optimizer's own default; ``sgd`` takes ``lr=1e-3, momentum=0.9``.

    Returns
    -------
    A ``torch.optim.Optimizer``.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If the optimizer does not have an argument.
    ImportError
        If a rival needs a package that is not installed.

    Examples
    --------
    >>> import torch
    >>> from mmopt.optim import create
    >>> create("sgd", torch.nn.Linear(3, 1).parameters(), lr=0.01, eps=1e-8).defaults["momentum"]
    0.9
    """
    build, arguments = _resolve(name, kwargs)
    return build(params, **arguments)


def creator(name: str, **kwargs: Any) -> Callable[[Any], Optimizer]:
    """Callable that builds the optimizer when it is given the parameters; it can be pickled.

    This is what scvi-tools models take as ``optimizer_creator``. Name and arguments are checked here, not when
    training starts; warnings come when the optimizer is built. scvi-tools passes on neither its ``lr`` nor its ``eps`` or ``weight_decay``: give them here.
    MULTIVI ignores ``plan_kwargs["optimizer"]``: use :func:`mmopt.models.use_optimizer`.

    Parameters
    ----------
    name, kwargs
        As for :func:`create`.

    Returns
    -------
    A callable ``params -> optimizer``.

    Examples
    --------
    >>> from mmopt.optim import creator
    >>> plan_kwargs = {"optimizer": "Custom", "optimizer_creator": creator("asgdadam", lr=1e-3, eps=0.01)}
    """
    build, arguments = _resolve(name, kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(
            [{"params": []}], **arguments
        )  # values are checked, on no device: that of the parameters is not known yet
    return partial(create, name, **kwargs)


def canonical(name: str) -> str:
    """Return the one spelling of a name: in lower case, and no alias."""
    return _ALIASES.get(str(name).lower(), str(name).lower())


def _resolve(name: str, kwargs: dict[str, Any]) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Class and complete arguments for a name and what the user gave."""
    key = canonical(name)
    if key in _BUILDERS:
        build, fixed = _BUILDERS[key]
    elif key in rivals.CLASSES:
        build, fixed = rivals.load(key), {}
    else:
        raise ValueError(
            f"Unknown optimizer {name!r}; accepted are {', '.join(available())}, "
            f"and with pytorch-optimizer {', '.join(sorted(rivals.CLASSES))}."
        )
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    accepted = {p.name for p in inspect.signature(build).parameters.values() if p.kind in named}
    accepted -= {"params", *fixed}
    unknown = sorted(set(kwargs) - accepted - set(COMMON))
    if unknown:
        raise TypeError(
            f"{key} does not accept {', '.join(unknown)}; it accepts {', '.join(sorted(accepted))}."
        )
    given = {argument: value for argument, value in kwargs.items() if argument in accepted}
    return build, {**_DEFAULTS.get(key, {}), **fixed, **given}

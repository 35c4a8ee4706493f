"""Optimizers of other packages, to compare with; loaded only when one is asked for."""

from importlib import import_module
from importlib.util import find_spec

from torch.optim import Optimizer

# name -> module and class
CLASSES = {
    "adabelief": ("pytorch_optimizer", "AdaBelief"),
    "adan": ("pytorch_optimizer", "Adan"),
    "lion": ("pytorch_optimizer", "Lion"),
    "nadam": ("torch.optim", "NAdam"),
    "prodigy": ("pytorch_optimizer", "Prodigy"),
    "radam": ("torch.optim", "RAdam"),
    "schedulefree": ("pytorch_optimizer", "ScheduleFreeAdamW"),
    "soap": ("pytorch_optimizer", "SOAP"),
}


def available_rivals() -> list[str]:
    """Names of optional optimizers that :func:`~mmopt.optim.create` can build with what is installed now.

    ``schedulefree`` evaluates at an average of its iterates: call its ``eval()`` before and ``train()`` after.

    Examples
    --------
    >>> from mmopt.optim import available_rivals
    >>> "radam" in available_rivals()
    True
    """
    return sorted(name for name, (module, _) in CLASSES.items() if find_spec(module) is not None)


def load(name: str) -> type[Optimizer]:
    """Class of a rival.

    Raises
    ------
    ImportError
        If its package is not installed.
    """
    module, attribute = CLASSES[name]
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The optimizer {name!r} comes from the package {module.replace('_', '-')}; "
            "install it with: pip install 'mmopt[benchmark]'"
        ) from error

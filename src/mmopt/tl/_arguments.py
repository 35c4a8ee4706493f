"""Whether the further arguments of ``integrate`` exist, found out before anything is written to the data."""

from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any

from lightning.pytorch import Trainer as LightningTrainer
from scvi.train import Trainer

from mmopt._checks import nearest
from mmopt.models import TriVI
from mmopt.models.module import TriModule

_DATA = {"self", "mdata", "registry", "n_features", "n_batch", "n_added_batches"}


def check_arguments(call: Callable, train_kwargs: Iterable[str], model_kwargs: dict[str, Any] | None) -> None:
    """Refuse names that neither ``call`` nor the training nor the model knows.

    Raises
    ------
    TypeError
        Such a name; says which one was meant, or where it belongs.
    """
    own = _names(call)
    of_training = _names(TriVI.train) | _names(Trainer.__init__) | _names(LightningTrainer.__init__)
    of_model = (_names(TriVI.__init__) | _names(TriModule.__init__)) - own
    for name in train_kwargs:
        if name in of_model:
            raise TypeError(
                f"{name} is an argument of the model: give it as `model_kwargs={{{name!r}: ...}}`"
            )
        if name not in of_training and not _takes_any(LightningTrainer.__init__):
            raise TypeError(f"no argument {name!r}{_meant(name, own | of_training | of_model)}")
    for name in model_kwargs or ():
        if name in own:
            raise TypeError(f"model_kwargs: {name} is an argument of the call itself: `{name}=...`")
        if name not in of_model:
            raise TypeError(f"model_kwargs: no argument {name!r}{_meant(name, of_model)}")


def _names(function: Callable) -> set[str]:
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {p.name for p in signature(function).parameters.values() if p.kind in named} - _DATA


def _takes_any(function: Callable) -> bool:
    """Whether it has ``**kwargs``, as a trainer that somebody wrapped: what these may be is not known."""
    return any(p.kind is Parameter.VAR_KEYWORD for p in signature(function).parameters.values())


def _meant(name: str, known: set[str]) -> str:
    close = nearest(name, known, 3)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(sorted(known))}"

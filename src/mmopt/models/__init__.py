"""TriVI, the tri-modal variational model, as a native scvi-tools model; and our optimizers in other people's models."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "frozen": ["frozen_loss"],
        "guard": ["NonFiniteLossError"],
        "other_models": ["use_optimizer"],
        "own_average": ["EvaluateOwnAverage"],
        "predictions": ["Interval"],
        "trajectory": ["RecordParameters"],
        "trivi": ["TriVI"],
    },
)

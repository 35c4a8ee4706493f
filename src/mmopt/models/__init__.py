"""TriVI, the tri-modal variational model, as a native scvi-tools model."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__, submod_attrs={"guard": ["NonFiniteLossError"], "trivi": ["TriVI"]}
)

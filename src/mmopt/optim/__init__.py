"""Optimizers for any PyTorch model: Adam with a self-adjusting base rate, Padam, and a registry of names."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "asgd": ["ASGDAMSGrad", "ASGDAdam"],
        "log_rates": ["LogRates"],
        "padam": ["Padam"],
        "registry": ["available", "create", "creator"],
        "rivals": ["available_rivals"],
    },
)

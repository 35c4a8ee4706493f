"""Regulatory networks on arrays: peak-gene links, ridge regulons, propagation of a perturbation, its null."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "effects": ["Perturbation", "Scene"],
        "confirmation": ["Confirmation", "confirm"],
        "ensemble": ["fit_network"],
        "links": ["link_peaks"],
        "network": ["Network"],
        "problem": ["Problem"],
        "propagation": ["Cells", "Readout", "propagate"],
        "ridge": ["adaptive_ridge", "ridge"],
    },
)

"""Plots: they read slots only, so they work on a file read again, without torch."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_dynamics": ["dynamics"],
        "_fates": ["fates"],
        "_landscape": ["landscape"],
        "_loss_curves": ["loss_curves"],
        "_modality_weights": ["modality_weights"],
        "_optimizer_comparison": ["optimizer_comparison"],
        "_perturbation": ["perturbation"],
        "_perturbation_embedding": ["perturbation_embedding"],
        "_quasi_potential": ["quasi_potential"],
        "_reprogram": ["reprogram"],
        "_screen": ["screen"],
        "_trajectories": ["trajectories"],
    },
)

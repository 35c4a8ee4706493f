"""Tools: train, look at the fit, compare optimizers, perturb, reprogram, follow a time course."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_compare_optimizers": ["compare_optimizers"],
        "_curvature": ["curvature"],
        "_evaluate_perturbation": ["evaluate_perturbation"],
        "_evaluate_twin": ["evaluate_twin"],
        "_integrate": ["integrate"],
        "_landscape": ["landscape"],
        "_perturb": ["perturb"],
        "_regulons": ["regulons"],
        "_reprogram": ["reprogram"],
        "_screen": ["screen"],
        "_simulate": ["simulate"],
        "_transitions": ["transitions"],
        "_twin": ["twin"],
    },
)

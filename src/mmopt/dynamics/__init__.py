"""Dynamics of a differentiating population on arrays: couplings, flow matching, integration, clamped regulators."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "chains": ["descendants", "offspring", "sample_ancestors", "sample_chains"],
        "couplings": ["couple", "drifts_apart"],
        "distances": ["maximum_mean_discrepancy", "wasserstein"],
        "fates": ["FateMap"],
        "flow": ["Flow", "fit_flow"],
        "integration": ["euler_maruyama", "rk4"],
        "pace": ["change"],
        "regulation": ["Circuit", "follow"],
        "shrinkage": ["agreement", "shrink"],
    },
)

"""A simulated tri-modal population with known truth: the package's default data, its tests' and its tutorials'."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "dynamics": ["Kinetics"],
        "myeloid": ["krumsiek2011"],
        "network": ["Network"],
        "simulate": ["simulate_trimodal", "toy"],
        "topologies": ["random_network"],
        "truth": ["truth_effect", "truth_fates"],
    },
)

"""Loss landscapes and curvature of any torch model: named parameters in, arrays out.

Every function takes ``loss_fn(params)``, a deterministic and differentiable map from named parameters to a dict of
0-d losses with the total under ``"loss"`` and any parts of it under other keys. Inputs, gradients and global random
states are left as they were.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["directions", "hessian", "parameters", "sam", "surface", "trajectory"],
    submod_attrs={
        "directions": ["difference", "orthogonalise", "random_direction"],
        "hessian": ["Eigenpairs", "Hessian", "top_eigenvalues", "trace"],
        "sam": ["sharpness"],
        "surface": ["axis", "slice_1d", "slice_2d", "slice_between"],
        "trajectory": ["Trajectory", "pca_directions", "random_walk_explained_variance"],
    },
)

"""mmopt: tri-modal single-cell integration with adaptive optimizers.

``import mmopt as mm`` is cheap: every part loads on first use, so neither torch nor scvi-tools is imported here.
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

__version__ = _version("mmopt")

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=["curvature", "datasets", "dynamics", "grn", "metrics", "models", "optim", "pl", "pp", "tl"],
)

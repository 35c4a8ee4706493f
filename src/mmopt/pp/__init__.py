"""Preprocessing: what happens to a MuData before a model sees it."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submod_attrs={"_prepare": ["prepare"]})

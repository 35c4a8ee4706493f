"""Levels: every feature on the scale from off to fully on."""

import numpy as np

_TOP, _TOP_LEVEL = 0.995, 0.9


def tops(values: np.ndarray) -> np.ndarray:
    """Value of each feature that stands for level 1, a little above its 99.5 % quantile; ``(n_features,)``."""
    return np.maximum(np.quantile(values, _TOP, axis=0) / _TOP_LEVEL, 1e-9)

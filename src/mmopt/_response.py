"""How a target answers to its regulators: levels from off to fully on, log odds, and an occupancy that saturates."""

from dataclasses import dataclass

import numpy as np

# what a pool of some thirty cells cannot tell from off or from fully on
FLOOR = 0.03
# how often a gene turns over while the population differentiates: no snapshot says, so the members of an ensemble differ. Chosen
# on simulated networks, where a threefold error costs little
TURNOVERS = (6.0, 12.0, 24.0)


@dataclass(frozen=True)
class Form:
    """How a target answers to its regulator's level: ``u**exponent / (u**exponent + half**exponent)``."""

    exponent: float
    half: float

    def __call__(self, level: np.ndarray) -> np.ndarray:
        """Occupancy, from 0 to 1, of levels of at least 0."""
        power = level**self.exponent
        return power / (power + self.half**self.exponent)

    def slope(self, level: np.ndarray) -> np.ndarray:
        """Differentiate the occupancy."""
        occupied = self(level)
        return self.exponent * occupied * (1 - occupied) / np.maximum(level, 1e-3)


def expit(odds: np.ndarray) -> np.ndarray:
    """Logistic function; NumPy's exponential of single precision is several times as fast as SciPy's ``expit``."""
    return 1 / (1 + np.exp(-odds))


def log_odds(level: np.ndarray) -> np.ndarray:
    """Log odds of a level, kept finite at both ends."""
    inside = FLOOR + (1 - 2 * FLOOR) * np.clip(level, 0, 1)
    return np.log(inside / (1 - inside))

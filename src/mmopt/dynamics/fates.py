"""What a simulated state is: the labels of the observed cells around it, or nothing where there are none."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.neighbors import NearestNeighbors

_RADIUS = 0.99


@dataclass(frozen=True, eq=False)
class FateMap:
    """Labelled observed cells.

    Parameters
    ----------
    states
        ``(n, d)``.
    labels
        ``(n,)`` names.
    k
        Neighbours that are asked.
    """

    states: np.ndarray
    labels: np.ndarray
    k: int = 15

    @cached_property
    def names(self) -> list[str]:
        """The labels there are, sorted."""
        return [str(name) for name in np.unique(np.asarray(self.labels, dtype=str))]

    @cached_property
    def radius(self) -> float:
        """Distance to the last neighbour that 99 % of the cells do not exceed; a cell is no neighbour of its own."""
        return float(np.quantile(self._index.kneighbors()[0][:, -1], _RADIUS))

    @cached_property
    def _index(self) -> NearestNeighbors:
        return NearestNeighbors(n_neighbors=min(self.k, len(self.states) - 1)).fit(self.states)

    @cached_property
    def _hot(self) -> np.ndarray:
        return (np.asarray(self.labels, dtype=str)[:, None] == self.names).astype(float)

    def outside(self, states: np.ndarray) -> np.ndarray:
        """Which states lie farther from the observed ones than 99 % of those from each other; ``(n,)``."""
        return self._index.kneighbors(states)[0][:, -1] > self.radius

    def near(self, states: np.ndarray) -> np.ndarray:
        """Rows of the nearest observed cells, ``(n, k)``."""
        return self._index.kneighbors(states, return_distance=False)

    def __call__(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of each label around each state, ``(n, n_labels)``, 0 outside of the data; and who is outside."""
        distance, near = self._index.kneighbors(states)
        outside = distance[:, -1] > self.radius
        share = self._hot[near].mean(1)
        share[outside] = 0
        return share, outside

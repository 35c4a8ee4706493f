"""What a simulated state is: the labels of the observed cells around it, or nothing where there are none."""

from dataclasses import dataclass, field

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
    names: list[str] = field(init=False)
    radius: float = field(init=False)

    def __post_init__(self) -> None:
        k = min(self.k, len(self.states) - 1)
        index = NearestNeighbors(n_neighbors=k).fit(self.states)
        names, numbers = np.unique(np.asarray(self.labels, dtype=str), return_inverse=True)
        derived = {
            "names": [str(n) for n in names],
            "_hot": np.eye(len(names))[numbers],
            "_index": index,
            # a cell of the data is no neighbour of its own
            "radius": float(np.quantile(index.kneighbors()[0][:, -1], _RADIUS)),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

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

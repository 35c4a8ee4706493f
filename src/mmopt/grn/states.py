"""Among the cells of which group a cell lies."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

_NEIGHBOURS = 15


class Surroundings:
    """Unperturbed cells with the group of each, among which others are looked up.

    Parameters
    ----------
    states
        ``(n_cells, d)``, where the unperturbed cells are.
    group
        ``(n_cells,)`` number of each one's group; -1 for those of none, which are no neighbours of any.
    n_groups
        Number of groups.
    """

    def __init__(self, states: np.ndarray, group: np.ndarray, n_groups: int) -> None:
        self.known, self.group, self.n_groups = np.flatnonzero(group >= 0), group, n_groups
        self.k = min(_NEIGHBOURS, len(self.known) - 1)
        if self.k < 1:
            raise ValueError(f"two cells with a group are needed, got {len(self.known)}")
        self._index = NearestNeighbors(n_neighbors=self.k + 1).fit(states[self.known])

    def shares(self, states: np.ndarray) -> np.ndarray:
        """Share of each group among the 15 cells nearest to each of the same cells, wherever these are now.

        Parameters
        ----------
        states
            ``(n_cells, d)``, in the order of the unperturbed cells. A cell as it was is no neighbour of itself.

        Returns
        -------
        numpy.ndarray
            ``(n_cells, n_groups)``; rows sum to 1.

        Examples
        --------
        >>> among = Surroundings(np.array([[0.0], [1.0], [9.0]]), np.array([0, 0, 1]), 2)
        >>> among.shares(np.array([[8.0], [1.0], [9.0]]))
        array([[0.5, 0.5],
               [0.5, 0.5],
               [1. , 0. ]])
        """
        near = self.known[self._index.kneighbors(states, return_distance=False)]
        others = near != np.arange(len(states))[:, None]
        # of k + 1 the cell itself is left out, or the farthest
        kept = np.argsort(~others, axis=1, kind="stable")[:, : self.k]
        groups = self.group[np.take_along_axis(near, kept, axis=1)]
        return np.stack([(groups == g).mean(1) for g in range(self.n_groups)], axis=1)

"""Regulatory logic as smooth Hill functions: levels of the sources in, production of the targets out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

EDGE_COLUMNS = ["source", "target", "sign", "strength", "threshold", "hill", "complex"]


class _Bound:
    """One sign of edge (all activators or all repressors), grouped complex by complex and target by target."""

    def __init__(self, edges: pd.DataFrame, sources: pd.Index, targets: pd.Index) -> None:
        edges = edges.assign(row=targets.get_indexer(edges["target"])).sort_values(
            ["row", "complex"], kind="stable"
        )
        self.source = sources.get_indexer(edges["source"])
        self.threshold = edges["threshold"].to_numpy(float)[:, None]
        self.hill = edges["hill"].to_numpy(float)[:, None]
        self.all_four = bool((self.hill == 4).all())
        row, group = edges["row"].to_numpy(), edges["complex"].to_numpy()
        new_target = np.r_[True, row[1:] != row[:-1]]
        new_complex = new_target | np.r_[True, group[1:] != group[:-1]]
        self.complex_start = np.flatnonzero(new_complex)
        self.target_start = np.flatnonzero(new_target[self.complex_start])
        self.target = row[new_target]
        self.strength = np.multiply.reduceat(edges["strength"].to_numpy(float), self.complex_start)[:, None]

    def free(self, levels: np.ndarray) -> np.ndarray:
        """Share of each target's regulatory sites that no complex occupies."""
        ratio = levels[self.source] / self.threshold
        # the default exponent is worth a shortcut: the power is half of a simulation's time
        ratio = np.square(np.square(ratio)) if self.all_four else ratio**self.hill
        occupied = np.multiply.reduceat(ratio / (1 + ratio), self.complex_start, axis=0)
        return np.multiply.reduceat(1 - self.strength * occupied, self.target_start, axis=0)


class Logic:
    """The rules of ``targets`` given their in-edges.

    Sources of the same target, sign and ``complex`` act together (AND). Complexes of activators are alternatives
    (OR), any complex of repressors suffices to switch off (AND NOT). A target without activators is on by default.

    Parameters
    ----------
    edges
        Columns ``source, target, sign, strength, threshold, hill, complex``; rows whose target is not in
        ``targets`` are left out.
    sources, targets
        Names of the rows of the input and of the output.
    """

    def __init__(self, edges: pd.DataFrame, sources: Sequence[str], targets: Sequence[str]) -> None:
        sources, targets = pd.Index(sources), pd.Index(targets)
        edges = edges[edges["target"].isin(targets)]
        self.n_targets = len(targets)
        activation, repression = edges["sign"] > 0, edges["sign"] < 0
        self.activators = _Bound(edges[activation], sources, targets) if activation.any() else None
        self.repressors = _Bound(edges[repression], sources, targets) if repression.any() else None

    def __call__(self, levels: np.ndarray) -> np.ndarray:
        """Production in [0, 1], targets × cells, from ``levels``, sources × cells."""
        production = np.ones((self.n_targets, levels.shape[1]))
        if self.activators is not None:
            production[self.activators.target] = 1 - self.activators.free(levels)
        if self.repressors is not None:
            production[self.repressors.target] *= self.repressors.free(levels)
        return production

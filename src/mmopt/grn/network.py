"""A regulatory network as an ensemble: what regulates what, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmopt._response import FLOOR, Form, expit, log_odds


@dataclass(frozen=True, eq=False)
class Network:
    """Weights of every member of the ensemble on the same edges.

    Parameters
    ----------
    regulators
        Columns of the features that regulate, ``(p,)``.
    source, target
        Of each edge: number of the regulator (not its column) and column of the target; ``(n_edges,)``.
    weights
        Change of the target's log odds per unit of the regulator's occupancy; ``(n_members, n_edges)``.
    forms, n_steps
        Of each member: the occupancy as a function of the level, and how many steps an effect travels.
    n_features
        Columns in all.
    """

    regulators: np.ndarray
    source: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    forms: tuple[Form, ...]
    n_steps: tuple[int, ...]
    n_features: int

    @property
    def n_members(self) -> int:
        """Number of members."""
        return len(self.weights)

    def dense(self, member: int, order: np.ndarray | None = None) -> np.ndarray:
        """Weights of one member, ``(n_features, p)``; with ``order`` every target takes another one's regulators."""
        weights = np.zeros((self.n_features, len(self.regulators)))
        target = self.target if order is None else order[self.target]
        weights[target, self.source] = self.weights[member]
        return weights

    def shuffled(self, blocks: Sequence[slice], rng: np.random.Generator) -> np.ndarray:
        """Draw an order in which every target takes the regulators of another one of its block.

        Regulators change places among themselves, and so do the other features: were they mixed, effects would die out after
        the first step, as the edges from regulator to regulator would end at ordinary features.
        """
        order = np.arange(self.n_features)
        for block in blocks:
            here = order[block]
            acts = np.isin(here, self.regulators)
            for columns in (here[acts], here[~acts]):
                order[columns] = rng.permutation(columns)
        return order


def spectral_radius(weights: np.ndarray, level: np.ndarray, form: Form) -> float:
    """Largest modulus of the eigenvalues of the regulators' average Jacobian.

    Parameters
    ----------
    weights
        ``(p, p)``, regulators on regulators.
    level
        ``(n_cells, p)``, levels of the regulators.
    form
        Occupancy as a function of the level.
    """
    share = expit(log_odds(level))
    answer = share * (1 - share) / (1 - 2 * FLOOR)
    jacobian = weights * (answer.T @ form.slope(np.maximum(level, 0)) / len(level))
    return float(np.abs(np.linalg.eigvals(jacobian)).max()) if jacobian.size else 0.0


def sign_stability(weights: np.ndarray) -> np.ndarray:
    """Share of the members that give each edge the sign that most give it; ``(n_edges,)``, 0 to 1: a weight of 0 has no sign."""
    return np.maximum((weights > 0).mean(0), (weights < 0).mean(0))

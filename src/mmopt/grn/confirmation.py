"""How far the data bear out what is known of each regulator, beside the same evidence given to other genes by chance."""

from dataclasses import dataclass, replace

import numpy as np

from mmopt._response import Form
from mmopt.grn.problem import Problem
from mmopt.grn.ridge import adaptive_ridge

# of what is fitted once, not by every member of an ensemble
STANDARD_FORM, STANDARD_CHROMATIN, STANDARD_TOGETHER = Form(2.0, 0.4), 0.3, 0.5
# the data confirm an edge that comes out with the sign of the evidence and at least this standardised size
_LEAST = 0.1
# few edges tell little: as if so many more had been looked at
_UNSEEN = 4
_SHUFFLES = 5
# evidence of which so much is confirmed beyond chance is worth as much as any: in simulations with a quarter of false edges it was
# 0.35 to 0.56, of TRRUST in real cells 0 to 0.14
_WORTH = 1 / 3


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Edges to genes that the evidence gives each regulator, all ``(p,)``.

    Parameters
    ----------
    known
        How many there are.
    confirmed
        How many of them the data confirm.
    by_chance
        How many they confirm where each regulator's edges go to genes drawn at random, mean over the draws.
    """

    known: np.ndarray
    confirmed: np.ndarray
    by_chance: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """Of the edges, that is confirmed: 0 where none is known, and less than 1 where there are few."""
        return self.confirmed / (self.known + _UNSEEN)

    @property
    def fewer(self) -> np.ndarray:
        """Confirmed edges of a regulator on average, divided by those of each; 1 is added to both, and it is at least 1.

        Taken to the power of ``worth``: where the evidence is confirmed no more than by chance, how much of it a regulator has
        says nothing, and this is 1 for all.
        """
        return np.maximum((self.confirmed.mean() + 1) / (self.confirmed + 1), 1) ** self.worth

    @property
    def worth(self) -> float:
        """From 0 to 1: of the edges that chance does not confirm, the share that the data do, a third of them being plenty."""
        beyond = (self.confirmed - self.by_chance).sum() / max((self.known - self.by_chance).sum(), 1)
        return float(np.clip(beyond / _WORTH, 0, 1))

    @property
    def beyond_chance(self) -> float:
        """How many standard deviations more edges are confirmed than by chance, of all regulators together."""
        chance = self.by_chance / np.maximum(self.known, 1)
        variance = (self.known * chance * (1 - chance)).sum()
        return float((self.confirmed - self.by_chance).sum() / max(np.sqrt(variance), 0.5))

    @property
    def doubt(self) -> np.ndarray:
        """From 0 to 1: how much more likely so few confirmed edges are by chance than for the regulators together.

        Twice the probability that the edges are confirmed as often as by chance and not as often as those of all
        regulators together, less 1, and at least 0; both were equally likely before. A regulator about which nothing is
        known is not doubted, and none is where evidence as a whole is confirmed no more often than chance has it.
        """
        total = max(self.known.sum(), 1)
        chance = (self.by_chance + _UNSEEN * self.by_chance.sum() / total) / (self.known + _UNSEEN)
        chance = np.clip(chance, 0.02, 0.98)
        usual = np.maximum(np.clip(self.confirmed.sum() / total, 0.02, 0.99), chance)
        refused = self.known - self.confirmed
        evidence = self.confirmed * np.log(usual / chance) + refused * np.log((1 - usual) / (1 - chance))
        return np.maximum(2 / (1 + np.exp(evidence)) - 1, 0)


def confirm(problem: Problem, penalty: float, prior_strength: float, seed: int = 0) -> Confirmation:
    """Fit the network once with the evidence as it is, and with each regulator's edges to genes shuffled.

    Parameters
    ----------
    problem
        The data.
    penalty, prior_strength
        Of an edge there is evidence for, and of the others relative to it.
    seed
        Of the shuffling.
    """
    rng = np.random.default_rng(seed)
    genes = slice(problem.n_genes)
    known = (problem.sign[genes] != 0).sum(0)
    if not known.any():
        return Confirmation(known, known, known)
    shuffled = []
    for _ in range(_SHUFFLES):
        sign = problem.sign.copy()
        sign[genes] = rng.permuted(sign[genes], axis=0)
        shuffled.append(_confirmed(replace(problem, sign=sign), penalty, prior_strength))
    return Confirmation(known, _confirmed(problem, penalty, prior_strength), np.mean(shuffled, axis=0))


def _confirmed(problem: Problem, penalty: float, prior_strength: float) -> np.ndarray:
    genes = slice(problem.n_genes)
    occupied = STANDARD_FORM(np.maximum(problem.level[:, problem.regulators], 0))
    response = problem.response(STANDARD_CHROMATIN, STANDARD_TOGETHER)[:, genes]
    sign = np.nan_to_num(problem.sign[genes])
    weights = adaptive_ridge(
        occupied,
        response,
        np.ones(len(response)),
        penalty * problem.relative_penalty(prior_strength, STANDARD_TOGETHER)[genes],
        sign,
    )
    size = weights * occupied.std(0) / np.maximum(problem.odds[:, genes].std(0), 1e-3)[:, None]
    agrees = (sign == 0) | (weights * sign > 0)
    return ((problem.sign[genes] != 0) & agrees & (np.abs(size) > _LEAST)).sum(0)

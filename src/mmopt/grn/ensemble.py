"""Fit the network many times: other cells, other penalties, other forms, other horizons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmopt._response import Form, log_odds
from mmopt.grn.network import Network, sign_stability, spectral_radius
from mmopt.grn.ridge import adaptive_ridge, choose_penalty

# what no data of one snapshot decide, so every member has its own, each value as often as the others; the values are those
# that did well on simulated networks (other networks than those any result is reported on)
EXPONENTS, HALVES = (1.0, 2.0, 3.0), (0.3, 0.4, 0.5)
HORIZONS = (6, 10, 16, 24)
STRENGTHS, PENALTIES, CHROMATIN = (0.5, 1.0, 3.0), (0.5, 1.0, 2.0), (0.0, 0.3, 0.6)
# of what is fitted once, not by every member
_CHROMATIN = 0.3
RADIUS = 0.95
# standardised coefficient that is nothing
LEAST = 0.05
_FORBIDDEN = 1e6
# the data confirm an edge of the prior that comes out with its sign and at least this size
_CONFIRMED, _UNSEEN_EDGES = 0.1, 4
# a regulator whose edges are all confirmed is believed more edges that no prior has: less of a penalty on them (few count
# for less: there might as well be as many unconfirmed ones that no prior has)
_TRUSTED = 0.2
# and one whose edges are not confirmed fewer: they must be up to so many times LEAST larger than it
_DOUBTED = 2.0
_POOLS = 150


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything a fit needs, features of all modalities side by side.

    Parameters
    ----------
    level
        ``(n_cells, n_features)`` of pooled cells.
    open_odds
        ``(n_cells, n_features)``: log odds of the chromatin that serves each gene, on the scale of its expression
        (:func:`mmopt.grn.scale.chromatin_scale`); NaN columns where there is none.
    regulators
        Columns of the regulators, ``(p,)``.
    sign
        ``(n_features, p)``: sign the evidence gives an edge, NaN where it gives an edge without a sign, 0 where it
        gives none.
    groups
        Donor of each cell where donors are resampled, else ``None``.
    """

    level: np.ndarray
    open_odds: np.ndarray
    regulators: np.ndarray
    sign: np.ndarray
    groups: np.ndarray | None = None
    odds: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "odds", log_odds(self.level))

    def response(self, chromatin: float) -> np.ndarray:
        """Log odds that the regulators are to explain.

        For a gene that is no regulator a mixture of expression and chromatin; for a regulator its chromatin alone:
        what it makes now, where its expression is what it made before.
        """
        linked = np.isfinite(self.open_odds).all(0)
        mixed = np.where(linked, (1 - chromatin) * self.odds + chromatin * self.open_odds, self.odds)
        made = self.regulators[linked[self.regulators]]
        mixed[:, made] = self.open_odds[:, made]
        return mixed

    def relative_penalty(self, outside: float | np.ndarray) -> np.ndarray:
        """1 for the edges there is evidence for and ``outside`` for the others, if there is evidence for any.

        ``outside`` may differ between regulators.

        A regulator whose production is not seen in its chromatin would explain itself: that edge is closed.
        """
        known = self.sign != 0
        penalty = np.where(known, 1.0, outside if known.any() else 1.0)
        blind = ~np.isfinite(self.open_odds[:, self.regulators]).all(0)
        numbers = np.arange(len(self.regulators))
        penalty[self.regulators[blind], numbers[blind]] = _FORBIDDEN
        return penalty


def fit_network(
    problem: Problem,
    penalty: float,
    *,
    prior_strength: float = 100.0,
    n_members: int = 20,
    least_stability: float = 0.8,
    seed: int = 0,
) -> tuple[Network, np.ndarray, np.ndarray, np.ndarray]:
    """Fit an ensemble and keep the edges whose sign its members agree on.

    Each member sees a bootstrap of the pooled cells (of the donors, where there are five or more), and has its own form
    of the regulators' effect, penalties, weight of the chromatin and number of steps.

    Parameters
    ----------
    problem
        The data.
    penalty
        Of an edge there is evidence for, about which the members vary.
    prior_strength
        Penalty of the other edges relative to that one, about which the members vary.
    n_members
        Fits.
    least_stability
        Share of the members that must agree on an edge's sign; edges without evidence below it are dropped, and so are
        edges that are nothing in every member.
    seed
        Of all draws.

    Returns
    -------
    network, size, spread, radius
        The network; mean and standard deviation over the members of each edge's standardised coefficient; spectral
        radius of every member before it was limited to 0.95.
    """
    rng = np.random.default_rng(seed)
    n_features, p = problem.sign.shape
    sign = np.nan_to_num(problem.sign)
    spread = problem.odds.std(0)
    confirmed, n_known = confirmed_edges(problem, penalty, prior_strength)
    trust = _TRUSTED ** (confirmed / (n_known + _UNSEEN_EDGES))
    fitted, sizes, forms, steps, radii = [], [], [], [], []
    design = [
        rng.permutation(np.resize(values, n_members))
        for values in (EXPONENTS, HALVES, STRENGTHS, PENALTIES, CHROMATIN, HORIZONS)
    ]
    for sample, exponent, half, strength, factor, chromatin, horizon in zip(
        bootstraps(len(problem.level), problem.groups, n_members, rng), *design, strict=True
    ):
        form = Form(exponent, half)
        outside = prior_strength * strength
        alpha = penalty * factor
        response = problem.response(chromatin)
        steps.append(int(horizon))
        regulators = np.maximum(problem.level[:, problem.regulators], 0)
        occupied = form(regulators)
        weights = adaptive_ridge(
            occupied, response, sample, alpha * problem.relative_penalty(outside * trust), sign
        )
        forms.append(form)
        fitted.append(weights)
        sizes.append(weights * occupied.std(0) / np.maximum(spread, 1e-3)[:, None])
    stacked, size = np.stack(fitted), np.stack(sizes)
    stability = sign_stability(stacked.reshape(n_members, -1)).reshape(n_features, p)
    known = problem.sign != 0
    least = np.where(known, LEAST, least_size(confirmed, n_known))
    keep = (known | (stability >= least_stability)) & (np.abs(size).max(0) > least)
    stacked *= keep
    level = problem.level[:, problem.regulators]
    for member, (weights, form) in enumerate(zip(stacked, forms, strict=True)):
        radii.append(spectral_radius(weights[problem.regulators], level, form))
        if radii[-1] > RADIUS:
            stacked[member, problem.regulators] *= RADIUS / radii[-1]
    target, source = np.nonzero(keep)
    network = Network(
        problem.regulators,
        source,
        target,
        stacked[:, target, source],
        tuple(forms),
        tuple(steps),
        n_features,
    )
    kept = size[:, target, source]
    return network, kept.mean(0), kept.std(0, ddof=1), np.array(radii)


def confirmed_edges(problem: Problem, penalty: float, prior_strength: float) -> tuple[np.ndarray, np.ndarray]:
    """How many of the edges that the evidence gives each regulator the data confirm, and how many it gives, ``(p,)``.

    The edges of a decoy mostly are not confirmed.
    """
    form = Form(2.0, 0.4)
    occupied, response = (
        form(np.maximum(problem.level[:, problem.regulators], 0)),
        problem.response(_CHROMATIN),
    )
    sign, known = np.nan_to_num(problem.sign), problem.sign != 0
    weights = adaptive_ridge(
        occupied,
        response,
        np.ones(len(response)),
        penalty * problem.relative_penalty(prior_strength),
        sign,
    )
    size = weights * occupied.std(0) / np.maximum(problem.odds.std(0), 1e-3)[:, None]
    confirmed = known & (np.abs(size) > _CONFIRMED) & (weights * np.where(sign == 0, weights, sign) > 0)
    return confirmed.sum(0), known.sum(0)


def least_size(confirmed: np.ndarray, n_known: np.ndarray) -> np.ndarray:
    """Size below which an edge without evidence is nothing, of each regulator ``(p,)``: more where evidence failed.

    Regulators about which nothing is known are not doubted, nor are those of which a quarter is confirmed.
    """
    doubt = 1 - _UNSEEN_EDGES * (confirmed + 1) / (n_known + _UNSEEN_EDGES)
    return LEAST * (1 + _DOUBTED * np.maximum(doubt, 0))


def bootstraps(
    n_cells: int, groups: np.ndarray | None, n: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each pooled cell counts, ``n`` times: 150 of them drawn, or as many donors as there are."""
    names = np.unique(groups) if groups is not None else np.array([])
    for _ in range(n):
        if len(names) >= 5:
            drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
            yield drawn[np.searchsorted(names, groups)].astype(float)
        else:
            chosen = rng.integers(n_cells, size=min(_POOLS, n_cells))
            yield np.bincount(chosen, minlength=n_cells).astype(float)


def cross_validated_penalty(
    folds: Sequence[Problem], prior_strength: float = 100.0
) -> tuple[float, dict[float, float], np.ndarray]:
    """Penalty that predicts best what regulators do in cells that were pooled apart; see :func:`choose_penalty`."""
    form = Form(2.0, 0.4)
    data = [
        (form(np.maximum(fold.level[:, fold.regulators], 0)), fold.response(_CHROMATIN)) for fold in folds
    ]
    return choose_penalty(data, folds[0].relative_penalty(prior_strength))

"""Fit the network many times: other cells, other penalties, other forms, other horizons."""

from collections.abc import Iterator, Sequence

import numpy as np

from mmopt._response import TURNOVERS, Form
from mmopt.grn.confirmation import STANDARD_CHROMATIN, STANDARD_FORM, STANDARD_TOGETHER, Confirmation
from mmopt.grn.network import Network, sign_stability, spectral_radius
from mmopt.grn.problem import Problem
from mmopt.grn.ridge import adaptive_ridge, choose_penalty

# what no data of one snapshot decide, so every member has its own, each value as often as the others; the values are those
# that did well on simulated networks (other networks than those any result is reported on)
EXPONENTS, HALVES = (1.0, 2.0, 3.0), (0.3, 0.4, 0.5)
HORIZONS = (6, 10, 16, 24)
STRENGTHS, PENALTIES, CHROMATIN = (0.5, 1.0, 3.0), (0.5, 1.0, 2.0), (0.0, 0.3, 0.6)
# least correlation with which chromatin says what is made of a gene, evenly between: with one limit for all, chance decided
# for the whole ensemble which of two regulators drives a gene that is near it
TOGETHER = (0.4, 0.6)
RADIUS = 0.95
# standardised coefficient that is nothing
LEAST = 0.05
# a regulator whose edges are all confirmed is believed more edges that no prior has, at less of a penalty; one of which few are
# confirmed has few others, and hundreds of small ones would make as much of it as of a regulator with many; one whose edges are
# confirmed as rarely as by chance is believed none as readily (:mod:`mmopt.grn.confirmation`)
_TRUSTED, _DOUBTED = 0.2, 10.0
_POOLS = 150


def fit_network(
    problem: Problem,
    penalty: float,
    evidence: Confirmation,
    *,
    prior_strength: float = 100.0,
    n_members: int = 20,
    least_stability: float = 0.8,
    seed: int = 0,
) -> tuple[Network, np.ndarray, np.ndarray, np.ndarray]:
    """Fit an ensemble and keep the edges whose sign its members agree on.

    Each member sees a bootstrap of the pooled cells (of the donors, where there are five or more), and has its own form
    of the regulators' effect, penalties, number of steps, weight of the chromatin and correlation from which it counts; with times
    of sampling its own turnover too.

    Parameters
    ----------
    problem
        The data.
    penalty
        Of an edge there is evidence for, about which the members vary.
    evidence
        How far the data bear it out for each regulator.
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
    trust, doubt = evidence.fewer * _TRUSTED**evidence.share, _DOUBTED**evidence.doubt
    fitted, sizes, forms, steps, radii = [], [], [], [], []
    design = [
        rng.permutation(np.resize(values, n_members))
        for values in (
            *(EXPONENTS, HALVES, STRENGTHS, PENALTIES, CHROMATIN, HORIZONS),
            np.linspace(*TOGETHER, n_members),
        )
    ]
    timed = problem.pace is not None
    turnovers = rng.permutation(np.resize(TURNOVERS, n_members)) if timed else [None] * n_members
    for sample, exponent, half, strength, factor, chromatin, horizon, least, turnover in zip(
        bootstraps(len(problem.level), problem.groups, n_members, rng), *design, turnovers, strict=True
    ):
        form = Form(exponent, half)
        outside = prior_strength * strength
        alpha = penalty * factor
        response = problem.response(chromatin, least, turnover)
        steps.append(int(horizon))
        regulators = np.maximum(problem.level[:, problem.regulators], 0)
        occupied = form(regulators)
        weights = adaptive_ridge(
            occupied, response, sample, alpha * doubt * problem.relative_penalty(outside * trust, least), sign
        )
        forms.append(form)
        fitted.append(weights)
        sizes.append(weights * occupied.std(0) / np.maximum(spread, 1e-3)[:, None])
    stacked, size = np.stack(fitted), np.stack(sizes)
    stability = sign_stability(stacked.reshape(n_members, -1)).reshape(n_features, p)
    known = problem.sign != 0
    keep = (known | (stability >= least_stability)) & (np.abs(size).max(0) > LEAST)
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
    data = [
        (
            STANDARD_FORM(np.maximum(fold.level[:, fold.regulators], 0)),
            fold.response(STANDARD_CHROMATIN, STANDARD_TOGETHER),
        )
        for fold in folds
    ]
    return choose_penalty(data, folds[0].relative_penalty(prior_strength, STANDARD_TOGETHER))

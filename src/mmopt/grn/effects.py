"""Effects of one perturbation with what the ensemble, the model class and chance say about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, rankdata

from mmopt.grn.network import Network
from mmopt.grn.propagation import Cells, Readout, propagate

# What an ensemble on one snapshot does not know: how far a fit transfers to cells no one has seen. Factors on the
# ensemble's standard deviation, on the effect and on the feature's spread. Set on simulated networks; what the intervals hold
# elsewhere is in docs/perturbation.md.
ENSEMBLE, TRANSFER, UNSEEN = 1.5, 0.4, 0.35
# share of the draws of a null that are its tail, and how many are at least
_TAIL, _LEAST_TAIL = 0.01, 30


@dataclass(frozen=True, eq=False)
class Perturbation:
    """Columns held at a level, columns whose log odds are shifted, and for how many steps.

    ``n_steps``: ``None`` takes each member's own number, ``"steady"`` goes on until nothing moves.
    """

    clamps: Mapping[int, np.ndarray | float]
    shifts: Mapping[int, np.ndarray]
    n_steps: int | str | None = None

    def placed(self, place: Mapping[int, int]) -> "Perturbation":
        """Return the same in the columns of a narrowed scene; what is not in it acts on nothing there and is left out."""
        clamps, shifts = (
            {place[c]: v for c, v in of.items() if c in place} for of in (self.clamps, self.shifts)
        )
        return Perturbation(clamps, shifts, self.n_steps)


@dataclass(frozen=True, eq=False)
class Scene:
    """What every perturbation of one call shares.

    Parameters
    ----------
    network, cells, readout
        Who regulates whom, the cells, and the scale of the report.
    averaging
        ``(n_groups, n_cells)``, rows sum to 1.
    """

    network: Network
    cells: Cells
    readout: Readout
    averaging: np.ndarray

    def before(self, perturbation: Perturbation) -> np.ndarray:
        """Return the logged values without the perturbation, its own features left out of totals and centres."""
        return self.readout.logged(self.cells.level, list(perturbation.clamps))

    def moved(
        self, perturbation: Perturbation, member: int, order: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Levels after the perturbation under one member, and which were clipped; see :func:`propagate`."""
        network, steps = self.network, perturbation.n_steps
        return propagate(
            self.cells,
            network.regulators,
            network.dense(member, order),
            network.forms[member],
            perturbation.clamps,
            shifts=perturbation.shifts,
            n_steps=network.n_steps[member] if steps is None else None if steps == "steady" else steps,
        )

    def effect(
        self, perturbation: Perturbation, before: np.ndarray, member: int, order: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean change of each group under one member, ``(n_groups, n_features)``, and the clipped share ``(n_groups,)``.

        ``before`` is what :meth:`before` gives; ``order`` gives every target the regulators of another one.
        """
        level, clipped = self.moved(perturbation, member, order)
        moved = (level != self.cells.level).sum(1)
        share = (self.averaging @ clipped.sum(1)) / np.maximum(self.averaging @ moved, 1e-9)
        return self.averaging @ (self.readout.logged(level, list(perturbation.clamps)) - before), share

    def narrowed(self, block: slice) -> tuple["Scene", dict[int, int]]:
        """Return the scene of one modality and the regulators of others, and where each column of this one is in it.

        The modality comes first; effects on it are those of the whole scene.
        """
        network, readout = self.network, self.readout
        columns = np.arange(block.start, block.stop)
        kept = np.r_[columns, np.setdiff1d(network.regulators, columns)]
        place = np.full(network.n_features, -1)
        place[kept] = np.arange(len(kept))
        edges = place[network.target] >= 0
        inside = [(np.flatnonzero((kept >= b.start) & (kept < b.stop)), kind) for b, kind in readout.blocks]
        blocks = [(slice(here[0], here[-1] + 1), kind) for here, kind in inside if len(here)]
        smaller = replace(
            self,
            network=replace(
                network,
                regulators=place[network.regulators],
                source=network.source[edges],
                target=place[network.target[edges]],
                weights=network.weights[:, edges],
                n_features=len(kept),
            ),
            cells=Cells(self.cells.level[:, kept], self.cells.highest[kept]),
            readout=Readout(blocks, readout.top[kept], readout.bottom[kept]),
        )
        return smaller, {int(c): i for i, c in enumerate(kept)}

    def draws(
        self, perturbation: Perturbation, members: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Effects under every member, ``(n_members, n_groups, n_features)``, and the mean clipped share."""
        chosen = range(self.network.n_members) if members is None else members
        before = self.before(perturbation)
        effects, shares = zip(*(self.effect(perturbation, before, m) for m in chosen), strict=True)
        return np.stack(effects), np.mean(shares, axis=0)

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Draw an order in which every target takes the regulators of another one of its modality and kind."""
        return self.network.shuffled([columns for columns, _kind in self.readout.blocks], rng)

    def null(self, perturbation: Perturbation, n: int, rng: np.random.Generator) -> np.ndarray:
        """Effects when the targets are shuffled within each modality, ``(n, n_groups, n_features)``."""
        drawn, before = [], self.before(perturbation)
        for number in range(n):
            order = self.shuffled(rng)
            drawn.append(self.effect(perturbation, before, number % self.network.n_members, order)[0])
        return np.stack(drawn)


def summarise(
    draws: np.ndarray, spread: np.ndarray, exclude: Sequence[int] = (), kept: np.ndarray | float = 1.0
) -> dict[str, np.ndarray]:
    """Mean, standard deviation and 90 % interval of each effect.

    Parameters
    ----------
    draws
        ``(n_members, n_groups, n_features)``.
    spread
        Standard deviation of each feature over the cells, ``(n_features,)``.
    exclude
        Columns that the perturbation sets itself. Where no other moves, nothing is claimed and nothing is uncertain.
    kept
        Share of each mean effect that is claimed, ``(n_groups, n_features)``; what was taken back is part of the variance.

    Returns
    -------
    dict
        ``delta, sd, q05, q95, prob_up``, each ``(n_groups, n_features)``. The variance is that of the ensemble (cells,
        edges, form, horizon), and terms for what no ensemble on one snapshot can know.
    """
    mean = draws.mean(0)
    delta = kept * mean
    ensemble = draws.std(0, ddof=1)
    touched = np.delete(draws, list(exclude), axis=2).any()
    sd = np.sqrt(
        (ENSEMBLE * ensemble) ** 2
        + (TRANSFER * mean) ** 2
        + touched * (UNSEEN * spread) ** 2
        + (mean - delta) ** 2
    )
    reach = norm.ppf(0.95) * sd
    up = np.where(sd > 0, norm.cdf(delta / np.maximum(sd, 1e-12)), 0.5)
    return {"delta": delta, "sd": sd, "q05": delta - reach, "q95": delta + reach, "prob_up": up}


def epistasis(
    both: np.ndarray, first: np.ndarray, second: np.ndarray, exclude: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """Take from the effects of two interventions together those of each alone, ``(n_groups, n_features)``.

    Parameters
    ----------
    both, first, second
        Effects under the same members, ``(n_members, n_groups, n_features)``.
    exclude
        Columns that the interventions set themselves; they get NaN.

    Returns
    -------
    dict
        ``epistasis, epistasis_q05, epistasis_q95``: mean and quantiles over the members.
    """
    draws = both - first - second
    found = {"epistasis": draws.mean(0)}
    found |= {f"epistasis_q{q:02d}": np.quantile(draws, q / 100, axis=0) for q in (5, 95)}
    for values in found.values():
        values[:, list(exclude)] = np.nan
    return found


def against_null(
    delta: np.ndarray,
    null: np.ndarray,
    spread: np.ndarray,
    blocks: Sequence[slice],
    exclude: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """How often a shuffled network gives a feature of the same modality an effect as large for its spread.

    Parameters
    ----------
    delta
        ``(n_groups, n_features)``.
    null
        ``(n_null, n_groups, n_features)``.
    spread
        ``(n_features,)``; at least its median over the modality is taken.
    blocks
        Columns of each modality.
    exclude
        Columns that the perturbation sets itself; they get NaN and are no part of the null.

    Returns
    -------
    p, band
        ``(n_groups, n_features)``: p values, and the size of effect that one shuffled feature in twenty exceeds. The
        draws of all features of a modality are pooled; beyond all but the largest hundredth of them p follows a
        generalised Pareto tail fitted to those, so that it does not end at one in the number of draws.
    """
    scale = spread + 1e-9
    # what hardly varies would have huge effects for its spread, and the null be made of them
    for block in blocks:
        scale[block] = np.maximum(scale[block], np.median(scale[block]))
    size, chance = np.abs(delta) / scale, np.abs(null) / scale
    free = ~np.isin(np.arange(delta.shape[1]), list(exclude))
    p, band = np.full(delta.shape, np.nan), np.full(delta.shape, np.nan)
    for block in blocks:
        columns = np.arange(delta.shape[1])[block]
        columns = columns[free[columns]]
        if not columns.size:
            continue
        for group in range(len(delta)):
            drawn = np.sort(chance[:, group, columns], axis=None)
            p[group, columns] = tail_p(size[group, columns], drawn)
            band[group, columns] = np.quantile(drawn, 0.95) * scale[columns]
    return p, band


def tail_p(size: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """P values of ``size`` among sorted draws of the null: ranks, and a generalised Pareto tail beyond the largest ones.

    Parameters
    ----------
    size
        Observed, any number.
    drawn
        Draws of the null, sorted; with too few of them, or a tail of equal ones, ranks only.

    Returns
    -------
    numpy.ndarray
        Above 0, falling with ``size``. The tail's shape (by the method of moments) is kept from below zero, where it
        would have an end and claim p = 0.

    References
    ----------
    Knijnenburg TA et al. (2009) Bioinformatics 25:i161.
    """
    n = len(drawn)
    rank = (1 + n - np.searchsorted(drawn, size, side="left")) / (1 + n)
    k = max(int(_TAIL * n), _LEAST_TAIL)
    if n < 3 * k:
        return rank
    edge = drawn[n - k - 1]
    excess = drawn[n - k :] - edge
    mean, variance = excess.mean(), excess.var()
    if not (edge > 0 and variance > 1e-12 * mean**2):
        return rank
    shape = float(np.clip(0.5 * (1 - mean**2 / variance), 0.0, 0.45))
    scale = mean * (1 - shape)
    beyond = np.maximum(size - edge, 0) / scale
    survives = np.exp(-beyond) if shape < 1e-6 else (1 + shape * beyond) ** (-1 / shape)
    return np.where(size > edge, np.maximum((k + 1) / (n + 1) * survives, 1e-300), rank)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjust p values for their number; NaN stay NaN and do not count.

    Examples
    --------
    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, np.nan]))
    array([0.03, 0.04, 0.04,  nan])
    """
    adjusted = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    values = p[known]
    if values.size:
        ratio = values * values.size / rankdata(values, method="max")
        order = np.argsort(-values, kind="stable")
        least = np.minimum.accumulate(ratio[order])
        out = np.empty_like(values)
        out[order] = np.minimum(least, 1)
        adjusted[known] = out
    return adjusted

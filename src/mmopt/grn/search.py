"""Which interventions take the cells of a source to a target: every one, every pair where there are few, a beam beyond."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import logsumexp

from mmopt._response import FLOOR, expit
from mmopt.grn.network import Network
from mmopt.grn.propagation import RATE, Cells

# what is done to a regulator: the sign is that of the dose of a relaxed search, and of what a marker should do
KNOCKOUT, OVEREXPRESS = -1, 1
# sets times cells that are held in memory at a time
_ROWS = 40_000
# a source that is the target's for all but so little has nothing to gain
_LEAST_GAP = 0.05
# chosen on simulated networks, where both could be twice or half of that (benchmarks/perturbation/tried.md):
# how sharply a group's share falls on the way from it to the target
SHARPNESS = 2.0
# how far apart two groups are at least, of the way from the source
LEAST_APART = 0.05
# regulators of like expression among which those of a matched set are drawn
_MATCHED = 10

# number of the regulator and what is done to it, e.g. ((3, KNOCKOUT), (5, OVEREXPRESS))
Set = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Journey:
    """Source cells, where they should go, and what of them is looked at.

    Parameters
    ----------
    network, cells
        Who regulates whom, and the source cells.
    seen
        Columns of the features by which the distance is measured, ``(f,)``.
    centres
        ``(n_groups, f)``: mean level of each group of cells; the target is row 0, the source row 1, the others may be
        reached by mistake.
    spread
        ``(f,)``: spread of the level within the groups.
    raised
        ``(p,)``: level of each regulator when it is over-expressed.
    gap
        ``(p,)``: mean level of each regulator in the target less that in the source.
    """

    network: Network
    cells: Cells
    seen: np.ndarray
    centres: np.ndarray
    spread: np.ndarray
    raised: np.ndarray
    gap: np.ndarray

    def clamped(self, sets: Sequence[Set]) -> tuple[np.ndarray, np.ndarray]:
        """Which regulators each set holds and at which level, both ``(n_sets, p)``."""
        held = np.zeros((len(sets), len(self.raised)), dtype=bool)
        value = np.zeros(held.shape, dtype=np.float32)
        for row, members in enumerate(sets):
            for number, way in members:
                held[row, number] = True
                value[row, number] = self.raised[number] if way == OVEREXPRESS else 0
        return held, value

    def levels(self, members: Set) -> dict[int, float]:
        """Columns that a set holds, each with its level."""
        return {
            int(self.network.regulators[number]): float(self.raised[number]) if way == OVEREXPRESS else 0.0
            for number, way in members
        }

    def weights(self, member: int, order: np.ndarray | None = None) -> np.ndarray:
        """Weights of one member, ``(n_features, p)``, with the targets in another order where it is given."""
        return self.network.dense(member, order).astype(np.float32)

    def arrive(
        self, sets: Sequence[Set], member: int, order: np.ndarray | None = None, cells: slice = slice(None)
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Levels of the features looked at after each set, in batches ``(n_sets, n_cells, f)``.

        As :func:`mmopt.grn.propagation.propagate`, many interventions at a time and only what is looked at.
        """
        network, form = self.network, self.network.forms[member]
        weights = self.weights(member, order)
        own, outward = weights[network.regulators].T, weights[self.seen].T
        level = self.cells.level[cells]
        start = np.maximum(level[:, network.regulators], 0)
        odds, share = (v[cells][:, network.regulators] for v in (self.cells.odds, self.cells.share))
        seen_odds, seen_share = (v[cells][:, self.seen] for v in (self.cells.odds, self.cells.share))
        floor, ceiling = (v[cells][:, self.seen] for v in (self.cells.floor, self.cells.ceiling))
        resting = form(start)
        number = {column: i for i, column in enumerate(network.regulators)}
        mine = np.array([number.get(column, -1) for column in self.seen])
        step = max(1, _ROWS // len(start))
        for first in range(0, len(sets), step):
            batch = slice(first, min(first + step, len(sets)))
            held, value = (v[:, None, :] for v in self.clamped(sets[batch]))
            now = np.where(held, value, start)
            for _ in range(network.n_steps[member]):
                push = (form(now) - resting) @ own
                aim = np.maximum(start + (expit(odds + push) - share) / (1 - 2 * FLOOR), 0)
                now += np.where(held, 0, RATE * (aim - now))
            push = (form(now) - resting) @ outward
            there = level[:, self.seen] + (expit(seen_odds + push) - seen_share) / (1 - 2 * FLOOR)
            moved = level[:, network.regulators] + (now - start)
            there[..., mine >= 0] = moved[..., mine[mine >= 0]]
            yield batch, np.clip(there, floor, ceiling)

    def distances(
        self, sets: Sequence[Set], member: int, order: np.ndarray | None = None, cells: slice = slice(None)
    ) -> np.ndarray:
        """Mean squared distance of the cells to every group after each set, relative to the target's before it.

        ``(n_sets, n_groups)``. In units of each feature's spread; features that a set clamps itself are left out, or
        clamping a marker would look like reaching the target.
        """
        free = self._free(sets)
        out = np.zeros((len(sets), len(self.centres)))
        for batch, there in self.arrive(sets, member, order, cells):
            weight = free[batch][:, None, :] / self.spread**2
            for group, centre in enumerate(self.centres):
                out[batch, group] = (((there - centre) ** 2) * weight).sum(-1).mean(1)
        here = self.cells.level[cells][:, self.seen]
        apart = (((here - self.centres[0]) / self.spread) ** 2).mean(0)
        return out / np.maximum(free @ apart, 1e-12)[:, None]

    def idle(self, sets: Sequence[Set], cells: slice = slice(None)) -> np.ndarray:
        """:meth:`distances` if nothing is done, with each set's own features left out; ``(n_sets, n_groups)``."""
        return self._relative(sets, cells, self.cells.level[cells][:, self.seen])

    def progress(
        self,
        sets: Sequence[Set],
        member: int,
        identity: float = 1.0,
        cells: slice = slice(None),
        order: np.ndarray | None = None,
    ) -> np.ndarray:
        """From 0, the target's share has not risen, to 1, it is as high as at the target's centre; ``(n_sets,)``."""
        before, span = self.span(sets, identity, cells)
        after = score(self.distances(sets, member, order, cells), self.apart(sets, cells), identity)
        return (before - after) / span

    def span(
        self, sets: Sequence[Set], identity: float = 1.0, cells: slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """:func:`score` if nothing is done, and how much lower it is at the target's centre; ``(n_sets,)`` both."""
        apart = self.apart(sets, cells)
        before = score(self.idle(sets, cells), apart, identity)
        return before, np.maximum(before - score(apart, apart, identity), _LEAST_GAP)

    def apart(self, sets: Sequence[Set], cells: slice = slice(None)) -> np.ndarray:
        """:meth:`distances` of the target's centre, ``(n_sets, n_groups)``."""
        return self._relative(sets, cells, self.centres[:1])

    def nearest(self, sets: Sequence[Set], member: int, cells: slice = slice(None)) -> np.ndarray:
        """Share of the cells that lie nearest to each group afterwards, ``(n_sets, n_groups)``."""
        free = self._free(sets)
        out = np.zeros((len(sets), len(self.centres)))
        for batch, there in self.arrive(sets, member, cells=cells):
            weight = free[batch][:, None, :] / self.spread**2
            distance = np.stack([(((there - c) ** 2) * weight).sum(-1) for c in self.centres], axis=-1)
            closest = distance.argmin(-1)
            for group in range(len(self.centres)):
                out[batch, group] = (closest == group).mean(1)
        return out

    def _relative(self, sets: Sequence[Set], cells: slice, states: np.ndarray) -> np.ndarray:
        """Distances of these states to every group, in units of that of the cells to the target."""
        free, here = self._free(sets), self.cells.level[cells][:, self.seen]
        apart = np.stack([(((states - c) / self.spread) ** 2).mean(0) for c in self.centres], axis=1)
        before = (((here - self.centres[0]) / self.spread) ** 2).mean(0)
        return free @ apart / np.maximum(free @ before, 1e-12)[:, None]

    def _free(self, sets: Sequence[Set]) -> np.ndarray:
        own = self.network.regulators[:, None] == self.seen
        return 1.0 - self.clamped(sets)[0].astype(float) @ own


def score(distances: np.ndarray, apart: np.ndarray, identity: float = 1.0) -> np.ndarray:
    """Share of the cells that is not the target's, lower is better.

    The share of each other group falls with the part of the way from its centre to the target's that the cells have made, and no
    further beyond the target. As it is a part of the way, a group that is near the target counts as much as one that is far.
    With ``identity=0`` only the way from the source counts, so that cells may end in a third group; on simulated networks it
    chose worse.

    Parameters
    ----------
    distances
        ``(..., n_groups)`` squared, of the cells to the target, the source and the other groups.
    apart
        The same of the target's centre.
    identity
        Weight of the groups that are neither target nor source.

    Returns
    -------
    numpy.ndarray
        ``(...)``.
    """
    way = np.minimum((distances - distances[..., :1]) / np.maximum(apart, LEAST_APART), 1)
    weights = np.r_[1.0, 1.0, np.full(distances.shape[-1] - 2, identity)]
    return 1 - np.exp(-logsumexp(-SHARPNESS * way, axis=-1, b=weights))


def every_set(allowed: Sequence[tuple[int, int]], size: int) -> list[Set]:
    """All sets of ``size`` interventions, no regulator twice."""
    return [tuple(sorted(s)) for s in combinations(allowed, size) if len({number for number, _ in s}) == size]


def search(
    journey: Journey,
    allowed: Sequence[tuple[int, int]],
    max_factors: int,
    *,
    members: Sequence[int],
    identity: float = 1.0,
    cells: slice = slice(None),
    order: np.ndarray | None = None,
    width: int = 10,
    most: int = 2000,
) -> dict[int, tuple[list[Set], np.ndarray, bool]]:
    """Score every single, and all larger sets where there are at most ``most``; else a beam.

    Parameters
    ----------
    journey, allowed
        The task and its interventions.
    max_factors
        Largest size.
    members
        Members of the network that are averaged.
    identity
        See :func:`score`.
    cells, order
        As in :meth:`Journey.distances`.
    width
        Of the beam: the best sets of one size that are extended by every intervention.
    most
        Sets of one size above which the beam replaces the exhaustive search.

    Returns
    -------
    dict
        Size to its sets, their progress, and whether they are all there are.
    """
    found: dict[int, tuple[list[Set], np.ndarray, bool]] = {}
    for size in range(1, max_factors + 1):
        n_ways = len({number for number, _ in allowed})
        if size > n_ways:
            break
        exhaustive = size == 1 or _count(allowed, size) <= most
        if exhaustive:
            sets = every_set(allowed, size)
        else:
            smaller, values, _ = found[size - 1]
            sets = extend([smaller[i] for i in np.argsort(-values, kind="stable")[:width]], allowed)
        values = np.mean([journey.progress(sets, m, identity, cells, order) for m in members], axis=0)
        found[size] = sets, values, exhaustive
    return found


def extend(sets: Sequence[Set], allowed: Sequence[tuple[int, int]]) -> list[Set]:
    """Every set that one more intervention makes of these."""
    grown = {
        tuple(sorted((*members, way)))
        for members in sets
        for way in allowed
        if way[0] not in [number for number, _ in members]
    }
    return sorted(grown)


def best_by_chance(
    journey: Journey,
    allowed: Sequence[tuple[int, int]],
    max_factors: int,
    *,
    n: int,
    identity: float,
    cells: slice,
    width: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Most progress of each size in networks whose targets are shuffled, ``(n, max_factors)``.

    The same search over as many sets: the best of many is what it has to be compared with.
    """
    network = journey.network
    out = np.full((n, max_factors), np.nan)
    for number in range(n):
        order = network.shuffled([slice(None)], rng)
        found = search(
            journey,
            allowed,
            max_factors,
            members=[number % network.n_members],
            identity=identity,
            cells=cells,
            order=order,
            width=width,
        )
        for size, (_, values, _) in found.items():
            out[number, size - 1] = values.max()
    return out


def matched_sets(
    members: Set, expression: np.ndarray, pool: np.ndarray, n: int, rng: np.random.Generator
) -> list[Set]:
    """Draw sets that do the same to other regulators of like expression.

    Parameters
    ----------
    members
        The set.
    expression
        ``(p,)``, mean level of each regulator.
    pool
        Numbers of the regulators to draw from.
    n
        Draws; equal ones are left out, and it is all there are where those are fewer.
    rng
        Of the draws.
    """
    others = np.setdiff1d(pool, [number for number, _ in members])
    near = [
        others[np.argsort(np.abs(expression[others] - expression[number]), kind="stable")[:_MATCHED]]
        for number, _ in members
    ]
    drawn = set()
    for _ in range(n):
        picks = [int(rng.choice(candidates)) if len(candidates) else -1 for candidates in near]
        if -1 not in picks and len(set(picks)) == len(picks):
            drawn.add(tuple(sorted(zip(picks, (way for _, way in members), strict=True))))
    return sorted(drawn)


def marker_difference(journey: Journey, sets: Sequence[Set]) -> np.ndarray:
    """Score by the baseline without a network: over-express what the target has more of, knock out what it has less of.

    Sum over the factors of the difference between target and source cells in the mean level; higher is better.
    """
    return np.array([sum(way * journey.gap[number] for number, way in members) for members in sets])


def best_by_markers(journey: Journey, allowed: Sequence[tuple[int, int]], size: int) -> Set:
    """Set of this size with the largest :func:`marker_difference`: a sum, so the largest singles together."""
    chosen: dict[int, int] = {}
    for number, way in sorted(allowed, key=lambda w: (-w[1] * journey.gap[w[0]], w)):
        if number not in chosen and len(chosen) < size:
            chosen[number] = way
    return tuple(sorted(chosen.items()))


def _count(allowed: Sequence[tuple[int, int]], size: int) -> int:
    """Count the sets without a regulator twice: the elementary symmetric polynomial of the ways of each."""
    ways: dict[int, int] = {}
    for number, _ in allowed:
        ways[number] = ways.get(number, 0) + 1
    polynomial = [1] + [0] * size
    for n in ways.values():
        for k in range(size, 0, -1):
            polynomial[k] += n * polynomial[k - 1]
    return polynomial[size]

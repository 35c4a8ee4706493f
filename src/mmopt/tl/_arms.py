"""What each member of a twin says of the same cells, with and without a schedule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmopt import _keys
from mmopt._random import derived
from mmopt.dynamics import FateMap, descendants, offspring, sample_chains
from mmopt.grn.propagation import Cells
from mmopt.tl._counterfactual import (
    NOTHING,
    Held,
    Lines,
    Reader,
    features_of,
    hold,
    interpolated,
    regulators_along,
)
from mmopt.tl._course import Course
from mmopt.tl._members import Member, names_of, one_hot
from mmopt.tl._scene import Stage
from mmopt.tl._schedule import Planned
from mmopt.tl._starts import Start

# lines whose every feature is read: their mean over the members is what counts
_READ = 40
# observed cells that states are compared with, and of each label among them at least
_REFERENCE, _EACH = 5000, 20
# lines that are drawn
_PATHS = 40
# cells around a state that say where it is
_NEIGHBOURS = 15


@dataclass(eq=False)
class Arms:
    """What one call collects over the members; arrays are ``(n_grid, ...)``. ``embedded``: of the first member alone."""

    fractions: list[np.ndarray]
    changes: list[np.ndarray]
    features: dict[str, list[np.ndarray]]
    outside: list[np.ndarray]
    embedded: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of every member: from where, with what held, read when, in which features and labels.

    ``reader`` reads labels from regulators (``None``: no labels or no regulators); ``reference`` are the observed regulators
    with their embedding; ``shown`` are the columns that are read out.
    """

    course: Course
    stage: Stage
    begin: Start
    planned: list[Planned]
    grid: np.ndarray
    labels: pd.Series | None
    names: list[str]
    reader: Reader | None
    reference: tuple[np.ndarray, np.ndarray]
    shown: np.ndarray
    n_cells: int

    def lines(self, member: Member, mass: np.ndarray, rng: np.random.Generator) -> Lines:
        """Lines of descent of one member of the twin, brought to the grid."""
        first = self.begin.point
        chains = sample_chains(member.couplings, mass, first, self.n_cells, rng, member.weights)
        rows = np.stack([self.course.rows(first + i)[c] for i, c in enumerate(chains)])
        unique, where = np.unique(rows, return_inverse=True)
        level = self.stage.cells(unique).level[where.reshape(rows.shape)]
        return interpolated(level, self.course.times[first:], self.grid)

    def read(self, level: np.ndarray, direct: list[int]) -> np.ndarray:
        """Mean logged values of the features that are shown."""
        return self.stage.scene.readout.logged(level, direct)[:, self.shown].mean(0)


def reader_of(
    course: Course, stage: Stage, labels: pd.Series | None, seed: int
) -> tuple[list[str], Reader | None, tuple[np.ndarray, np.ndarray]]:
    """Names of the fates, who reads labels from regulators, and the observed regulators with their embedding."""
    known = course.point >= 0
    if labels is not None:
        last = labels.iloc[course.rows(len(course.times) - 1)]
        if not last.notna().any():
            raise ValueError("terminal_key: no cell of the last time point has a label")
        known &= labels.notna().to_numpy()
    rows = np.random.default_rng([seed, 33]).permutation(np.flatnonzero(known))
    if labels is not None:  # a sample must not lose a rare fate
        here = labels.iloc[rows].astype(str)
        number = here.groupby(here.to_numpy()).cumcount().to_numpy()
        rows = rows[np.argsort(np.minimum(number, _EACH), kind="stable")]
    rows = np.sort(rows[:_REFERENCE])
    regulators = stage.scene.network.regulators
    level = (
        np.maximum(stage.cells(rows).level[:, regulators], 0) if len(regulators) else np.zeros((len(rows), 0))
    )
    if labels is None:
        return [], None, (level, course.states[rows])
    names = names_of(labels.iloc[rows])
    reader = Reader(level, labels.iloc[rows].astype(str).to_numpy(), names) if len(regulators) else None
    return names, reader, (level, course.states[rows])


def run_member(arms: Arms, ask: Question, members: list[Member], m: int, seed: int) -> None:
    """Add the ``m``-th member of the twin, and the members of the network that run on its lines, to ``arms``."""
    rng, member, begin = np.random.default_rng(seed), members[m], ask.begin
    mass = begin.mass * member.weights[begin.point]
    if ask.names:
        arms.fractions.append(_fractions(ask, member, mass))
    lines = ask.lines(member, mass, rng)
    held = (
        hold(ask.planned, ask.stage, lines)
        if ask.planned
        else Held([NOTHING] * len(ask.grid), [NOTHING] * (len(ask.grid) - 1))
    )
    arms.features["wild_type"].append(np.stack([ask.read(x[:_READ], held.columns) for x in lines.level]))
    if ask.planned:
        _counterfactuals(
            arms, ask, lines, held, on_lines_of(m, len(members), ask.stage.scene.network.n_members)
        )


def on_lines_of(m: int, n_twin: int, n_network: int) -> range:
    """Members of the network that run on the lines of the ``m``-th member of the twin: each member of either is used."""
    return range(m % n_network, n_network, n_twin)


def _counterfactuals(arms: Arms, ask: Question, lines: Lines, held: Held, chosen: Sequence[int]) -> None:
    """Add what some members of the network say of the same lines under the schedule."""
    network, highest = ask.stage.scene.network, ask.stage.scene.cells.highest
    span = float(np.ptp(ask.course.times))
    before = np.maximum(lines.level[:, :, network.regulators], 0)
    wild = None if ask.reader is None else np.stack([ask.reader(x) for x in before])
    few = [Cells(x[:_READ], highest) for x in lines.level]
    clamps = [{c: _head(v) for c, v in what.clamps.items()} for what in held.at]
    shifts = [{c: _head(v) for c, v in what.shifts.items()} for what in held.at]
    for g in chosen:
        moved = regulators_along(network, ask.grid, before, held, g, span)
        if wild is not None:
            arms.changes.append(
                np.stack([(ask.reader(x) - w).mean(0) for x, w in zip(moved, wild, strict=True)])
            )
        levels = [
            features_of(network, cells, x[:_READ], clamp, shift, g)[0]
            for cells, x, clamp, shift in zip(few, moved, clamps, shifts, strict=True)
        ]
        arms.features["perturbed"].append(np.stack([ask.read(x, held.columns) for x in levels]))
        if g == chosen[0]:
            near = FateMap(ask.reference[0], np.zeros(len(ask.reference[0]), dtype=int), k=_NEIGHBOURS)
            capped = np.minimum(moved, np.maximum(before, highest[network.regulators]))
            arms.outside.append(np.array([near.outside(x).mean() for x in capped]))
            if arms.embedded is None:
                arms.embedded = np.stack([ask.reference[1][near.near(x[:_PATHS])].mean(1) for x in capped])


def _head(value: np.ndarray | float) -> np.ndarray | float:
    """Return the part of a clamp that belongs to the lines that are read."""
    return value[:_READ] if np.ndim(value) else value


def _fractions(ask: Question, member: Member, mass: np.ndarray) -> np.ndarray:
    """Share of each label among the descendants, ``(n_grid, n_labels)``, linear between two time points."""
    course, first = ask.course, ask.begin.point
    steps = descendants(member.couplings, mass, first, member.weights)
    at = np.stack(
        [
            step @ one_hot(ask.labels.iloc[course.rows(first + i)], ask.names)[1]
            for i, step in enumerate(steps)
        ]
    )
    return np.stack([np.interp(ask.grid, course.times[first:], column) for column in at.T], axis=1)


def run_flows(
    ask: Question, members: list[Member], stochastic: bool, grows: bool, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paths of the velocity, the labels where they end (last entry: outside of the data), and the share outside by time."""
    course, begin, labels = ask.course, ask.begin, ask.labels
    last = course.rows(len(course.times) - 1)
    rng = np.random.default_rng([seed, 32])
    mass = begin.mass
    if grows:
        # a velocity makes no cells: those with many descendants have to start as often
        mass = mass * np.mean([offspring(m.couplings, begin.point, m.weights) for m in members], axis=0)
    cells = rng.choice(course.rows(begin.point), ask.n_cells, p=mass / mass.sum())
    known = np.flatnonzero(course.point >= 0)
    known = rng.permutation(known)[:_REFERENCE]
    everywhere = FateMap(course.states[known], np.zeros(len(known), dtype=int))
    text = np.full(len(last), _keys.UNASSIGNED, dtype=object)
    if labels is not None:
        text[:] = (
            labels.iloc[last].astype(object).where(labels.iloc[last].notna(), _keys.UNASSIGNED).astype(str)
        )
    ends = FateMap(course.states[last], text)
    shares, outside, paths = [], [], []
    for m, member in enumerate(members):
        path = member.flow.run(
            course.states[cells], ask.grid, stochastic=stochastic, seed=derived(seed, 34, m)
        )
        share, out = ends(path[-1])
        found = dict(zip(ends.names, share.mean(0), strict=True))
        unassigned = found.pop(_keys.UNASSIGNED, 0.0) + out.mean()
        shares.append([*(found.get(n, 0.0) for n in ask.names), unassigned])
        outside.append([everywhere.outside(x).mean() for x in path])
        paths.append(path[:, :_PATHS])
    return paths[0], np.array(shares), np.mean(outside, axis=0)

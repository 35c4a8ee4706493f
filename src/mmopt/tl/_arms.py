"""What each member of a twin says of the same cells, with and without a schedule."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmopt import _keys
from mmopt._random import derived
from mmopt.dynamics import FateMap, descendants, sample_chains
from mmopt.tl._counterfactual import Held, Lines, Reader, features_along, hold, interpolated, regulators_along
from mmopt.tl._course import Course
from mmopt.tl._members import Member, one_hot
from mmopt.tl._scene import Stage
from mmopt.tl._schedule import Planned
from mmopt.tl._starts import Start

# lines whose every feature is read: their mean over the members is what counts
_READ = 40
_REFERENCE, _PATHS, _NEIGHBOURS = 5000, 40, 15


@dataclass(frozen=True, eq=False)
class Arms:
    """What one call collects over the members; arrays are ``(n_grid, ...)``."""

    fractions: list[np.ndarray]
    changes: list[np.ndarray]
    features: dict[str, list[np.ndarray]]
    outside: list[np.ndarray]
    embedded: list[np.ndarray]


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
    rows = np.flatnonzero(known)
    rows = np.sort(np.random.default_rng([seed, 33]).permutation(rows)[:_REFERENCE])
    regulators = stage.scene.network.regulators
    level = (
        np.maximum(stage.cells(rows).level[:, regulators], 0) if len(regulators) else np.zeros((len(rows), 0))
    )
    if labels is None:
        return [], None, (level, course.states[rows])
    names = sorted({str(v) for v in labels.iloc[rows]})
    reader = Reader(level, labels.iloc[rows].astype(str).to_numpy()) if len(regulators) else None
    return names, reader, (level, course.states[rows])


def run_member(
    arms: Arms, course: Course, stage: Stage, member: Member, m: int, n_members: int, begin: Start,
    planned: list[Planned], grid: np.ndarray, names: list[str], labels: pd.Series | None, reader: Reader | None,
    reference: tuple[np.ndarray, np.ndarray], shown: np.ndarray, n_cells: int, seed: int,
) -> None:  # fmt: skip
    """Add one member of the twin, and the members of the network that run on its lines, to ``arms``."""
    rng = np.random.default_rng(seed)
    mass = begin.mass * member.weights[begin.point]
    if names:
        arms.fractions.append(_fractions(course, member, mass, begin.point, grid, names, labels))
    chains = sample_chains(member.couplings, mass, begin.point, n_cells, rng, member.weights)
    rows = np.stack([course.rows(begin.point + i)[c] for i, c in enumerate(chains)])
    unique, where = np.unique(rows, return_inverse=True)
    level = stage.cells(unique).level[where.reshape(rows.shape)]
    lines = interpolated(level, course.times[begin.point :], grid)
    held = hold(planned, stage, lines) if planned else Held([{}] * len(grid), [{}] * len(grid))
    readout, direct = stage.scene.readout, held.columns
    few = Lines(grid, lines.level[:, :_READ])
    first = Held(
        [{c: _head(v) for c, v in at.items()} for at in held.clamps],
        [{c: _head(v) for c, v in at.items()} for at in held.shifts],
    )
    arms.features["wild_type"].append(
        np.stack([readout.logged(x, direct)[:, shown].mean(0) for x in few.level])
    )
    if not planned:
        return
    network, span = stage.scene.network, float(np.ptp(course.times))
    before = np.maximum(lines.level[:, :, network.regulators], 0)
    near = FateMap(reference[0], np.zeros(len(reference[0]), dtype=int), k=_NEIGHBOURS)
    asked = None if reader is None else np.stack([reader(x) for x in before])
    for g in range(m, network.n_members, n_members):
        moved = regulators_along(stage, lines, held, g, span)
        if reader is not None:
            arms.changes.append(
                np.stack([(reader(x) - w).mean(0) for x, w in zip(moved, asked, strict=True)])
            )
        arms.features["perturbed"].append(
            np.stack(
                [
                    readout.logged(features_along(stage, few, first, moved[:, :_READ], g, i), direct)[
                        :, shown
                    ].mean(0)
                    for i in range(len(grid))
                ]
            )
        )
        if g == m:
            capped = np.minimum(moved, np.maximum(before, stage.scene.cells.highest[network.regulators]))
            arms.outside.append(np.array([near.outside(x).mean() for x in capped]))
            if not arms.embedded:
                arms.embedded.append(np.stack([reference[1][near.near(x[:_PATHS])].mean(1) for x in capped]))


def _head(value: np.ndarray | float) -> np.ndarray | float:
    """Return the part of a clamp that belongs to the lines that are read."""
    return value[:_READ] if np.ndim(value) else value


def _fractions(
    course: Course,
    member: Member,
    mass: np.ndarray,
    first: int,
    grid: np.ndarray,
    names: list[str],
    labels: pd.Series,
) -> np.ndarray:
    """Share of each label among the descendants, ``(n_grid, n_labels)``, linear between two time points."""
    steps = descendants(member.couplings, mass, first, member.weights)
    at = np.stack(
        [step @ one_hot(labels.iloc[course.rows(first + i)], names)[1] for i, step in enumerate(steps)]
    )
    return np.stack([np.interp(grid, course.times[first:], column) for column in at.T], axis=1)


def run_flows(
    course: Course,
    members: list[Member],
    begin: Start,
    grid: np.ndarray,
    labels: pd.Series | None,
    names: list[str],
    n_cells: int,
    stochastic: bool,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paths of the velocity, the labels where they end (last entry: outside of the data), and the share outside by time."""
    last = course.rows(len(course.times) - 1)
    rng = np.random.default_rng([seed, 32])
    cells = rng.choice(course.rows(begin.point), n_cells, p=begin.mass / begin.mass.sum())
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
        path = member.flow.run(course.states[cells], grid, stochastic=stochastic, seed=derived(seed, 34, m))
        share, out = ends(path[-1])
        found = dict(zip(ends.names, share.mean(0), strict=True))
        unassigned = found.pop(_keys.UNASSIGNED, 0.0) + out.mean()
        shares.append([*(found.get(n, 0.0) for n in names), unassigned])
        outside.append([everywhere.outside(x).mean() for x in path])
        paths.append(path[:, :_PATHS])
    return paths[0], np.array(shares), np.mean(outside, axis=0)

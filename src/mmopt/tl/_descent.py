"""Cells with a past: a perturbation is felt along the lines by which a twin says they came to be."""

from dataclasses import dataclass, fields, replace

import numpy as np
from mudata import MuData

from mmopt._checks import listed
from mmopt._random import derived
from mmopt.dynamics import agreement, sample_ancestors
from mmopt.grn.effects import Perturbation, Scene
from mmopt.tl._counterfactual import Held, features_of, regulators_along
from mmopt.tl._course import Course
from mmopt.tl._members import Member, restore
from mmopt.tl._scene import Stage

METHODS = NETWORK, TWIN = ("network", "twin")
_BLOCK = 2000


@dataclass(frozen=True, eq=False)
class Descent(Scene):
    """A scene whose perturbations are held from the first time point until each cell was sampled.

    Parameters
    ----------
    times
        ``(n_times,)`` of the course.
    point
        ``(n_cells,)`` number of each cell's time point.
    paths
        ``(n_times, n_cells, p)`` of each member of the twin: observed regulators of a line of ancestors of each cell, and
        from its own time on its own.
    """

    times: np.ndarray
    point: np.ndarray
    paths: list[np.ndarray]

    def moved(
        self, perturbation: Perturbation, member: int, order: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Levels when each cell was sampled under one member, and which were clipped."""
        network, path = self.network, self.paths[member % len(self.paths)]
        number = {int(column): i for i, column in enumerate(network.regulators)}
        factor = {c: self._share(c, v) for c, v in perturbation.clamps.items() if c in number}
        at = [
            Perturbation(
                {
                    c: perturbation.clamps[c] if f is None else f * now[:, number[c]]
                    for c, f in factor.items()
                },
                perturbation.shifts,
            )
            for now in path
        ]
        held = Held(at, at[1:])
        run = regulators_along(network, self.times, path, held, member, float(np.ptp(self.times)), order)
        now = run[self.point, np.arange(len(self.point))]
        return features_of(network, self.cells, now, perturbation.clamps, perturbation.shifts, member, order)

    def _share(self, column: int, value: np.ndarray | float) -> float | None:
        """Share of its own level at which a gene is held (a knock-down), along the whole line; ``None``: at one level."""
        if np.ndim(value) == 0:
            return None
        return float(value.sum() / max(self.cells.level[:, column].sum(), 1e-9))


@dataclass(frozen=True, eq=False)
class Lived(Stage):
    """A stage whose cells have a past in a twin."""

    course: Course | None = None
    twins: tuple[Member, ...] = ()
    seed: int = 0

    def on(self, rows: np.ndarray) -> Descent:
        """Scene of some cells of the data, with a line of ancestors of each from every member of the twin."""
        paths = [self._path(member, rows, derived(self.seed, 14, m)) for m, member in enumerate(self.twins)]
        return Descent(
            self.scene.network,
            self.cells(rows),
            self.scene.readout,
            np.zeros((1, len(rows))),
            self.course.times,
            self.course.point[rows],
            paths,
        )

    def _path(self, member: Member, rows: np.ndarray, seed: int) -> np.ndarray:
        course, rng = self.course, np.random.default_rng(seed)
        lines = np.tile(rows, (len(course.times), 1))
        for t in range(len(course.times)):
            here = np.flatnonzero(course.point[rows] == t)
            if len(here):
                cells = np.searchsorted(course.rows(t), rows[here])
                chain = sample_ancestors(member.couplings, cells, t, rng, member.weights)
                for i, at in enumerate(chain):
                    lines[i, here] = course.rows(i)[at]
        unique, where = np.unique(lines, return_inverse=True)
        regulators = self.scene.network.regulators
        # all features are pooled to have the totals: in blocks, to keep only the regulators
        level = [
            self.cells(unique[i : i + _BLOCK]).level[:, regulators] for i in range(0, len(unique), _BLOCK)
        ]
        return np.maximum(np.vstack(level), 0)[where.reshape(lines.shape)]


def check_method(method: str, n_steps: int | str | None, interval: str) -> None:
    """Refuse methods that do not exist, and arguments that belong to the other one."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {listed(METHODS)}, got {method!r}")
    if method == TWIN and n_steps is not None:
        raise ValueError(
            "n_steps belongs to method='network'; with method='twin' the time course says how long an effect travels: leave "
            "`n_steps` out"
        )
    if method == TWIN and interval == "conformal":
        raise ValueError(
            "interval='conformal' calibrates method='network'; with method='twin' use interval='ensemble'"
        )


def claimed(draws: np.ndarray, method: str) -> np.ndarray | float:
    """Share of each mean effect that is claimed.

    Along a past the members drift apart: what they do not agree on is taken back, as in a simulation.
    """
    return agreement(draws) if method == TWIN else 1.0


def in_course(
    mdata: MuData, twin: str, member: np.ndarray
) -> tuple[Course, list[Member], np.ndarray, list[str]]:
    """Course and members of a stored twin, which of the cells have a time in it, and a remark if some have none.

    Raises
    ------
    KeyError, ValueError
        No twin, one of other cells, no cell with a time.
    """
    course, members = restore(mdata, twin)
    timed = member & (course.point >= 0)
    if not timed.any():
        raise ValueError(
            f"cells: none has a time in mdata.uns[{twin!r}]; choose cells of its time points, or use method='network'"
        )
    lost = int(member.sum() - timed.sum())
    return course, members, timed, [f"{lost} cells without a time are left out"] if lost else []


def with_past(stage: Stage, course: Course, members: list[Member], seed: int) -> Lived:
    """Give the cells of a stage their lines of ancestors."""
    given = {f.name: getattr(stage, f.name) for f in fields(Stage)}
    lived = Lived(**given, course=course, twins=tuple(members), seed=seed)
    return replace(lived, scene=replace(lived.on(stage.chosen), averaging=stage.scene.averaging))

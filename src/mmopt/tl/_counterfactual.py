"""The same lines of descent with and without an intervention, in the regulators and in every feature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from mmopt._response import FLOOR, TURNOVERS, expit
from mmopt.dynamics import Circuit, follow
from mmopt.grn.effects import Perturbation, Scene
from mmopt.grn.network import Network
from mmopt.grn.propagation import Cells
from mmopt.tl._interventions import Intervention, build
from mmopt.tl._scene import Stage
from mmopt.tl._schedule import Planned

NOTHING = Perturbation({}, {})


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines of descent of one member on the grid of the simulation.

    ``level``: ``(n_grid, n_lines, n_features)`` of the observed cells, linear between two time points.
    """

    grid: np.ndarray
    level: np.ndarray


@dataclass(frozen=True, eq=False)
class Held:
    """What is held at each time of the grid, and what the same comes to at the next: a share of a level goes along with it."""

    at: list[Perturbation]
    until: list[Perturbation]

    @property
    def columns(self) -> list[int]:
        """All columns that are held at some time."""
        return sorted({c for what in self.at for c in what.clamps})


def interpolated(level: np.ndarray, times: np.ndarray, grid: np.ndarray) -> Lines:
    """Levels ``(n_points, n_lines, n_features)`` of the observed cells brought to the grid."""
    right = np.clip(np.searchsorted(times, grid, side="left"), 1, len(times) - 1)
    share = np.clip((grid - times[right - 1]) / (times[right] - times[right - 1]), 0, 1)
    share = share[:, None, None].astype(np.float32)
    return Lines(grid, (1 - share) * level[right - 1] + share * level[right])


def hold(planned: Sequence[Planned], stage: Stage, lines: Lines) -> Held:
    """Clamps and shifts of a schedule along the lines."""
    scene = stage.scene
    begin, end = float(lines.grid[0]), float(lines.grid[-1])

    def made(now: list[Intervention], i: int) -> Perturbation:
        if not now:
            return NOTHING
        cells = Cells(lines.level[i], scene.cells.highest)
        here = Scene(scene.network, cells, scene.readout, np.zeros((1, len(cells.level))))
        return build(now, stage.features, here, stage.links, stage.cognate, None)

    active = [[p.what for p in planned if p.active(float(time), begin, end)] for time in lines.grid]
    at = [made(now, i) for i, now in enumerate(active)]
    until = [at[i] if now == active[i] else made(now, i) for i, now in enumerate(active[:-1], start=1)]
    return Held(at, until)


def regulators_along(
    network: Network, grid: np.ndarray, path: np.ndarray, held: Held, member: int, span: float,
    order: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Levels of the regulators under the schedule, ``(n_grid, n_lines, p)``, by one member of the network.

    ``path``: their observed levels, of the same shape, not negative. ``span``: time from the first to the last time point of
    the course. ``order``: gives every target the regulators of another one.
    """
    number = {int(column): i for i, column in enumerate(network.regulators)}
    weights = network.dense(member, order)[network.regulators]
    circuit = Circuit(weights, network.forms[member], TURNOVERS[member % len(TURNOVERS)] / span)

    def between(time: float, what: str) -> dict:
        i = int(np.searchsorted(grid, time + 1e-9 * span, side="right")) - 1
        now = {number[c]: v for c, v in getattr(held.at[i], what).items() if c in number}
        if i == len(held.until):
            return now
        then = {number[c]: v for c, v in getattr(held.until[i], what).items() if c in number}
        share = (time - grid[i]) / (grid[i + 1] - grid[i])
        return {c: v + share * (then[c] - v) for c, v in now.items()}

    return follow(circuit, grid, path, lambda t: between(t, "clamps"), lambda t: between(t, "shifts"))


def features_of(
    network: Network,
    cells: Cells,
    regulators: np.ndarray,
    clamps: Mapping[int, np.ndarray | float],
    shifts: Mapping[int, np.ndarray],
    member: int,
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Levels of every feature of some cells whose regulators were moved, and where they were clipped; ``(n_cells, n_features)``.

    ``regulators``: their levels now, ``(n_cells, p)``.
    """
    form, level = network.forms[member], cells.level
    before = np.maximum(level[:, network.regulators], 0)
    push = (form(regulators) - form(before)) @ network.dense(member, order).T
    for column, shift in shifts.items():
        push[:, column] += shift
    after = level + (expit(cells.odds + push) - cells.share) / (1 - 2 * FLOOR)
    after[:, network.regulators] = regulators
    clipped = (after < cells.floor - FLOOR) | (after > cells.ceiling)
    after = np.clip(after, cells.floor, cells.ceiling)
    for column, value in clamps.items():
        after[:, column] = value
        clipped[:, column] = False
    return after, clipped


class Reader:
    """Probability of each label at given levels of the regulators: softer than neighbours, and defined everywhere.

    Parameters
    ----------
    level
        ``(n, p)`` of observed cells.
    labels
        ``(n,)``.
    names
        The labels in the order of the answer.
    """

    def __init__(self, level: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
        self._labels = np.unique(labels)
        self._order = np.searchsorted(self._labels, names)
        if len(self._labels) > 1:
            self._model = LogisticRegression(C=1.0, max_iter=500).fit(np.clip(level, 0, 1), labels)

    def __call__(self, level: np.ndarray) -> np.ndarray:
        """``(n, n_labels)``; a level beyond fully on counts as fully on."""
        if len(self._labels) == 1:
            return np.ones((len(level), 1))
        return np.take(self._model.predict_proba(np.clip(level, 0, 1)), self._order, axis=1)

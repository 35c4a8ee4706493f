"""Clamp and propagate: what a perturbation does to the regulators, and they to every feature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmopt._response import FLOOR, Form, expit, log_odds

RATE = 0.3
_MOST_STEPS, _SETTLED = 300, 1e-4


@dataclass(frozen=True, eq=False)
class Cells:
    """Pooled cells to perturb: levels of all features, and what is reused by every perturbation.

    Parameters
    ----------
    level
        ``(n_cells, n_features)``; kept in single precision, which is plenty for counts.
    highest
        ``(n_features,)``: no level is moved above it (unless it was there, or is clamped there).
    """

    level: np.ndarray
    highest: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", np.asarray(self.level, dtype=np.float32))

    @cached_property
    def floor(self) -> np.ndarray:
        """Lowest level that is reached; a pool may lie below 0 by the protein's background, or above what is usual."""
        return np.minimum(self.level, 0)

    @cached_property
    def ceiling(self) -> np.ndarray:
        """Highest level that is reached."""
        return np.maximum(self.level, np.asarray(self.highest, dtype=np.float32))

    @cached_property
    def odds(self) -> np.ndarray:
        """Log odds of the level."""
        return log_odds(self.level)

    @cached_property
    def share(self) -> np.ndarray:
        """Level between off and on that the log odds stand for."""
        return expit(self.odds)


def propagate(
    cells: Cells,
    regulators: np.ndarray,
    weights: np.ndarray,
    form: Form,
    clamps: Mapping[int, np.ndarray | float],
    *,
    shifts: Mapping[int, np.ndarray] | None = None,
    n_steps: int | None = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels after a perturbation, and where they hit the floor or the ceiling.

    The regulators move towards what the network makes of them, ``dx/dt = rate (f(x) - x)`` with a saturating ``f``,
    each cell from its own level (what the network does not explain of it stays), while the clamped ones are held. All
    other features then follow.

    Parameters
    ----------
    cells
        The unperturbed cells.
    regulators, weights, form
        Of one member of a network; weights ``(n_features, p)``.
    clamps
        Column to level, one for all cells or one each.
    shifts
        Column to a shift of its log odds, ``(n_cells,)``, e.g. of the gene whose peak is closed.
    n_steps
        Steps of a rate of 0.3; ``None`` goes on until nothing moves.

    Returns
    -------
    level, clipped
        ``(n_cells, n_features)`` and boolean of the same shape.
    """
    weights = np.asarray(weights, dtype=np.float32)
    start = np.maximum(cells.level[:, regulators], 0)
    number = {column: i for i, column in enumerate(regulators)}
    held = [number[column] for column in clamps if column in number]
    own, resting = weights[regulators], form(start)
    extra = np.zeros_like(start)
    for column, shift in (shifts or {}).items():
        if column in number:
            extra[:, number[column]] += shift

    now = start.copy()
    for i in held:
        now[:, i] = clamps[regulators[i]]
    if held or extra.any():
        odds, share = cells.odds[:, regulators], cells.share[:, regulators]
        for _ in range(_MOST_STEPS if n_steps is None else n_steps):
            push = (form(now) - resting) @ own.T + extra
            aim = np.maximum(start + (expit(odds + push) - share) / (1 - 2 * FLOOR), 0)
            step = RATE * (aim - now)
            step[:, held] = 0
            now += step
            if n_steps is None and np.abs(step).max() < _SETTLED:
                break

    push = np.zeros_like(cells.level)
    moving = np.flatnonzero((now != start).any(0))
    if moving.size:
        push += (form(now[:, moving]) - resting[:, moving]) @ weights[:, moving].T
    for column, shift in (shifts or {}).items():
        push[:, column] += shift
    level = cells.level + (expit(cells.odds + push) - cells.share) / (1 - 2 * FLOOR)
    level[:, regulators] = cells.level[:, regulators] + (now - start)
    clipped = (level < cells.floor - FLOOR) | (level > cells.ceiling)
    np.clip(level, cells.floor, cells.ceiling, out=level)
    for column, value in clamps.items():
        level[:, column] = value
        clipped[:, column] = False
    return level, clipped


@dataclass(frozen=True, eq=False)
class Readout:
    """From levels to what is reported: log1p of counts per 10,000 (RNA, ATAC) or the centred log ratio (protein).

    Parameters
    ----------
    blocks
        ``(columns, kind)`` of each modality; kind is ``"share"`` or ``"ratio"``.
    top, bottom
        Value of each feature at level 1 and at level 0.
    """

    blocks: Sequence[tuple[slice, str]]
    top: np.ndarray
    bottom: np.ndarray

    def level(
        self, values: np.ndarray | float, columns: slice | np.ndarray | int = slice(None)
    ) -> np.ndarray:
        """Levels of normalised values of these features."""
        bottom = self.bottom[columns]
        return (values - bottom) / np.maximum(self.top[columns] - bottom, 1e-9)

    def values(self, level: np.ndarray) -> np.ndarray:
        """Normalised values at these levels, not negative."""
        return np.maximum(self.bottom + level * (self.top - self.bottom), 0)

    def logged(self, level: np.ndarray, clamped: Sequence[int] = ()) -> np.ndarray:
        """Return logged values; the clamped features are left out of a cell's total and centre."""
        values = self.values(level)
        free = np.ones(len(self.top), dtype=bool)
        free[list(clamped)] = False
        for columns, kind in self.blocks:
            block, counted = values[:, columns], free[columns]
            counted = counted if counted.any() else ~counted
            if kind == "share":
                total = block[:, counted].sum(1, keepdims=True)
                values[:, columns] = np.log(1 + block * (1e4 / np.maximum(total, 1e-12)))
            else:
                ratio = np.log(np.maximum(block, 0.25 * self.bottom[columns] + 1e-6))
                values[:, columns] = ratio - ratio[:, counted].mean(1, keepdims=True)
        return values

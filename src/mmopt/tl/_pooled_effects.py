"""The effect of perturbed cells, measured in pools that are made as those of a prediction are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmopt.tl._measured_effects import LEAST_CELLS, LOCAL
from mmopt.tl._scene import Stage

_MOST_CELLS, _FOLDS = 300, 10
# at most so many are drawn and averaged
_SAMPLES = 5


@dataclass(frozen=True, eq=False)
class Rest:
    """The control cells of a group, and what was measured in them.

    Parameters
    ----------
    mask
        All cells of the group, perturbed or not.
    controls, n
        Its control cells by the modalities that they have, and how many these are.
    noise
        Squared standard error of their mean, or ``None`` where it is unknown.
    drawn
        Pools of samples of them, by the sizes of the samples.
    """

    mask: np.ndarray
    controls: list[np.ndarray]
    n: int
    noise: np.ndarray | None
    drawn: dict[tuple[int, ...], list[np.ndarray]] = field(default_factory=dict)

    def samples(self, stage: Stage, sizes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Pools of samples of these sizes; the same again where they were asked for before."""
        key = tuple(sizes.tolist())
        if key not in self.drawn:
            self.drawn[key] = _samples(stage, self.controls, sizes, rng)
        return self.drawn[key]


def rests(stage: Stage, masks: Sequence[np.ndarray], rng: np.random.Generator) -> list[Rest]:
    """Control cells of each group of ``stage``; ``masks``: all its cells, perturbed or not."""
    found = []
    for mask, rows in zip(masks, stage.groups.values(), strict=True):
        here = np.flatnonzero(stage.member & mask)
        found.append(Rest(mask, _patterns(stage, here), len(here), _noise(stage, rows, rng)))
    return found


def measure(
    stage: Stage, rest: Rest, mine: np.ndarray, clamped: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Effect in a group and its squared standard error; nothing where cells are too few."""
    rows = np.flatnonzero(mine & rest.mask)
    if fewest(stage, mine & rest.mask) < LEAST_CELLS or rest.noise is None:
        return None
    perturbed = _patterns(stage, rows)
    sizes = np.array([min(len(x), len(y)) for x, y in zip(perturbed, rest.controls, strict=True)])
    sizes = (sizes * min(1, _MOST_CELLS / max(sizes.sum(), 1))).astype(int)
    before = rest.samples(stage, sizes, rng)
    after, own = _samples(stage, perturbed, sizes, rng), _noise(stage, rows, rng)
    if not (before and after) or own is None:
        return None
    there, here = (
        np.mean([_logged(stage, values, clamped).mean(0) for values in some], axis=0)
        for some in (after, before)
    )
    # of the cells that were used
    own, other = own * len(rows) / len(after), rest.noise * rest.n / len(before)
    return there - here, (own + other) / sizes.sum()


def fewest(stage: Stage, cells: np.ndarray) -> int:
    """Cells among these in the modality that the fewest have."""
    return min(int(cells[rows].sum()) for rows in stage.profiles.rows.values())


def _logged(stage: Stage, values: np.ndarray, clamped: Sequence[int]) -> np.ndarray:
    readout = stage.scene.readout
    level = readout.level(values)
    return readout.logged(level, clamped)


def _patterns(stage: Stage, cells: np.ndarray) -> list[np.ndarray]:
    """Split cells by which modalities they have."""
    have = np.zeros(len(stage.member), dtype=int)
    for i, there in enumerate(stage.profiles.rows.values()):
        have[there] += 2**i
    return [cells[have[cells] == pattern] for pattern in range(1, 2 ** len(stage.profiles.rows))]


def _samples(
    stage: Stage, parts: Sequence[np.ndarray], sizes: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Pooled values of random samples with so many cells of each part, each sample pooled within itself."""
    drawn = [(rng.permutation(cells), int(n)) for cells, n in zip(parts, sizes, strict=True) if n]
    out = []
    for i in range(min((len(cells) // size for cells, size in drawn), default=0)):
        sample = np.concatenate([cells[i * size : (i + 1) * size] for cells, size in drawn])
        among = np.isin(np.arange(len(stage.member)), sample)
        if (n := fewest(stage, among)) >= LEAST_CELLS:
            out.append(stage.profiles.values(sample, max(1, min(stage.k, n // LOCAL)), among))
        if len(out) == _SAMPLES:
            break
    return out


def _noise(stage: Stage, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Squared standard error of the mean logged value, from random parts of the cells, each added up."""
    n_folds = min(_FOLDS, len(rows) // 3)
    if n_folds < 2:
        return None
    parts = []
    for fold in np.array_split(rng.permutation(rows), n_folds):
        among = np.isin(np.arange(len(stage.member)), fold)
        if fewest(stage, among) == 0:
            return None
        parts.append(_logged(stage, stage.profiles.values(fold[:1], len(fold), among), [])[0])
    return np.var(parts, axis=0, ddof=1) / n_folds

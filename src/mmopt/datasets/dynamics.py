"""The regulators' stochastic differential equations, over many cells at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

TRANSCRIPT, CHROMATIN, EXPRESSION, PROTEIN = range(4)
# cells integrated together: small enough for the arrays of one step to stay in the cache
_BLOCK = 1000


@dataclass(frozen=True)
class Kinetics:
    """Rates (per day) and noise of the simulated cells.

    Parameters
    ----------
    rate
        Turnover of the regulators.
    chromatin, expression, protein
        How fast a target's accessibility follows its regulators, its RNA the accessibility, its protein the RNA.
    leak
        Production of a switched-off gene, as a share of its full production.
    noise
        Size of the intrinsic noise.
    speed
        Standard deviation of the cells' log speed: cells of one day are not in step.
    head_start
        Cells have left the initial state by up to this many days when day 0 comes.
    step
        Time step in days.
    """

    rate: float = 1.0
    chromatin: float = 6.0
    expression: float = 2.0
    protein: float = 0.8
    leak: float = 0.02
    noise: float = 0.1
    speed: float = 0.3
    head_start: float = 1.5
    step: float = 0.05

    def __post_init__(self) -> None:
        rates = (self.rate, self.chromatin, self.expression, self.protein)
        sizes = (self.leak, self.noise, self.speed, self.head_start)
        if not (
            np.isfinite([*rates, *sizes, self.step]).all() and min(*rates, self.step) > 0 and min(sizes) >= 0
        ):
            raise ValueError("Kinetics: rates and step must be positive, all else not negative and finite")
        if self.leak > 1 or self.step * max(rates) > 0.5:
            raise ValueError("Kinetics: leak must be at most 1, and step at most 0.5 / the fastest rate")


@dataclass(frozen=True)
class Clamp:
    """Hold ``row`` at ``value`` from ``start`` until ``stop``, days, one of each per cell."""

    row: int
    value: float
    start: np.ndarray
    stop: np.ndarray


def integrate(
    production: Callable[[np.ndarray], np.ndarray],
    initial: np.ndarray,
    read_at: np.ndarray,
    *,
    clamps: Sequence[Clamp] = (),
    kinetics: Kinetics = Kinetics(),
    seed: Sequence[int] = (0,),
) -> np.ndarray:
    """Euler–Maruyama from shortly before day 0; what a cell draws depends on ``seed`` alone, never on the clamps.

    Each regulator follows ``dx = rate (production(x) - x) dt + noise sqrt(rate (production(x) + x)) dW``, floored at
    0: the chemical Langevin equation of a birth–death process (Gillespie 2000, J. Chem. Phys. 113:297). Three
    low-pass filters in a row carry the regulator to the chromatin, the RNA and the protein of its targets.

    Parameters
    ----------
    production
        Maps levels (regulators × cells) to production (regulators × cells).
    initial
        Level of each regulator when the cell starts, or of each regulator in each cell.
    read_at
        Days at which each cell is read, readings × cells.

    Returns
    -------
    Array readings × 4 × regulators × cells: the regulator itself and as felt by its targets' chromatin, RNA, protein.
    """
    n_readings, n_cells = read_at.shape
    initial = np.broadcast_to(initial.reshape(len(initial), -1), (len(initial), n_cells))
    read = np.empty((n_readings, 4, len(initial), n_cells))
    for number, start in enumerate(range(0, n_cells, _BLOCK)):
        cells = slice(start, start + _BLOCK)
        some = [Clamp(c.row, c.value, c.start[cells], c.stop[cells]) for c in clamps]
        rng = np.random.default_rng([*seed, number])
        _integrate_block(
            production, initial[:, cells], read_at[:, cells], some, kinetics, rng, read[..., cells]
        )
    return read


def _integrate_block(
    production: Callable[[np.ndarray], np.ndarray],
    initial: np.ndarray,
    read_at: np.ndarray,
    clamps: Sequence[Clamp],
    kinetics: Kinetics,
    rng: np.random.Generator,
    read: np.ndarray,
) -> None:
    """Integrate the cells of one block and write what is read into ``read``."""
    speed = np.exp(kinetics.speed * rng.standard_normal(initial.shape[1]))
    turnover = kinetics.rate * kinetics.step * speed
    first = -np.rint(kinetics.head_start / kinetics.step * rng.random(initial.shape[1]))
    follow = kinetics.step * np.array([kinetics.chromatin, kinetics.expression, kinetics.protein])
    levels = np.empty((4, *initial.shape))
    levels[:] = initial * np.exp(kinetics.noise * rng.standard_normal(initial.shape))
    x = levels[TRANSCRIPT]
    read_step = np.rint(read_at / kinetics.step)
    windows = [(c, np.rint(c.start / kinetics.step), np.rint(c.stop / kinetics.step)) for c in clamps]
    for step in range(int(first.min()), int(read_step.max()) + 1):
        for clamp, start, stop in windows:
            x[clamp.row, (start <= step) & (step < stop)] = clamp.value
        for reading, due in enumerate(read_step == step):
            if due.any():
                read[reading][..., due] = levels[..., due]
        for stage in (PROTEIN, EXPRESSION, CHROMATIN):
            levels[stage] += follow[stage - 1] * (levels[stage - 1] - levels[stage])
        made = kinetics.leak + (1 - kinetics.leak) * production(x)
        spread = kinetics.noise * np.sqrt(turnover * (made + x))
        change = turnover * (made - x) + spread * rng.standard_normal(x.shape)
        x += change if step >= 0 else np.where(step >= first, change, 0)
        np.maximum(x, 0, out=x)

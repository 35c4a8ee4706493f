"""The gradient search of a reprogramming with several optimizers side by side: same starts, same budget."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from mmopt._checks import listed
from mmopt.grn.search import Journey, Set
from mmopt.models.relaxed import RelaxedJourney, descend, round_off, starts
from mmopt.optim import available, creator

OPTIMIZERS = ("asgdadam", "adam", "lbfgs")
# every first-order optimizer may choose among these; an adaptive one may in addition move a factor of ten either way
RATES = (0.03, 0.1, 0.3)
_BAND, _SWITCH = 10, 5
_TRACE = ["optimizer", "rate", "start", "evaluation", "objective"]


@dataclass(frozen=True)
class Best:
    """The best rate of one optimizer: what it reached, and the sets its doses stand for."""

    name: str
    lr: float
    best: float
    median: float
    n_evaluations: int
    sets: list[Set]


@dataclass(frozen=True)
class Relaxed:
    """The best run of each optimizer and the objective of every evaluation of all."""

    best: list[Best]
    trace: pd.DataFrame

    @property
    def sets(self) -> list[Set]:
        """All sets that any optimizer's doses stand for."""
        return [s for run in self.best for s in run.sets]


def compare_relaxed(
    task: Journey,
    ways: Sequence[tuple[int, int]],
    optimizers: Sequence[str],
    *,
    size: int,
    penalty: float,
    identity: float,
    cells: slice,
    n_starts: int,
    n_evaluations: int,
    seed: int,
) -> Relaxed:
    """Minimise the relaxed objective with each optimizer; of its rates, the one with the lowest median over the starts.

    Raises
    ------
    ValueError
        An optimizer that is not known.
    """
    optimizers = [str(name).lower() for name in optimizers]
    known = {*available(), "lbfgs"}
    if unknown := [name for name in optimizers if name not in known]:
        raise ValueError(f"optimizers: no {listed(unknown)}; there are {listed(sorted(known), 20)}")
    objective = RelaxedJourney(task, ways, penalty=penalty, identity=identity, cells=cells)
    begin = starts(n_starts, len(task.raised), operator.index(seed))
    best, frames = [], []
    for name in optimizers:
        runs = {}
        for rate in [1.0] if name == "lbfgs" else RATES:
            runs[rate] = run = descend(objective, begin, _maker(name, rate), n_evaluations)
            evaluation, start = np.indices(run.objective.shape)
            values = (name, rate, start.ravel(), evaluation.ravel(), run.objective.ravel())
            frames.append(pd.DataFrame(dict(zip(_TRACE, values, strict=True))))
        lowest = {rate: np.minimum.accumulate(run.objective)[-1] for rate, run in runs.items()}
        rate = min(lowest, key=lambda r: (np.median(lowest[r]), r))
        reached = lowest[rate]
        sets = round_off(runs[rate].dose, ways, size)
        evaluated = n_evaluations * n_starts * len(runs)
        best.append(Best(name, rate, float(reached.min()), float(np.median(reached)), evaluated, sets))
    trace = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_TRACE, dtype=float)
    return Relaxed(best, trace)


def _maker(name: str, rate: float):
    if name == "lbfgs":
        return partial(torch.optim.LBFGS, lr=rate, max_iter=20, line_search_fn="strong_wolfe")
    if name.startswith("asgd"):
        return creator(name, lr=rate, alpha_min=rate / _BAND, alpha_max=rate * _BAND, switch_interval=_SWITCH)
    return creator(name, lr=rate)

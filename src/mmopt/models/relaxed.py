"""The relaxed search for interventions: every regulator from knocked out to over-expressed at once, by gradient."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmopt._response import FLOOR
from mmopt.grn.propagation import RATE
from mmopt.grn.search import KNOCKOUT, LEAST_APART, OVEREXPRESS, SHARPNESS, Journey, Set

# how many members the objective averages over; more would be slower, and the best of a few is scored with all anyway
_MEMBERS = 3
# spread of the random parameters at the start: doses of about a half, where their hyperbolic tangent is still steep
_START = 0.5
# dose below which its price is rounded off, so that it has a slope at 0
_SMOOTH = 0.03


@dataclass(frozen=True, eq=False)
class Run:
    """What one optimizer did from every start: objective ``(n_evaluations, n_starts)`` and doses ``(n_starts, p)``."""

    objective: np.ndarray
    dose: np.ndarray


class RelaxedJourney:
    """What is left to the target, as a differentiable function of a dose per regulator.

    A dose of -1 is a knock-out, 1 an over-expression, 0 leaves the regulator to the network; between them it acts as
    the mixture of its own level and the clamp. At the corners this falls as :meth:`mmopt.grn.search.Journey.progress`
    rises, without the clipping to what was observed, and with clamped features in the distance. The saturating form, the
    steps and the shares of the other groups make it nonconvex.
    """

    def __init__(
        self,
        journey: Journey,
        allowed: Sequence[tuple[int, int]],
        *,
        penalty: float,
        identity: float,
        cells: slice,
    ) -> None:
        network = journey.network
        level = np.maximum(journey.cells.level[cells], 0)
        self.penalty = penalty
        self.start = torch.tensor(level[:, network.regulators])
        self.level = torch.tensor(journey.cells.level[cells][:, journey.seen])
        self.odds = torch.tensor(journey.cells.odds[cells][:, network.regulators])
        self.seen_odds = torch.tensor(journey.cells.odds[cells][:, journey.seen])
        self.raised = torch.tensor(journey.raised, dtype=torch.float32)
        self.centres = torch.tensor(journey.centres, dtype=torch.float32)
        self.scale = torch.tensor(journey.spread, dtype=torch.float32)
        number = {column: i for i, column in enumerate(network.regulators)}
        mine = np.array([number.get(column, -1) for column in journey.seen])
        self.is_regulator = torch.tensor(mine >= 0)
        self.own = torch.tensor(np.maximum(mine, 0))
        self.down, self.up = (
            torch.tensor([float((i, way) in allowed) for i in range(len(self.raised))])
            for way in (KNOCKOUT, OVEREXPRESS)
        )
        chosen = np.linspace(0, network.n_members - 1, min(_MEMBERS, network.n_members)).round().astype(int)
        self.members = []
        for m in chosen:
            weights = journey.weights(m)
            parts = torch.tensor(weights[network.regulators].T), torch.tensor(weights[journey.seen].T)
            self.members.append((*parts, network.forms[m], network.n_steps[m]))
        _, span = journey.span([()], identity, cells)
        self.span = float(span[0])
        apart = np.maximum(journey.apart([()], cells)[0], LEAST_APART)
        self.apart = torch.tensor(apart, dtype=torch.float32)[:, None]
        weights = np.r_[1.0, 1.0, np.full(len(apart) - 2, identity)]
        self.log_weights = torch.tensor(weights, dtype=torch.float32).log()[:, None]
        self.before = (((self.level - self.centres[0]) / self.scale) ** 2).sum(-1).mean()

    def dose(self, free: Tensor) -> Tensor:
        """Doses from -1 to 1 of parameters without bounds; what is not allowed stays 0."""
        dose = torch.tanh(free)
        return torch.where(dose > 0, dose * self.up, dose * self.down)

    def __call__(self, free: Tensor) -> Tensor:
        """Objective of each row of ``free`` ``(n_starts, p)``: score and the price of the doses."""
        dose = self.dose(free)
        size = dose.abs()[:, None, :]
        clamp = torch.where(dose > 0, self.raised, torch.zeros(()))[:, None, :]
        total = torch.zeros(len(free))
        for own, outward, form, n_steps in self.members:
            resting, share = form(self.start), torch.sigmoid(self.odds)
            now = self.start.expand(len(free), -1, -1)
            for _ in range(n_steps):
                acting = form((1 - size) * now + size * clamp)
                aim = self.start + (torch.sigmoid(self.odds + (acting - resting) @ own) - share) / (
                    1 - 2 * FLOOR
                )
                # a level of exactly 0 has no derivative under a fractional power
                now = torch.clamp(now + RATE * (aim - now), min=1e-6)
            acting = (1 - size) * now + size * clamp
            push = (form(acting) - resting) @ outward
            there = self.level + (torch.sigmoid(self.seen_odds + push) - torch.sigmoid(self.seen_odds)) / (
                1 - 2 * FLOOR
            )
            there = torch.where(self.is_regulator, acting[..., self.own], there)
            distance = torch.stack(
                [
                    (((there - centre) / self.scale) ** 2).sum(-1).mean(1) / self.before
                    for centre in self.centres
                ]
            )
            way = torch.clamp((distance - distance[0]) / self.apart, max=1)
            total = total + 1 - torch.exp(-torch.logsumexp(self.log_weights - SHARPNESS * way, 0))
        # smooth at 0, where the absolute value is not
        price = (torch.sqrt(dose**2 + _SMOOTH**2) - _SMOOTH).sum(1)
        return total / (self.span * len(self.members)) + self.penalty * price


def starts(n: int, p: int, seed: int) -> Tensor:
    """Where the search begins: doing nothing, and ``n - 1`` random doses; ``(n, p)``."""
    free = _START * torch.randn(n, p, generator=torch.Generator().manual_seed(seed))
    free[0] = 0.01 * free[0]
    return free


def descend(
    objective: RelaxedJourney,
    begin: Tensor,
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    n_evaluations: int,
) -> Run:
    """Run one optimizer from every start; each start has its own, so that none depends on the others.

    Parameters
    ----------
    objective, begin
        What to minimise, and from where, ``(n_starts, p)``.
    make
        Builds the optimizer of one start from its parameters. Optimizers that call their closure several times in a
        step (L-BFGS) are stopped at the same number of evaluations as the others.
    n_evaluations
        Of the objective with its gradient, per start.
    """
    free = [row.clone().requires_grad_() for row in begin]
    optimizers = [make([row]) for row in free]
    if isinstance(optimizers[0], torch.optim.LBFGS):
        parts = [
            _line_searched(objective, row, o, n_evaluations) for row, o in zip(free, optimizers, strict=True)
        ]
        values = np.stack([p[0] for p in parts], axis=1)
        best = torch.stack([p[1] for p in parts])
    else:
        values = np.empty((n_evaluations, len(free)))
        best, lowest = begin.clone(), torch.full((len(begin),), torch.inf)
        for number, found in enumerate(_batched(objective, free, optimizers, n_evaluations)):
            values[number] = found[0]
            better = found[0] < lowest
            best[better], lowest[better] = found[1][better], found[0][better]
    return Run(values, objective.dose(best).numpy())


def round_off(dose: np.ndarray, allowed: Sequence[tuple[int, int]], size: int) -> list[Set]:
    """List the sets of up to ``size`` interventions that the largest doses of each start stand for."""
    found: set[Set] = set()
    for row in dose:
        # a dose of exactly 0, where one way alone is allowed, stands for that one
        both = [(int(i), w) for i in np.argsort(-np.abs(row)) for w in (KNOCKOUT, OVEREXPRESS)]
        ways = [(i, w) for i, w in both if (i, w) in allowed and w * row[i] >= 0]
        ways = list(dict(reversed(ways)).items())[::-1]
        for n in range(1, size + 1):
            found.add(tuple(sorted(ways[:n])))
    return sorted(s for s in found if s)


def _batched(
    objective: RelaxedJourney, free: list[Tensor], optimizers: list, n: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(n):
        value = objective(torch.stack(free))
        for row, gradient in zip(free, torch.autograd.grad(value.sum(), free), strict=True):
            row.grad = gradient
        yield value.detach(), torch.stack(free).detach()
        for optimizer in optimizers:
            optimizer.step()


def _line_searched(
    objective: RelaxedJourney, row: Tensor, optimizer: torch.optim.Optimizer, n: int
) -> tuple[np.ndarray, Tensor]:
    values, best = [], (np.inf, row.detach().clone())

    def closure() -> Tensor:
        nonlocal best
        value = objective(row[None])[0]
        (row.grad,) = torch.autograd.grad(value, row)
        values.append(float(value.detach()))
        if len(values) <= n and values[-1] < best[0]:
            best = values[-1], row.detach().clone()
        return value

    while len(values) < n:
        before = len(values)
        optimizer.step(closure)
        if len(values) - before <= 1:  # converged: nothing moves any more
            break
    values = values[:n] + values[-1:] * max(n - len(values), 0)
    return np.array(values), best[1]

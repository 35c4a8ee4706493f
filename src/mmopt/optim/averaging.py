"""Averages of iterates, in which the noise of a high rate cancels: the last ones count most, and no end need be known."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

EVERY = 10  # steps between two iterates that enter: neighbours differ little, and each costs a pass over the parameters


def weight(n: int | Tensor, power: float) -> float | Tensor:
    """Return how much the ``n``-th iterate (from 1) counts in the average of the first ``n``.

    The k-th iterate then has a weight of about ``k**power``: the average forgets the beginning at any time by itself,
    and at ``power=8`` spans about the last ninth of the way. ``power=0`` is the plain mean.

    References
    ----------
    Shamir and Zhang, "Stochastic gradient descent for non-smooth optimization", ICML 2013.
    """
    return (power + 1) / (n + power)


def accumulator(p: Tensor) -> Tensor:
    """Return a place for the average of ``p``, in at least single precision: smaller weights would be rounded away."""
    return p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)


class WeightAverage:
    """Average of parameters beside an optimizer that keeps none; used like one that does.

    Parameters
    ----------
    parameters
        What to average.
    power, every
        See :func:`weight`; every so many calls of :meth:`update` the parameters enter.
    """

    def __init__(self, parameters: Iterable[Tensor], power: float, every: int = EVERY):
        self.parameters, self.power, self.every = list(parameters), power, every
        self.calls = 0
        self.averages: list[Tensor] = []
        self.iterates: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are after a step."""
        self.calls += 1
        n, due = divmod(self.calls, self.every)
        if due:
            return
        if n == 1:
            self.averages = [accumulator(p) for p in self.parameters]
        for average, p in zip(self.averages, self.parameters, strict=True):
            average.lerp_(p.to(average.dtype), weight(n, self.power))

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average in the place of the parameters; nothing happens before there is one."""
        if self.averages and not self.iterates:
            self.iterates = [p.detach().clone() for p in self.parameters]
            _put(self.averages, self.parameters)

    @torch.no_grad()
    def train(self) -> None:
        """Put the parameters back."""
        if self.iterates:
            _put(self.iterates, self.parameters)
            self.iterates = []

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """Return the state in training."""
        return {"calls": self.calls, "averages": self.averages}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Go on from a state."""
        self.calls = state["calls"]
        self.averages = [a.to(p.device) for a, p in zip(state["averages"], self.parameters, strict=False)]


class KeepsAverage:
    """What an optimizer needs to keep the average itself, so that it is saved and loaded with it.

    Its groups hold ``averaging`` (the power, or ``None``), ``t`` (steps), ``n_averaged`` and ``evaluating``; the state of a
    parameter holds ``average``, and ``iterate`` while the average is in the place of the parameter.
    """

    param_groups: list[dict[str, Any]]
    state: dict[Tensor, dict[str, Tensor]]

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average of the iterates in the place of the parameters; before the tenth step nothing changes."""
        for group in self.param_groups:
            if group["averaging"] is None or group["evaluating"] or not group["n_averaged"]:
                continue
            group["evaluating"] = True
            for p, state in self._averaged(group):
                state["iterate"] = p.detach().clone()
                p.copy_(state["average"])

    @torch.no_grad()
    def train(self) -> None:
        """Put the parameters back as they were after the last step."""
        for group in self.param_groups:
            if group["evaluating"]:
                group["evaluating"] = False
                for p, state in self._averaged(group):
                    p.copy_(state.pop("iterate"))

    def _averaged(self, group: dict[str, Any]) -> list[tuple[Tensor, dict[str, Tensor]]]:
        return [(p, self.state[p]) for p in group["params"] if "average" in self.state.get(p, {})]

    def _refuse_evaluating(self, group: dict[str, Any]) -> None:
        if group["evaluating"]:
            raise RuntimeError(
                "The parameters are their average now: call optimizer.train() before the next step."
            )

    def _average(self, group: dict[str, Any]) -> None:
        """Let every tenth iterate enter the average."""
        due = group["t"] % EVERY == 0
        if group["averaging"] is None or not (group["capturable"] or due):
            return
        group["n_averaged"] += due
        share = weight(group["n_averaged"], group["averaging"])
        if group["capturable"]:  # no branch: between two that enter, an iterate has no weight
            share = torch.where(due, share, 0.0)
        for p, state in self._averaged(group):
            average = state["average"]
            if isinstance(share, Tensor):
                average.lerp_(p.to(average.dtype), share.to(average.device, average.dtype))
            else:
                average.lerp_(p.to(average.dtype), share)

    def _load_averages(self, state_dict: dict[str, Any]) -> None:
        """Take the averages from a state once more, in :func:`accumulator`'s precision: torch casts to the parameters'."""
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        for name, p in zip(names, (p for group in self.param_groups for p in group["params"]), strict=True):
            if "average" in state_dict["state"].get(name, {}):
                saved, dtype = (
                    state_dict["state"][name]["average"],
                    torch.promote_types(p.dtype, torch.float32),
                )
                self.state[p]["average"] = saved.to(p.device, dtype, copy=True)


def keeps_average(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer keeps an average of its iterates, which its ``eval()`` puts in the place of the parameters."""
    groups = optimizer.param_groups
    return hasattr(optimizer, "eval") and any(group.get("averaging", True) is not None for group in groups)


def _put(values: list[Tensor], parameters: list[Tensor]) -> None:
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)

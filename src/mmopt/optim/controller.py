"""The controller of a base rate: hears the votes, and every few steps moves the rate inside its bounds.

Its memory lives in the parameter group, as tensors on the parameters' device, so that it travels with checkpoints and
a step never waits for the device: ``base_rate`` (A), ``alpha`` (the rate of the last step), ``votes`` (sum of S and
number of steps that voted in this window), ``voters`` (coordinates that vote), ``agreement`` (mean S of the last window), ``t`` (steps) and ``base_lr``.
A is kept in float64 where the device has it, so that it can equal a bound, or ``lr``, bit for bit.
"""

from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]

ONE_MOVE = 0.03  # how far the mean vote lies from the threshold when the rate moves by one whole factor
MOST_MOVES = 6.0  # upwards in one window: far below the right rate the votes leave no doubt
NO_CHANCE = (
    4.0  # standard errors of a vote by coin: below, a few coordinates by chance would drive the rate upwards
)
START, FEW = (
    50,
    3,
)  # in the first 50 steps, three votes that leave no doubt need not wait for the end of the window


def start(group: Group) -> None:
    """Give the group a controller at the beginning of its path, at ``lr`` clipped to the bounds."""
    sizes = [p.numel() for p in group["params"]]
    if group["scope"] == "group":
        sizes = [sum(sizes)]
    size = len(sizes)
    rate = float(group["lr"])
    group["base_lr"] = rate
    if group["switch_rule"] != "none":
        rate = min(max(rate, group["alpha_min"]), group["alpha_max"])
    group["base_rate"] = torch.full((size,), rate, dtype=torch.float64)
    group["alpha"] = group["base_rate"].clone()
    group["votes"] = torch.zeros(size, 2, dtype=torch.float64)
    group["voters"] = torch.tensor(sizes, dtype=torch.float64).clamp(1, group["max_votes"])
    group["agreement"] = torch.full((size,), torch.nan, dtype=torch.float64)
    group["t"] = 0
    group["n_averaged"] = 0
    group["evaluating"] = False
    place(group)


def place(group: Group) -> None:
    """Move the controller to the device of the parameters, and its step count where graph capture can see it."""
    device = group["params"][0].device if group["params"] else torch.device("cpu")
    dtype = torch.float32 if device.type == "mps" else torch.float64
    for name in ("base_rate", "alpha", "votes", "voters", "agreement"):
        group[name] = group[name].to(device=device, dtype=dtype)
    for name in ("t", "n_averaged"):
        if group["capturable"]:
            group[name] = torch.as_tensor(group[name], dtype=torch.int64).to(device)
        else:
            group[name] = int(group[name])


def listen(group: Group, heard: Tensor) -> None:
    """Take in one step's votes, (n, 2) with S and whether anything voted; at the end of a window, decide."""
    if heard.device != group["votes"].device:
        place(group)
    group["votes"] += heard
    whole = group["t"] % group["switch_interval"] == 0
    if group["capturable"] or whole or group["t"] <= START:
        _decide(group, whole)


def _decide(group: Group, whole: bool | Tensor) -> None:
    """Close the window if it is ``whole``, or clear at the start: no branch, so that a captured graph decides as well."""
    rate, (sums, n) = group["base_rate"], group["votes"].unbind(1)
    # steps without a vote (all gradients zero) say nothing; counted as S = 0 they would raise the rate
    mean = sums / n.clamp(min=1)
    moves = (mean - group["threshold"]) / ONE_MOVE
    most = torch.where(moves * ONE_MOVE * (n * group["voters"]).sqrt() > NO_CHANCE, MOST_MOVES, 1.0)
    clear = (moves >= MOST_MOVES) & (most > 1) & (n >= FEW) & (group["t"] <= START)
    if group["switch_rule"] == "switch":
        clear = torch.zeros_like(clear)
        moved = torch.full_like(rate, group["alpha_min"]).masked_fill(moves > 0, group["alpha_max"])
    else:
        moved = rate * group["switch_factor"] ** moves.clamp(min=-1).minimum(most)
        moved = moved.clamp(group["alpha_min"], group["alpha_max"])
    closed = (clear | whole) & (n > 0)
    rate.copy_(torch.where(closed & (clear | (group["t"] >= group["warmup_steps"])), moved, rate))
    group["agreement"].copy_(torch.where(closed, mean, group["agreement"]))
    group["votes"].masked_fill_((clear | whole).unsqueeze(1), 0.0)


def effective(group: Group) -> Tensor:
    """Rates of this step: base rate, times what a scheduler made of ``lr``, times the warm-up."""
    scale = group["lr"] / group["base_lr"]
    if group["capturable"]:
        warm = (group["t"].to(group["alpha"].dtype) / max(group["warmup_steps"], 1)).clamp(max=1)
    else:
        warm = min(1.0, group["t"] / max(group["warmup_steps"], 1))
    return torch.mul(group["base_rate"], scale * warm, out=group["alpha"])

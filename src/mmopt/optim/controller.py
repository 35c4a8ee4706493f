"""The controller of a base rate: hears the votes, and every few steps moves the rate inside its bounds.

Its memory lives in the parameter group, as tensors on the parameters' device, so that it travels with checkpoints and
a step never waits for the device: ``base_rate`` (A), ``alpha`` (the rate of the last step), ``votes`` (sum of S and
number of steps that voted in this window), ``agreement`` (mean S of the last window), ``t`` and ``base_lr``.
A is kept in float64 where the device has it, so that it can equal a bound, or ``lr``, bit for bit.
"""

from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]


def start(group: Group) -> None:
    """Give the group a controller at the beginning of its path, at ``lr`` clipped to the bounds."""
    size = len(group["params"]) if group["scope"] == "tensor" else 1
    rate = float(group["lr"])
    group["base_lr"] = rate
    if group["switch_rule"] != "none":
        rate = min(max(rate, group["alpha_min"]), group["alpha_max"])
    group["base_rate"] = torch.full((size,), rate, dtype=torch.float64)
    group["alpha"] = group["base_rate"].clone()
    group["votes"] = torch.zeros(size, 2, dtype=torch.float64)
    group["agreement"] = torch.full((size,), torch.nan, dtype=torch.float64)
    group["t"] = 0
    place(group)


def place(group: Group) -> None:
    """Move the controller to the device of the parameters, and its step count where graph capture can see it."""
    device = group["params"][0].device if group["params"] else torch.device("cpu")
    dtype = torch.float32 if device.type == "mps" else torch.float64
    for name in ("base_rate", "alpha", "votes", "agreement"):
        group[name] = group[name].to(device=device, dtype=dtype)
    if group["capturable"]:
        group["t"] = torch.as_tensor(group["t"], dtype=torch.int64).to(device)
    else:
        group["t"] = int(group["t"])


def listen(group: Group, heard: Tensor) -> None:
    """Take in one step's votes, (n, 2) with S and whether anything voted; at the end of a window, decide."""
    if heard.device != group["votes"].device:
        place(group)
    group["t"] += 1
    group["votes"] += heard
    due = group["t"] % group["switch_interval"] == 0
    if group["capturable"]:
        _decide(group, due)
    elif due:
        _decide(group, torch.ones((), dtype=torch.bool, device=heard.device))


def _decide(group: Group, due: Tensor) -> None:
    """Close the window where ``due``: no branch, so that a captured graph decides as well."""
    rate, votes = group["base_rate"], group["votes"]
    # steps without a vote (all gradients zero) say nothing; counted as S = 0 they would raise the rate
    mean = votes[:, 0] / votes[:, 1].clamp(min=1)
    due_and_heard = due & (votes[:, 1] > 0)
    if group["switch_rule"] == "switch":
        moved = torch.full_like(rate, group["alpha_min"])
        moved = moved.masked_fill(mean > group["threshold"], group["alpha_max"])
    else:
        moved = rate * group["switch_factor"] ** torch.sign(mean - group["threshold"])
        moved = moved.clamp(group["alpha_min"], group["alpha_max"])
    warm = group["t"] >= group["warmup_steps"]
    rate.copy_(torch.where(due_and_heard & warm, moved, rate))
    group["agreement"].copy_(torch.where(due_and_heard, mean, group["agreement"]))
    votes.mul_(~due)


def effective(group: Group) -> Tensor:
    """Rates of this step: base rate, times what a scheduler made of ``lr``, times the warm-up."""
    scale = group["lr"] / group["base_lr"]
    if group["capturable"]:
        warm = (group["t"].to(group["alpha"].dtype) / max(group["warmup_steps"], 1)).clamp(max=1)
    else:
        warm = min(1.0, group["t"] / max(group["warmup_steps"], 1))
    return torch.mul(group["base_rate"], scale * warm, out=group["alpha"])

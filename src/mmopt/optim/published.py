"""The two switching rules as they were published, kept to be compared with; neither adapts a rate usefully.

``published`` compares mean|H| with mean(H), where H is an average of squares: they are the same number, a tie, and a
tie selects alpha_max, always. ``published_sc`` counts the coordinates whose H grew; because H starts at zero and is not
bias-corrected, it selects alpha_min for the first hundreds of steps (beta2 sets how many) and alpha_max ever after.
Both take Adam's step without its bias correction.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def published_step(
    rule: str,
    members: Sequence[tuple[dict[str, Any], Sequence[Tensor]]],
    state: Mapping[Tensor, dict[str, Tensor]],
) -> None:
    """Update all parameters that follow ``rule``, given with their groups; all of them vote on one decision."""
    count_max, count_min = 0, 0
    for group, parameters in members:
        for p in parameters:
            for_max, for_min = _advance(rule, p, state[p], group)
            count_max, count_min = count_max + for_max, count_min + for_min
    for group, parameters in members:
        rate = group["base_rate"]
        to_min = (count_max < count_min).to(rate.device)
        rate.fill_(group["alpha_max"]).masked_fill_(to_min, group["alpha_min"])
        group["alpha"].copy_(rate)
        for p in parameters:
            alpha = rate[0].to(p.device)
            real, n, H = _real(p, state[p]["exp_avg"], _second_moment(state[p], group))
            if group["weight_decay"]:
                real.mul_(1 - alpha * group["weight_decay"])
            real.sub_(n / _denominator(rule, H, state[p]["step"], group) * alpha)


def _advance(rule: str, p: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Update the moments of one tensor; its votes for alpha_max and for alpha_min."""
    beta1, beta2 = group["betas"]
    g, n, H = _real(p.grad, state["exp_avg"], state["exp_avg_sq"])
    if group["maximize"]:
        g = -g
    before = H.clone() if rule == "published_sc" else None
    state["step"] += 1
    n.lerp_(g, 1 - beta1)
    H.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    if group["amsgrad"]:
        (largest,) = _real(state["max_exp_avg_sq"])
        torch.maximum(largest, H, out=largest)
    if before is not None:
        growth = H - before
        return (growth <= 0).sum(), (growth > 0).sum()
    f_min = (torch.sign(H.abs().mean() - H.mean()) + 1) / 2
    f_max = (torch.sign(H.mean() - H.abs().mean()) + 1) / 2
    return (f_max != 0).sum(), (f_min != 0).sum()


def _denominator(rule: str, H: Tensor, step: Tensor, group: dict[str, Any]) -> Tensor:
    if rule == "published":
        return H.sqrt() + group["eps"]
    delta, tau = group["damping"]
    delta = delta / step.to(torch.promote_types(H.dtype, torch.float32))
    if group["amsgrad"]:
        return (H.clamp(min=tau) + delta).sqrt()
    lift = (tau - H.min()).clamp(min=0) if H.numel() else 0.0
    return (H + lift + delta).sqrt() + group["eps"]


def _second_moment(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    return state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]


def _real(*tensors: Tensor) -> list[Tensor]:
    return [torch.view_as_real(x) if x.is_complex() else x for x in tensors]

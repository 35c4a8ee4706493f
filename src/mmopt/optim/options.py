"""What an optimizer of this package accepts, checked for every parameter group."""

import warnings
from collections.abc import Iterable
from math import isfinite
from numbers import Real
from typing import Any

RULES = ("agreement", "switch", "published", "published_sc", "none")
PUBLISHED = ("published", "published_sc")
SCOPES = ("group", "tensor")
DOCUMENTATION = "https://mmopt.readthedocs.io/en/latest/optimizers.html"

Check = tuple[str, bool, str]


def plain(group: dict[str, Any]) -> dict[str, Any]:
    """Return the group with Python's numbers for NumPy's, with which a checkpoint is not read by ``weights_only=True``."""

    def number(value: Any) -> Any:
        return value.item() if isinstance(value, Real) and hasattr(value, "item") else value

    return {
        name: type(value)(map(number, value)) if isinstance(value, tuple | list) else number(value)
        for name, value in group.items()
    }


def refuse(optimizer: str, group: dict[str, Any], checks: Iterable[Check]) -> None:
    """Raise a ValueError for the first check (argument, whether it holds, what is accepted) that does not hold."""
    for name, holds, accepted in checks:
        if not holds:
            raise ValueError(f"{optimizer}: {name}={group[name]!r} is not accepted; give {accepted}.")


def _number(value: Any, low: float, high: float = float("inf")) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and isfinite(value)
        and low <= value <= high
    )


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def adam_checks(group: dict[str, Any]) -> list[Check]:
    """Return the checks of the arguments all Adam-like optimizers share."""
    betas = group["betas"]
    pair = isinstance(betas, tuple | list) and len(betas) == 2
    return [
        ("betas", pair and all(_number(b, 0) and b < 1 for b in betas), "two numbers in [0, 1)"),
        ("eps", _number(group["eps"], 0), "a finite number >= 0"),
        ("weight_decay", _number(group["weight_decay"], 0), "a finite number >= 0"),
    ]


def rate_check(group: dict[str, Any], *, positive: bool) -> Check:
    """Return the check of ``lr``, a number or a one-element tensor; a rate that others are measured by must not be zero."""
    lr = group["lr"]
    value = float(lr) if getattr(lr, "numel", lambda: 0)() == 1 else lr
    if positive:
        return "lr", _number(value, 0) and value > 0, "a finite number > 0"
    return "lr", _number(value, 0), "a finite number >= 0"


def asgd_checks(group: dict[str, Any]) -> list[Check]:
    """Return the checks of the arguments of ASGDAdam and ASGDAMSGrad."""
    low, high = group["alpha_min"], group["alpha_max"]
    return [
        ("switch_rule", group["switch_rule"] in RULES, f"one of {', '.join(RULES)}"),
        rate_check(group, positive=group["switch_rule"] != "none"),
        *adam_checks(group),
        ("switch_interval", _whole(group["switch_interval"], 1), "a whole number of steps >= 1"),
        ("alpha_min", _number(low, 0) and low > 0, "a finite number > 0"),
        ("alpha_max", _number(high, 0) and high > 0, "a finite number > 0"),
        (
            "alpha_max",
            not (_number(low, 0) and _number(high, 0)) or low <= high,
            f"a number >= alpha_min, which is {low!r}",
        ),
        (
            "switch_factor",
            _number(group["switch_factor"], 1) and group["switch_factor"] > 1,
            "a finite number > 1",
        ),
        ("threshold", _number(group["threshold"], -1, 1), "a number in [-1, 1]"),
        ("warmup_steps", _whole(group["warmup_steps"], 0), "a whole number of steps >= 0"),
        ("scope", group["scope"] in SCOPES, f"one of {', '.join(SCOPES)}"),
        (
            "averaging",
            group["averaging"] is None or _number(group["averaging"], 0),
            "a finite number >= 0, or None",
        ),
        ("max_votes", _whole(group["max_votes"], 1), "a whole number of coordinates >= 1"),
        ("damping", _pair_of_positives(group["damping"]), "two finite numbers > 0, (delta, tau)"),
        ("fused", not (group["fused"] and group["foreach"]), "fused=True or foreach=True, not both"),
        (
            "weight_decay",
            group["decoupled_weight_decay"]
            or not group["weight_decay"]
            or group["switch_rule"] not in PUBLISHED,
            "0, or decoupled_weight_decay=True: the published rules have no coupled weight decay",
        ),
    ]


def _pair_of_positives(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(_number(v, 0) and v > 0 for v in value)


def warn_of_rate(group: dict[str, Any]) -> None:
    """Tell the user of a rate that will not be used as given."""
    rule, low, high = group["switch_rule"], group["alpha_min"], group["alpha_max"]
    message = None
    if rule in PUBLISHED:
        message = (
            f"switch_rule={rule!r} reproduces a published rule that does not adapt the rate (it selects alpha_max "
            f"{'always' if rule == 'published' else 'once H is warm'}) and ignores `lr`; see {DOCUMENTATION}."
        )
    elif rule != "none" and not low <= float(group["lr"]) <= high:
        message = (
            f"lr={float(group['lr']):g} lies outside [alpha_min, alpha_max] = [{low:g}, {high:g}] and is clipped to it; "
            "widen the bounds to start there."
        )
    if message:
        # the caller of the constructor: add_param_group and torch's constructor lie between
        warnings.warn(message, UserWarning, stacklevel=5)

"""Padam: between AMSGrad and SGD with momentum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .options import adam_checks, plain, rate_check, refuse


class Padam(Optimizer):
    """Partially adaptive momentum estimation.

    The step is ``lr * n / (sqrt(max H) + eps)**(2 * partial)`` with bias-corrected n and H: AMSGrad at
    ``partial=1/2``, SGD with (bias-corrected) momentum at ``partial=0``. The authors' code scales the whole step by
    ``sqrt(1 - beta2**t)`` whatever ``partial`` is, which holds back the first thousand steps; here the correction sits
    under the power, where it belongs. Weight decay is coupled (added to the gradient).

    Parameters
    ----------
    params
        Parameters, or dicts that define parameter groups.
    lr
        Learning rate, about 10 times SGD's smallest useful rate; far larger than Adam's.
    betas
        Decay of the averages of the gradient and of its square.
    eps
        Added to the root.
    weight_decay
        L2 penalty.
    partial
        Half the power of the root, in [0, 1/2].

    Raises
    ------
    ValueError
        If an argument is out of its range.
    RuntimeError
        If a gradient is sparse.

    References
    ----------
    Chen et al., "Closing the generalization gap of adaptive gradient methods in training deep neural networks",
    IJCAI 2020.

    Examples
    --------
    >>> import torch
    >>> from mmopt.optim import Padam
    >>> optimizer = Padam(torch.nn.Linear(3, 1).parameters(), lr=0.1)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        partial: float = 0.25,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "partial": partial}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, checked like the constructor's arguments."""
        group = plain({**self.defaults, **param_group})
        in_range = isinstance(group["partial"], int | float) and 0 <= group["partial"] <= 0.5
        refuse(
            "Padam",
            group,
            [
                rate_check(group, positive=False),
                *adam_checks(group),
                ("partial", in_range, "a number in [0, 1/2]"),
            ],
        )
        super().add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; ``closure``, where given, recomputes the loss first, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        if p.grad.is_sparse:
            raise RuntimeError("Padam does not support sparse gradients; use a layer with sparse=False.")
        beta1, beta2 = group["betas"]
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["step"] += 1
        t = state["step"].item()
        tensors = (p, p.grad, state["exp_avg"], state["exp_avg_sq"], state["max_exp_avg_sq"])
        p, g, n, H, largest = (torch.view_as_real(x) if x.is_complex() else x for x in tensors)
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        n.lerp_(g, 1 - beta1)
        H.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        torch.maximum(largest, H, out=largest)
        root = (largest.sqrt() / (1 - beta2**t) ** 0.5).add_(group["eps"])
        p.addcdiv_(n, root.pow_(2 * group["partial"]), value=-float(group["lr"]) / (1 - beta1**t))

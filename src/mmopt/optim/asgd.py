"""Adam and AMSGrad whose base rate moves between two bounds, by the agreement of gradient and momentum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from . import controller
from .agreement import agreement
from .averaging import KeepsAverage, accumulator
from .implementation import choose_implementation
from .options import PUBLISHED, asgd_checks, plain, refuse, warn_of_rate
from .published import published_step


class ASGDAdam(KeepsAverage, Optimizer):
    """Adam with a base rate that adjusts itself between ``alpha_min`` and ``alpha_max``.

    At every step each coordinate votes: does its new gradient point along its momentum (the path is straight, a
    larger rate is safe) or against it (the path oscillates)? Every ``switch_interval`` steps the mean vote S, in
    [-1, 1], moves the base rate A::

        agreement     A <- clip(A * switch_factor**clip((S - threshold) / 0.03, -1, m), alpha_min, alpha_max)
        switch        A <- alpha_max if S > threshold else alpha_min
        none          A = lr: exactly torch's Adam
        published     the rule as published: A = alpha_max always, no bias correction
        published_sc  its strongly convex variant: alpha_min while H warms up, then alpha_max, no bias correction

    and the step is torch's own Adam step with the rate ``alpha = A * (lr now / lr at the start) * min(1, t /
    warmup_steps)``. Learning-rate schedulers thus scale the whole band and may bring the rate to zero.

    Beside the iterates their average is kept, in which the noise of a high rate cancels. It is there for the asking::

        optimizer.eval()   # the parameters are now the average: validate, save, use them
        optimizer.train()  # the parameters are the iterates again; a step is refused before

    What to expect: about the result of a well tuned Adam without tuning, provided the bounds bracket the right rate. On
    six problems, evaluated at the average, it was better than tuned Adam at its last iterate in 10 of 12 comparisons (2
    ties) after 30 and 100 epochs, and in 1 of 4 after 400 (1 tie, 2 worse). Beside tuned Adam with the same average: 1
    better, 8 ties, 7 worse of 16.

    Parameters
    ----------
    params
        Parameters, or dicts that define parameter groups; every group has its own controller and may have its own
        bounds, rate and rule.
    lr
        Rate to start from, clipped to the bounds. The published rules ignore it.
    betas, eps, weight_decay
        As in :class:`torch.optim.AdamW`.
    switch_interval
        Steps between two decisions.
    alpha_min, alpha_max
        Bounds of the base rate.
    switch_rule
        How the base rate is chosen, see above.
    switch_factor
        Factor of one move under ``"agreement"``. At most one move is made downwards, and upwards ``m``: one, or six where
        the vote is no chance (four standard errors of as many coins). Far below the right rate the vote is so clear; in
        the first 50 steps three votes then suffice for a move.
    threshold
        Mean vote at which the rate stays. Negative, because without-replacement batches disagree by up to 2.7 /
        (batches per epoch) even when nothing is wrong, and because at the average a rate that is too high costs little
        and one that is too low much.
    warmup_steps
        Steps of linear warm-up, in which the base rate moves on a clear vote only. The rule ``"none"`` has none.
    scope
        ``"group"``: one base rate per parameter group. ``"tensor"``: one per parameter tensor, updated one by one.
    averaging
        Power of the weights with which the iterates enter the average, every tenth one: at 8 it spans about the last
        ninth of the way, at 0 all of it. ``None`` keeps no average and saves its memory, one copy of the parameters.
    decoupled_weight_decay
        Whether weight decay acts on the parameters (AdamW) or through the gradient (Adam).
    maximize
        Climb instead of descend.
    foreach, fused, capturable
        As in :class:`torch.optim.Adam`, except that the fused form is the default wherever torch has one. With
        ``capturable`` the whole step can be captured in a CUDA graph (give ``lr`` as a tensor if a scheduler changes
        it). The published rules use a plain loop whatever is given.
    max_votes
        Up to this many coordinates of a group (or tensor) all vote; in a larger one an evenly spread, moving sample
        of about this size does, which keeps a step at 1.1 (10 million parameters) to 1.7 times (1.3 million) fused Adam's; 2.9 times with
        24 thousand.
    damping
        ``(delta, tau)`` of ``"published_sc"``.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the parameters are sharded: each rank would hear other coordinates and
        the rates would drift apart. Plain data-parallel training is fine, all ranks hear the same gradients;
        ``ZeroRedundancyOptimizer``, which deals out whole tensors, does as one process would with ``scope="tensor"``.
    RuntimeError
        If a gradient is sparse.

    Notes
    -----
    NaN gradients do not vote, infinite ones vote with their sign: neither harms the base rate, but both ruin the
    moments, as in Adam. Steps in which no coordinate votes (zero gradients) are left out of the mean.

    Limits: few batches per epoch and no other noise than theirs (the bias above), sparse gradients with a penalty inside
    the loss, moving objectives (KL warm-up, adversarial terms).

    References
    ----------
    The frame (a rate that switches between two bounds) is that of enhanced adaptive stochastic gradient descent;
    the vote descends from delta-bar-delta (Jacobs 1988), Rprop (Riedmiller and Braun 1993) and hypergradient descent
    (Baydin et al. 2018). Averaging: Polyak and Juditsky 1992, with the weights of Shamir and Zhang 2013. Adam: Kingma
    and Ba 2015.

    Examples
    --------
    >>> import torch
    >>> from mmopt.optim import ASGDAdam
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = ASGDAdam(model.parameters(), lr=1e-3)
    >>> model(torch.ones(2, 3)).sum().backward()
    >>> optimizer.step()
    >>> [rate.item() for rate in optimizer.base_rates()]
    [0.001]
    """

    _amsgrad = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        switch_interval: int = 10,
        alpha_min: float = 1e-4,
        alpha_max: float = 2e-2,
        switch_rule: str = "agreement",
        switch_factor: float = 1.25,
        threshold: float = -0.06,
        warmup_steps: int = 10,
        scope: str = "group",
        averaging: float | None = 8.0,
        decoupled_weight_decay: bool = True,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        max_votes: int = 2**16,
        damping: tuple[float, float] = (1e-8, 1e-8),
    ) -> None:
        options = {
            name: value for name, value in locals().items() if name not in ("self", "params", "__class__")
        }
        super().__init__(params, {**options, "amsgrad": self._amsgrad})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with a controller of its own, checked like the constructor's arguments."""
        complete = plain({**self.defaults, **param_group})
        refuse(type(self).__name__, complete, asgd_checks(complete))
        super().add_param_group(complete)
        group = self.param_groups[-1]
        try:
            choose_implementation(group)
        except ValueError:
            self.param_groups.pop()
            raise
        group["amsgrad"] = self._amsgrad
        controller.start(group)
        warn_of_rate(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; ``closure``, where given, recomputes the loss first, which is returned."""
        # a step that is refused must not have moved some of the groups: all are looked at before the first update
        for group in self.param_groups:
            self._refuse_evaluating(group)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving: list[tuple[dict[str, Any], list[Tensor]]] = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                self._prepare(p, group)
            if params:
                moving.append((group, params))
        published: dict[str, list[tuple[dict[str, Any], list[Tensor]]]] = {}
        for group, params in moving:
            group["t"] += 1
            if group["switch_rule"] in PUBLISHED:
                published.setdefault(group["switch_rule"], []).append((group, params))
            elif group["switch_rule"] == "none":
                group["alpha"].fill_(group["lr"])
                self._adam(params, group["lr"], group)
            else:
                whole = group["scope"] == "group"
                heard_together = (
                    [params] if whole else [[p] if p.grad is not None else [] for p in group["params"]]
                )
                for members, rate in zip(heard_together, self._rates(heard_together, group), strict=True):
                    if members:
                        self._adam(members, rate, group)
        for rule, members in published.items():
            published_step(rule, members, self.state)
        for group, _ in moving:
            self._average(group)
        return loss

    def alphas(self) -> list[Tensor]:
        """Return the rates of the last step, schedulers and warm-up included: one 0-dim tensor per controller.

        There is one controller per group, or per parameter with ``scope="tensor"``. The tensors are copies on the
        parameters' device; nothing waits for it before they are read.
        """
        return self._read("alpha")

    def base_rates(self) -> list[Tensor]:
        """Return the base rates A, always within their bounds: one tensor each, see :meth:`alphas`."""
        return self._read("base_rate")

    def agreements(self) -> list[Tensor]:
        """Return the mean votes S of the last whole window, NaN before it: one tensor each, see :meth:`alphas`."""
        return self._read("agreement")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; one written by torch's Adam gives moments and step counts, the settings stay as they are."""
        before = [
            {name: value for name, value in group.items() if name != "params"} for group in self.param_groups
        ]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, before, strict=True):
            states = [self.state[p] for p in group["params"] if p in self.state]
            if "base_rate" not in group:
                params, names = group["params"], group.get("param_names")
                group.clear()
                group.update(own, params=params, t=max((int(s["step"]) for s in states), default=0))
                group.update(n_averaged=0, evaluating=False)  # torch's state has no average: it begins anew
                if names is not None:
                    group["param_names"] = names
            group["amsgrad"] = self._amsgrad
            controller.place(group)
            for p in group["params"]:
                if p in self.state:
                    self._complete(p, group)
        self._load_averages(state_dict)

    def _read(self, name: str) -> list[Tensor]:
        return [value for group in self.param_groups for value in group[name].clone().unbind()]

    def _prepare(self, p: Tensor, group: dict[str, Any]) -> None:
        if p.grad.is_sparse:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients; use a layer with sparse=False, "
                "or torch.optim.SparseAdam for these parameters."
            )
        if p.is_cuda and not group["capturable"] and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"To capture a step in a CUDA graph, give {type(self).__name__} capturable=True."
            )
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
            self._complete(p, group)

    def _complete(self, p: Tensor, group: dict[str, Any]) -> None:
        """Bring a new or loaded state into the form this group works with."""
        state = self.state[p]
        on_device = group["fused"] or group["capturable"]
        state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(
            p.device if on_device else "cpu"
        )
        if group["amsgrad"] and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()
        if group["averaging"] is not None and "average" not in state:
            state["average"] = accumulator(p)

    def _rates(self, heard_together: list[list[Tensor]], group: dict[str, Any]) -> list[float | Tensor]:
        """Let the parameters of each controller vote; the rates of this step."""
        controller.listen(group, torch.stack([self._vote(params, group) for params in heard_together]))
        alpha = controller.effective(group)
        if alpha.is_cpu and not group["capturable"]:
            return alpha.tolist()
        # torch's fused kernels read a rate on an accelerator as float32
        return list((alpha if alpha.is_cpu else alpha.float()).unbind())

    def _vote(self, params: list[Tensor], group: dict[str, Any]) -> Tensor:
        if not params:
            return group["votes"].new_zeros(2)
        coupled = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
        return agreement(
            [p.grad for p in params],
            [self.state[p]["exp_avg"] for p in params],
            turn=group["t"],
            max_votes=group["max_votes"],
            maximize=group["maximize"],
            weight_decay=coupled,
            parameters=params if coupled else (),
        )

    def _adam(self, params: list[Tensor], lr: float | Tensor, group: dict[str, Any]) -> None:
        states = [self.state[p] for p in params]
        update = adamw if group["decoupled_weight_decay"] and group["weight_decay"] else adam
        update(
            params,
            [p.grad for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            foreach=group["foreach"],
            fused=group["fused"],
            capturable=group["capturable"],
            has_complex=any(p.is_complex() for p in params),
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=lr,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )


class ASGDAMSGrad(ASGDAdam):
    """AMSGrad with a base rate that adjusts itself: :class:`ASGDAdam`, divided by the largest second moment so far.

    Parameters, rules and limits are those of :class:`ASGDAdam`.

    References
    ----------
    AMSGrad: Reddi, Kale and Kumar, "On the convergence of Adam and beyond", ICLR 2018.

    Examples
    --------
    >>> import torch
    >>> from mmopt.optim import ASGDAMSGrad
    >>> optimizer = ASGDAMSGrad(torch.nn.Linear(3, 1).parameters(), lr=1e-3, alpha_max=3e-2)
    """

    _amsgrad = True

"""Stop training at the first non-finite loss, say which modality went first, and keep the last finite state."""

import math

import torch
from torch import Tensor, nn


class NonFiniteLossError(ValueError):
    """The training loss became NaN or infinite; the model holds its last finite state."""

    def __init__(self, term: str, step: int):
        self.term, self.step = term, step
        modality = term.removeprefix("nll_")
        super().__init__(
            f"the loss of {modality!r} became NaN or infinite at step {step}; the model was restored to its last finite "
            f"state. Try a lower learning rate (lr=1e-4, or optimizer_kwargs=dict(alpha_max=1e-3) for the ASGD "
            f"optimizers), and look for outlier cells or features in {modality!r} (mm.pp.prepare(mdata))."
        )


class FiniteGuard:
    """Keep a copy of the last finite parameters, and the order in which loss terms stopped being finite.

    On a CPU every step is looked at. An accelerator would have to wait for each step to be looked at, and processes that
    train together for each other, so there the terms are collected and looked at once an epoch.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.saved: dict[str, Tensor] = {}
        self.first_bad: dict[str, Tensor] = {}

    @torch.no_grad()
    def save(self) -> None:
        state = self.module.state_dict()
        if all(bool(torch.isfinite(v).all()) for v in state.values() if v.is_floating_point()):
            self.saved = {k: v.clone() for k, v in state.items()}

    @torch.no_grad()
    def watch(self, terms: dict[str, Tensor], step: int, together: bool = False) -> None:
        """Note the step at which a term was first non-finite; if ``"total"`` is finite, so are its parts.

        ``together``: other processes train too.
        """
        at_once = next(iter(terms.values())).device.type == "cpu" and not together
        if at_once and "total" in terms and math.isfinite(terms["total"].item()):
            return
        for name, value in terms.items():
            now = torch.where(torch.isfinite(value).all(), torch.inf, float(step))
            self.first_bad[name] = torch.minimum(self.first_bad[name], now) if name in self.first_bad else now
        if at_once:
            self.check()

    def check(self, together: bool = False) -> None:
        """Restore and raise if any term was non-finite so far, ``together`` in all processes and with the same error."""
        if together:
            first = torch.stack(list(self.first_bad.values()))
            torch.distributed.all_reduce(first, torch.distributed.ReduceOp.MIN)
            self.first_bad = dict(zip(self.first_bad, first, strict=True))
        steps = {name: float(v) for name, v in self.first_bad.items()}
        if not steps or min(steps.values()) == float("inf"):
            return
        term = min(steps, key=steps.get)
        self._stop(term, int(steps[term]))

    @torch.no_grad()
    def check_end(self, held_out: dict[str, float], step: int) -> None:
        """Restore and raise if an epoch's last step, whose outcome no loss has seen yet, left something non-finite.

        Parameters
        ----------
        held_out
            Means over the held-out cells; empty if there are none.
        step
            Number of that step.
        """
        state = self.module.state_dict()
        broken = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
        if not broken and math.isfinite(held_out.get("elbo_validation", 0.0)):
            return
        parts = {k.split(".")[1] for k in broken if k.startswith(("encoders.", "decoders."))}
        losses = [
            k.removesuffix("_validation")
            for k, v in held_out.items()
            if k.startswith("nll_") and not math.isfinite(v)
        ]
        self._stop(parts.pop() if len(parts) == 1 else (losses or ["total"])[0], step)

    def _stop(self, term: str, step: int) -> None:
        if self.saved:
            self.module.load_state_dict(self.saved)
        raise NonFiniteLossError(term, step)

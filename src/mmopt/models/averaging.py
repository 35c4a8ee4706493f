"""An exponential moving average of the parameters over the second half of training, used for validation and at the end."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """Running average of a module's trainable parameters.

    References
    ----------
    Polyak and Juditsky (1992), SIAM J. Control Optim. 30:838.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.decay = decay
        self.average: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        if self.average:
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.decay)
        else:
            self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange parameters and average; twice is where one was. Nothing happens before the first update."""
        for p, a in zip(self.parameters, self.average, strict=False):
            held = p.detach().clone()
            p.copy_(a)
            a.copy_(held)

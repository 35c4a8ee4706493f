"""How far the loss rises within a small ball around a fit."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmopt.curvature.parameters import LossFn, Params, detached, leaves, losses, values


def sharpness(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    rho: float = 0.05,
    *,
    adaptive: bool = False,
    n_steps: int = 1,
    eta: float = 0.01,
) -> dict[str, Any]:
    """Rise of the loss after gradient ascent within a ball of radius ``rho`` (SAM and adaptive SAM).

    Absolute sharpness depends on the scale of the weights: a network whose layers are rescaled against each other
    computes the same but gets another value. The adaptive one does not, up to ``eta``; report both.

    Parameters
    ----------
    loss_fn, params
        Deterministic losses and the parameters to start from; not modified.
    rho
        Radius, in units of the parameters; with ``adaptive``, relative to their size.
    adaptive
        Measure distance after division by ``abs(params) + eta``.
    n_steps
        Projected ascent steps of length ``rho``. One is the first-order SAM; more come closer to the true maximum
        where the gradient at the fit is small, and the highest loss on the way counts.
    eta
        Floor of the adaptive scale, so that parameters near zero can move.

    Returns
    -------
    ``{"sharpness": {key: float}, "n_forwards": int, "n_gradients": int}``: the rise of every loss at the point where
    ``"loss"`` is highest. It is 0 where the gradient vanishes, and can be negative after one step that is too long.

    References
    ----------
    Foret et al., *Sharpness-Aware Minimization for Efficiently Improving Generalization*, ICLR 2021;
    Kwon et al., *ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks*,
    ICML 2021.

    Examples
    --------
    >>> import torch
    >>> sharpness(lambda p: {"loss": p["w"] ** 2}, {"w": torch.tensor(1.0)}, rho=0.5)["sharpness"]
    {'loss': 1.25}
    """
    if not 0 < rho < float("inf") or n_steps < 1 or eta < 0:
        raise ValueError(
            f"rho must be > 0 and finite, n_steps >= 1 and eta >= 0; got {rho}, {n_steps} and {eta}"
        )
    params = detached(params)
    scale = {name: p.abs() + eta if adaptive else torch.ones_like(p) for name, p in params.items()}
    offset = {name: torch.zeros_like(p) for name, p in params.items()}  # in units of the scale
    reached = []
    for _ in range(n_steps):
        point, gradient = _value_and_gradient(loss_fn, _moved(params, scale, offset))
        reached.append(point)
        scaled = {name: scale[name] * gradient[name] for name in params}
        ascent = _to_radius(scaled, rho)
        offset = {name: offset[name] + ascent[name] for name in params}
        if _norm(offset) > rho:
            offset = _to_radius(offset, rho)
    reached.append(values(loss_fn, _moved(params, scale, offset)))
    highest = max(reached[1:], key=lambda point: point["loss"])
    return {
        "sharpness": {key: highest[key] - base for key, base in reached[0].items()},
        "n_forwards": n_steps + 1,
        "n_gradients": n_steps,
    }


def _value_and_gradient(loss_fn: LossFn, params: Params) -> tuple[dict[str, float], Params]:
    with torch.enable_grad():
        start = leaves(params)
        result = losses(loss_fn, start)
        gradient = torch.autograd.grad(result["loss"], list(start.values()), materialize_grads=True)
    return {key: value.item() for key, value in result.items()}, dict(zip(start, gradient, strict=True))


def _moved(params: Params, scale: Params, offset: Params) -> Params:
    return {name: p + scale[name] * offset[name] for name, p in params.items()}


def _norm(direction: Params) -> float:
    return float(torch.stack([torch.linalg.vector_norm(d) for d in direction.values()]).norm())


def _to_radius(direction: Params, rho: float) -> Params:
    norm = _norm(direction)
    return {name: d * (rho / norm) if norm > 0 else d for name, d in direction.items()}

"""Fixed-step integration of a drift, deterministic and stochastic; NumPy arrays or torch tensors alike."""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import numpy as np

Array = TypeVar("Array")
# of the Runge–Kutta method between two times that are wanted
_STEPS = 10


def rk4(drift: Callable[[Array, float], Array], state: Array, times: np.ndarray) -> list[Array]:
    """Integrate ``dx/dt = drift(x, t)`` by the classical Runge–Kutta method.

    Parameters
    ----------
    drift
        State and time to velocity.
    state
        ``(n, d)`` at ``times[0]``.
    times
        When the state is wanted; may also run backwards.

    Returns
    -------
    list
        The state at each of ``times``.

    Examples
    --------
    >>> rk4(lambda x, t: -x, np.array([[1.0]]), np.array([0.0, 1.0]))[-1].round(4).item()
    0.3679
    """
    out = [state]
    for start, stop in pairwise(times):
        h = float(stop - start) / _STEPS
        for step in range(_STEPS):
            t = float(start) + step * h
            first = drift(state, t)
            second = drift(state + first * (h / 2), t + h / 2)
            third = drift(state + second * (h / 2), t + h / 2)
            fourth = drift(state + third * h, t + h)
            state = state + (first + 2 * second + 2 * third + fourth) * (h / 6)
        out.append(state)
    return out


def euler_maruyama(
    drift: Callable[[Array, float], Array],
    noise: Callable[[float], float],
    normal: Callable[[Array], Array],
    state: Array,
    times: np.ndarray,
    n_steps: int = 20,
) -> list[Array]:
    """Integrate ``dx = drift(x, t) dt + noise(t) dW``.

    Parameters
    ----------
    drift, state, times
        As for :func:`rk4`.
    n_steps
        Steps between two of the times.
    noise
        Standard deviation per square root of the unit of time.
    normal
        Gives standard normal numbers of the shape of what it is handed; owns the seed.

    Returns
    -------
    list
        The state at each of ``times``.
    """
    out = [state]
    for start, stop in pairwise(times):
        h = float(stop - start) / n_steps
        for step in range(n_steps):
            t = float(start) + step * h
            state = state + drift(state, t) * h + normal(state) * (noise(t) * h**0.5)
        out.append(state)
    return out

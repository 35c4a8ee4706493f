"""The drift whose state is the regulators: a clamped gene is held inside the dynamics."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmopt._response import FLOOR, Form, expit, log_odds


@dataclass(frozen=True, eq=False)
class Circuit:
    """Regulators and what each of them makes of the others.

    Parameters
    ----------
    weights
        ``(p, p)``: change of the target's log odds per unit of the regulator's occupancy, 0 where there is no edge.
    form
        Occupancy as a function of the level.
    rate
        Turnover per unit of time.
    """

    weights: np.ndarray
    form: Form
    rate: float


def follow(
    circuit: Circuit,
    times: np.ndarray,
    path: np.ndarray,
    clamp: Callable[[float], dict[int, np.ndarray | float]],
    shift: Callable[[float], dict[int, np.ndarray]] | None = None,
    *,
    step: float = 0.1,
) -> np.ndarray:
    """Run the regulators beside an observed path, of which they leave only what the clamp does to them.

    With ``w`` the observed path and ``x`` the clamped one, ``dx = dw + rate (F(x) - F(w) - (x - w)) dt``, where
    ``F(x) = expit(odds(w) + weights (h(x) - h(w)))``: what the network does not explain of a cell stays with it, and
    without a clamp the cell follows what was observed exactly.

    Parameters
    ----------
    circuit
        The regulators.
    times
        ``(n_times,)``, increasing.
    path
        ``(n_times, n_cells, p)`` observed levels; linear in between.
    clamp
        Of the time: regulators that are held, and their levels.
    shift
        Of the time: regulators whose log odds are shifted.
    step
        Longest time step as a share of ``1 / rate``.

    Returns
    -------
    numpy.ndarray
        ``(n_times, n_cells, p)`` levels under the clamp.

    Examples
    --------
    >>> circuit = Circuit(np.array([[0.0, 0.0], [5.0, 0.0]]), Form(2.0, 0.5), 1.0)
    >>> path = np.full((2, 1, 2), 0.8)
    >>> follow(circuit, np.array([0.0, 9.0]), path, lambda t: {0: 0.0})[-1].round(2).tolist()
    [[0.0, 0.06]]
    """
    now = np.array(path[0], dtype=float)
    _hold(now, clamp(float(times[0])))
    out = [now.copy()]
    for t in range(len(times) - 1):
        span = times[t + 1] - times[t]
        n = max(int(np.ceil(span * circuit.rate / step)), 1)
        move = (path[t + 1] - path[t]) / n
        for s in range(n):
            share = s / n
            observed = path[t] + share * (path[t + 1] - path[t])
            odds = log_odds(observed)
            when = float(times[t] + share * span)
            held = clamp(when)
            _hold(now, held)
            push = (circuit.form(now) - circuit.form(np.maximum(observed, 0))) @ circuit.weights.T
            for column, value in (shift(when) if shift else {}).items():
                push[:, column] += value
            answer = (expit(odds + push) - expit(odds)) / (1 - 2 * FLOOR)
            # exact for a constant answer over the step: stable whatever the rate
            decay = -np.expm1(-circuit.rate * span / n)
            now = now + move + decay * (answer - (now - observed))
            np.maximum(now, 0, out=now)
        _hold(now, clamp(float(times[t + 1])))
        out.append(now.copy())
    return np.stack(out)


def _hold(level: np.ndarray, held: dict[int, np.ndarray | float]) -> None:
    for column, value in held.items():
        level[:, column] = value

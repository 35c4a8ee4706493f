"""Ridge regression of many targets at once, each with its own penalty on each regulator."""

from collections.abc import Sequence

import numpy as np

_BLOCK = 512
# a coefficient of this size (targets and regulators have unit variance) keeps its penalty when penalties adapt
_TYPICAL, _OFFSET = 0.3, 0.1
# held-out variance in units of that of the other folds: below this there is nothing to predict, and 0 is no success
_STILL = 1e-6


def ridge(gram: np.ndarray, cross: np.ndarray, penalty: np.ndarray, most: int = 64) -> np.ndarray:
    """Solve ``(gram + diag(penalty[t])) w[t] = cross[t]`` for every target.

    Parameters
    ----------
    gram
        ``(p, p)``, the regulators' covariance.
    cross
        ``(n_targets, p)``, covariance of targets with regulators.
    penalty
        ``(n_targets, p)``, positive.
    most
        Where there are more regulators, only so many enter for each target, those with the largest covariance for
        their penalty; the others get 0. (The cost grows with the third power.)

    Returns
    -------
    numpy.ndarray
        ``(n_targets, p)`` coefficients.

    Examples
    --------
    >>> ridge(np.eye(2), np.array([[1.0, 2.0]]), np.ones((1, 2)))
    array([[0.5, 1. ]])
    """
    p = min(len(gram), most)
    weights = np.zeros_like(cross, dtype=float)
    diagonal = np.arange(p)
    for start in range(0, len(cross), _BLOCK):
        c, k = cross[start : start + _BLOCK], penalty[start : start + _BLOCK]
        chosen = np.argpartition(-np.abs(c) / (1 + k), p - 1, axis=1)[:, :p]
        system = gram[chosen[:, :, None], chosen[:, None, :]]
        system[:, diagonal, diagonal] += np.take_along_axis(k, chosen, 1)
        solved = np.linalg.solve(system, np.take_along_axis(c, chosen, 1)[..., None])[..., 0]
        np.put_along_axis(weights[start : start + _BLOCK], chosen, solved, 1)
    return weights


def adaptive_ridge(
    x: np.ndarray, y: np.ndarray, sample: np.ndarray, penalty: np.ndarray, sign: np.ndarray, rounds: int = 3
) -> np.ndarray:
    """Ridge whose penalties grow on edges that come out small, or against the sign the prior gives them.

    Between ridge and choosing edges: what the data do not ask for is shrunk towards nothing, without a threshold.

    Parameters
    ----------
    x, y
        ``(n_cells, p)`` regulators and ``(n_cells, n_targets)`` responses, in any unit.
    sample
        How often each cell counts, e.g. in a bootstrap; ``(n_cells,)``.
    penalty
        ``(n_targets, p)``, relative to unit variance of regulator and target.
    sign
        ``(n_targets, p)``: sign the prior gives an edge, 0 where it has none.
    rounds
        Fits; 1 is plain ridge.

    Returns
    -------
    numpy.ndarray
        ``(n_targets, p)`` coefficients in the units of ``y`` per unit of ``x``.

    References
    ----------
    Zou H (2006) JASA 101:1418, for penalties that adapt to a first fit.
    """
    used = sample > 0
    weight = sample[used] / sample.sum()
    x, x_scale = _scaled(x[used], weight)
    y, y_scale = _scaled(y[used], weight)
    weighted = x * weight[:, None]
    gram, cross = weighted.T @ x, (weighted.T @ y).T
    adapted = penalty
    for fit in range(rounds):
        weights = ridge(gram, cross, adapted)
        if fit < rounds - 1:
            agreeing = np.where(sign != 0, np.maximum(weights * sign, 0), np.abs(weights))
            adapted = penalty * _TYPICAL / (agreeing + _OFFSET)
    return weights * y_scale[:, None] / x_scale


def choose_penalty(
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    relative: np.ndarray,
    grid: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
) -> tuple[float, dict[float, float], np.ndarray]:
    """Choose the penalty that predicts the other folds best.

    Parameters
    ----------
    folds
        ``(x, y)`` of each; pooled from cells of their own, so that no count is on both sides.
    relative
        ``(n_targets, p)``, penalty of each edge relative to the one chosen.
    grid
        Penalties to choose from.

    Returns
    -------
    penalty, errors, explained
        The best one; the held-out mean squared error of each, targets in units of their variance; and the share of each
        target's held-out variance that the best one explains, ``(n_targets,)``, below 0 where the mean is better and NaN
        where the target does not vary.
    """
    squared = {float(alpha): np.zeros(len(relative)) for alpha in grid}
    around_mean = np.zeros(len(relative))
    for held, (x_test, y_test) in enumerate(folds):
        rest = [fold for number, fold in enumerate(folds) if number != held]
        x_train, y_train = (np.vstack(parts) for parts in zip(*rest, strict=True))
        even = np.full(len(x_train), 1 / len(x_train))
        x, x_scale = _scaled(x_train, even)
        y, y_scale = _scaled(y_train, even)
        gram, cross = x.T @ x / len(x), (x.T @ y / len(x)).T
        x_held, y_held = (x_test - x_train.mean(0)) / x_scale, (y_test - y_train.mean(0)) / y_scale
        around_mean += (y_held**2).mean(0) / len(folds)
        for alpha, error in squared.items():
            error += ((y_held - x_held @ ridge(gram, cross, alpha * relative).T) ** 2).mean(0) / len(folds)
    errors = {alpha: float(error.mean()) for alpha, error in squared.items()}
    best = min(errors, key=errors.get)
    varies = around_mean > _STILL
    return best, errors, np.where(varies, 1 - squared[best] / np.where(varies, around_mean, 1), np.nan)


def _scaled(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = values - weight @ values
    scale = np.sqrt(weight @ centred**2) + 1e-3
    return centred / scale, scale

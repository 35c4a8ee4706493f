"""How much of a predicted change to believe: what the members of an ensemble agree on."""

import numpy as np


def shrink(draws: np.ndarray) -> tuple[np.ndarray, float]:
    """Shrink the mean of an ensemble of predicted changes towards no change; what they disagree on is no change at all.

    Parameters
    ----------
    draws
        ``(n_members, n_labels)`` predicted changes.

    Returns
    -------
    change, factor
        ``(n_labels,)``, and the factor by which it was shrunk, ``max(0, 1 - variance / |mean|²)``, with the variance
        over the members summed over the labels (the positive part of the rule of James and Stein, whose variance would be
        that of the mean: members that share their data are not independent, so theirs is taken whole).

    Examples
    --------
    >>> shrink(np.array([[0.2, -0.2], [0.2, -0.2]]))[1]
    1.0
    >>> shrink(np.array([[0.2, -0.2], [-0.2, 0.2]]))[1]
    0.0
    """
    draws = np.asarray(draws, dtype=float)
    mean = draws.mean(0)
    signal = float((mean**2).sum())
    noise = float(((draws - mean) ** 2).sum(1).mean())
    factor = max(0.0, 1 - noise / signal) if signal > 1e-12 else 0.0
    return factor * mean, factor


def agreement(draws: np.ndarray) -> np.ndarray:
    """Factor by which :func:`shrink` would shrink each predicted change on its own.

    Parameters
    ----------
    draws
        ``(n_members, ...)``.

    Returns
    -------
    numpy.ndarray
        0 to 1, of the shape of one draw.

    Examples
    --------
    >>> agreement(np.array([[0.2, 0.2], [0.2, -0.2]])).round(6).tolist()
    [1.0, 0.0]
    """
    draws = np.asarray(draws, dtype=float)
    signal = draws.mean(0) ** 2
    return np.where(signal > 1e-12, np.maximum(1 - draws.var(0) / np.maximum(signal, 1e-12), 0), 0)

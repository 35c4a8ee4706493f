"""Descent through the couplings: the offspring of some cells, and lines of descent of observed cells."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse


def descendants(
    couplings: Sequence[sparse.csr_matrix],
    mass: np.ndarray,
    first: int,
    weights: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Push ``mass`` on the cells of time point ``first`` through the couplings.

    Parameters
    ----------
    couplings
        Of all consecutive time points, ``(n_t, n_{t+1})`` each.
    mass
        ``(n_first,)`` or ``(k, n_first)``.
    first
        Number of the time point.
    weights
        Mass that each cell of each time point was coupled with, so that growth counts: a cell with twice the offspring
        counts twice (fractions of a population). Without, every cell counts the same whatever its offspring (fate
        probabilities of cells).

    Returns
    -------
    list of numpy.ndarray
        Mass at time point ``first`` and at every later one, each summing to 1 (along the last axis).

    Examples
    --------
    >>> plan = sparse.csr_matrix([[0.5, 0.0], [0.25, 0.25]])
    >>> descendants([plan], np.array([0.0, 1.0]), 0)[-1].tolist()
    [0.5, 0.5]
    """
    now = np.atleast_2d(np.asarray(mass, dtype=float))
    now = now / np.maximum(now.sum(1, keepdims=True), 1e-300)
    steps = [now]
    for t in range(first, len(couplings)):
        now = np.asarray((now * _scale(couplings[t], weights, t)) @ couplings[t])
        now = now / np.maximum(now.sum(1, keepdims=True), 1e-300)
        steps.append(now)
    return [s[0] for s in steps] if np.ndim(mass) == 1 else steps


def offspring(
    couplings: Sequence[sparse.csr_matrix], first: int, weights: Sequence[np.ndarray]
) -> np.ndarray:
    """Mass at the last time point that descends from one unit of mass on each cell of time point ``first``.

    Parameters
    ----------
    couplings, first, weights
        As in :func:`descendants`.

    Returns
    -------
    numpy.ndarray
        ``(n_first,)``, relative to each other.

    Examples
    --------
    >>> plan = sparse.csr_matrix([[0.75, 0.0], [0.0, 0.25]])
    >>> offspring([plan], 0, [np.array([0.5, 0.5])]).tolist()
    [1.5, 0.5]
    """
    now = np.ones(couplings[-1].shape[1])
    for t in range(len(couplings) - 1, first - 1, -1):
        now = _scale(couplings[t], weights, t) * (couplings[t] @ now)
    return now


def sample_chains(
    couplings: Sequence[sparse.csr_matrix],
    mass: np.ndarray,
    first: int,
    n: int,
    rng: np.random.Generator,
    weights: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Draw ``n`` lines of descent from ``mass`` on the cells of time point ``first`` to the last time point.

    Forward the offspring is counted, backward the ancestors are drawn, so that at every time point the chains are
    distributed as :func:`descendants` says.

    Returns
    -------
    numpy.ndarray
        ``(n_points, n)`` rows of the cells within their time point, from ``first`` on.
    """
    forward = descendants(couplings, mass, first, weights)
    return _back(couplings, forward, first, _draw(forward[-1], n, rng), rng, weights)


def sample_ancestors(
    couplings: Sequence[sparse.csr_matrix],
    cells: np.ndarray,
    last: int,
    rng: np.random.Generator,
    weights: Sequence[np.ndarray],
) -> np.ndarray:
    """Draw one line of ancestors for each of some ``cells`` of time point ``last``, back to the first time point.

    Returns
    -------
    numpy.ndarray
        ``(last + 1, n_cells)`` rows of the cells within their time point; the last row is ``cells``.
    """
    forward = descendants(couplings[:last], weights[0], 0, weights)
    return _back(couplings[:last], forward, 0, np.asarray(cells), rng, weights)


def _back(
    couplings: Sequence[sparse.csr_matrix],
    forward: list[np.ndarray],
    first: int,
    now: np.ndarray,
    rng: np.random.Generator,
    weights: Sequence[np.ndarray] | None,
) -> np.ndarray:
    """Draw ancestors from the last time point back to ``first``; ``forward`` is the mass on each."""
    rows = [now]
    for t in range(len(couplings) - 1, first - 1, -1):
        weight = forward[t - first] * _scale(couplings[t], weights, t)
        back = sparse.csc_matrix(sparse.diags(weight) @ couplings[t])
        ends = np.concatenate([[0.0], np.cumsum(back.data)])
        low, high = ends[back.indptr[now]], ends[back.indptr[now + 1]]
        drawn = np.searchsorted(ends, low + rng.random(len(now)) * (high - low), side="right") - 1
        now = back.indices[np.clip(drawn, back.indptr[now], back.indptr[now + 1] - 1)]
        rows.append(now)
    return np.stack(rows[::-1])


def _scale(coupling: sparse.csr_matrix, weights: Sequence[np.ndarray] | None, t: int) -> np.ndarray:
    """Return what one unit of mass on each cell is worth in the coupling."""
    base = np.asarray(coupling.sum(1)).ravel() if weights is None else np.asarray(weights[t], dtype=float)
    return np.where(base > 0, 1 / np.maximum(base, 1e-300), 0.0)


def _draw(mass: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Systematic draw: as even as ``n`` draws can be."""
    positions = (np.arange(n) + rng.random()) / n
    drawn = np.minimum(np.searchsorted(np.cumsum(mass), positions * mass.sum(), side="right"), len(mass) - 1)
    return rng.permutation(drawn)

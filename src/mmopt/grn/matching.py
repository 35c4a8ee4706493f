"""How large the effects of a perturbation are beside those of others that do the same to a gene expressed as much."""

import numpy as np

_LEAST_OTHERS = 4


def matched_among(sizes: np.ndarray, expression: np.ndarray, kinds: np.ndarray, most: int) -> np.ndarray:
    """How often perturbations of the same kind, of genes of like expression, have as large effects.

    Parameters
    ----------
    sizes
        ``(n, n_groups)`` of the effects.
    expression
        ``(n,)`` mean expression of the gene that each one perturbs; NaN for what is to be compared with nothing.
    kinds
        ``(n,)`` numbers: perturbations of one kind are compared.
    most
        Others beside each one, those nearest in expression.

    Returns
    -------
    numpy.ndarray
        ``(n, n_groups)``, above 0 and at most 1; NaN where there are fewer than four others.

    Examples
    --------
    >>> matched_among(np.arange(5.0)[:, None], np.zeros(5), np.zeros(5), 20).ravel()
    array([1. , 0.8, 0.6, 0.4, 0.2])
    """
    p = np.full(sizes.shape, np.nan)
    known = np.isfinite(expression)
    for i in np.flatnonzero(known):
        others = np.flatnonzero(known & (kinds == kinds[i]) & (np.arange(len(kinds)) != i))
        if len(others) >= _LEAST_OTHERS:
            distance = np.abs(expression[others] - expression[i])
            near = others[np.argsort(distance, kind="stable")[:most]]
            p[i] = (1 + (sizes[near] >= sizes[i]).sum(0)) / (1 + len(near))
    return p

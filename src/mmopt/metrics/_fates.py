"""Scores of predicted fates of traced cells."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

_RESAMPLES = 1000


def fate_scores(
    predicted: Mapping[str, ArrayLike],
    true: ArrayLike,
    unit: ArrayLike,
    *,
    reference: str,
    n_resamples: int = _RESAMPLES,
    random_state: int = 0,
) -> pd.DataFrame:
    """Score predicted fates of traced cells, with 90 % intervals from a bootstrap over what was traced.

    Parameters
    ----------
    predicted
        Name to ``(n_cells, n_labels)`` probabilities.
    true
        ``(n_cells, n_labels)``: shares of the labels among a cell's known descendants or sisters.
    unit
        ``(n_cells,)`` what is drawn together: clones where there are many, else the cells themselves.
    reference
        Name of the prediction that the others are compared with.
    n_resamples, random_state
        Of the bootstrap.

    Returns
    -------
    DataFrame
        ``prediction``; ``accuracy``, the probability that a descendant has the label that the prediction holds most likely
        (a tie is shared), and ``brier``, the summed squared difference of the shares (0 to 2, smaller is better), each with
        ``_lo`` and ``_hi``; ``gain``, the accuracy less that of ``reference`` in the same resamples, with limits.

    Raises
    ------
    ValueError
        Shapes that differ, or a reference that is not there.

    Examples
    --------
    >>> sure, none = [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]
    >>> fate_scores({"sure": sure, "none": none}, sure, [0, 1], reference="none")[["accuracy", "brier"]].to_numpy().tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    true = np.asarray(true, dtype=float)
    tables = {name: np.asarray(p, dtype=float) for name, p in predicted.items()}
    if reference not in tables:
        raise ValueError(f"reference={reference!r} is none of the predictions {', '.join(tables)}")
    shapes = {name: p.shape for name, p in tables.items()}
    if set(shapes.values()) != {true.shape} or true.ndim != 2 or len(np.ravel(unit)) != len(true):
        raise ValueError(
            f"predicted {shapes}, true {true.shape} and unit {np.shape(unit)} must be of the same cells and labels"
        )
    number = np.unique(np.ravel(unit), return_inverse=True)[1]
    sizes = np.bincount(number)
    draws = np.random.default_rng(random_state).multinomial(
        len(sizes), np.full(len(sizes), 1 / len(sizes)), n_resamples
    )
    totals = np.maximum(draws @ sizes, 1)

    def resampled(score: np.ndarray) -> np.ndarray:
        return draws @ np.bincount(number, score) / totals

    cells, drawn = {}, {}
    for name, p in tables.items():
        top = p >= p.max(1, keepdims=True) - 1e-12
        cells[name] = (top * true).sum(1) / top.sum(1), ((p - true) ** 2).sum(1)
        drawn[name] = [resampled(score) for score in cells[name]]
    rows = []
    for name, scores in cells.items():
        row: dict = {"prediction": name}
        for what, score, draw in zip(("accuracy", "brier"), scores, drawn[name], strict=True):
            row |= {what: score.mean()} | _limits(what, draw)
        row["gain"] = scores[0].mean() - cells[reference][0].mean()
        rows.append(row | _limits("gain", drawn[name][0] - drawn[reference][0]))
    return pd.DataFrame(rows)


def _limits(name: str, draws: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(draws, [0.05, 0.95])
    return {f"{name}_lo": float(low), f"{name}_hi": float(high)}

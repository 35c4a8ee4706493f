"""Scores of imputed values."""

import numpy as np
from numpy.typing import ArrayLike


def imputation_scores(
    predicted: ArrayLike, observed: ArrayLike, measured: ArrayLike | None = None
) -> dict[str, float]:
    """Score imputed values against those observed, both on the same scale (log1p of the counts is usual).

    Parameters
    ----------
    predicted, observed
        ``(n_cells, n_features)`` each. Nothing is transformed here.
    measured
        Which entries count, of the same shape: False where a cell's antibody panel lacks the protein. All of them if not
        given. A feature that counts nowhere is left out.

    Returns
    -------
    dict
        - ``r2``: 1 - sum of squared errors / sum of squares about each feature's observed mean, both over all cells
          and features. 0 is what the features' means reach, so that differences between features earn nothing. NaN
          where no feature varies.
        - ``rmse``, ``mse``, ``mae``: root mean squared, mean squared and mean absolute error over all entries.
        - ``pearson``: median over features of the correlation across cells; a feature that is constant in either
          array counts as 0.

    Raises
    ------
    ValueError
        Shapes that differ, values that are not finite, or nothing measured.

    Examples
    --------
    >>> imputation_scores([[0.0, 1.0], [2.0, 3.0]], [[0.0, 1.0], [2.0, 3.0]])["r2"]
    1.0
    """
    predicted, observed = np.asarray(predicted, dtype=float), np.asarray(observed, dtype=float)
    if predicted.shape != observed.shape or predicted.ndim != 2 or not predicted.size:
        raise ValueError(
            f"predicted {predicted.shape} and observed {observed.shape}: both must be (n_cells, n_features)"
        )
    for name, values in {"predicted": predicted, "observed": observed}.items():
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            raise ValueError(f"{name} has {bad} NaN or infinite values")

    weight = np.ones(observed.shape) if measured is None else np.asarray(measured, dtype=float)
    if weight.shape != observed.shape or not weight.any():
        raise ValueError(
            f"measured {weight.shape} must have the shape {observed.shape} and be True somewhere"
        )
    predicted, observed, weight = (x[:, weight.any(0)] for x in (predicted, observed, weight))

    def centred(x: np.ndarray) -> np.ndarray:
        return weight * (x - (weight * x).sum(0) / weight.sum(0))

    error = weight * (predicted - observed)
    mse = float(np.sum(error**2) / weight.sum())
    p, o = centred(predicted), centred(observed)
    total = float(np.sum(o**2))
    # 0 also where squares are too small for a number
    length = np.linalg.norm(p, axis=0) * np.linalg.norm(o, axis=0)
    varies = (_range(predicted, weight) > 0) & (_range(observed, weight) > 0) & (length > 0)
    correlation = np.zeros(observed.shape[1])
    correlation[varies] = (p * o).sum(0)[varies] / length[varies]
    return {
        "r2": 1 - float(np.sum(error**2)) / total if total > 0 else float("nan"),
        "rmse": mse**0.5,
        "mse": mse,
        "mae": float(np.abs(error).sum() / weight.sum()),
        "pearson": float(np.median(correlation)),
    }


def _range(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Largest less smallest of the values that count, by feature."""
    return np.where(weight > 0, x, -np.inf).max(0) - np.where(weight > 0, x, np.inf).min(0)

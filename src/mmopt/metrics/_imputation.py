import numpy as np
from numpy.typing import ArrayLike


def imputation_scores(predicted: ArrayLike, observed: ArrayLike) -> dict[str, float]:
    """Score imputed values against those observed, both on the same scale (log1p of the counts is usual).

    Parameters
    ----------
    predicted, observed
        ``(n_cells, n_features)`` each. Nothing is transformed here.

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
        Shapes that differ, or values that are not finite.

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

    error = predicted - observed
    mse = float(np.mean(error**2))
    p, o = predicted - predicted.mean(0), observed - observed.mean(0)
    total = float(np.sum(o**2))
    varies = (np.ptp(predicted, axis=0) > 0) & (np.ptp(observed, axis=0) > 0)
    correlation = np.zeros(observed.shape[1])
    p, o = p[:, varies], o[:, varies]
    correlation[varies] = (p * o).sum(0) / (np.linalg.norm(p, axis=0) * np.linalg.norm(o, axis=0))
    return {
        "r2": 1 - float(np.sum(error**2)) / total if total > 0 else float("nan"),
        "rmse": mse**0.5,
        "mse": mse,
        "mae": float(np.mean(np.abs(error))),
        "pearson": float(np.median(correlation)),
    }

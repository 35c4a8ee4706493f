"""What a prediction without any error would score against effects that were measured in a finite number of cells."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from mmopt.metrics._perturbation import known_mean


def noise_ceiling(
    truth: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray],
    noise: np.ndarray,
    keep: np.ndarray,
    common: np.ndarray,
) -> pd.DataFrame:
    """Correlations and rank of the true effects with the measured ones, one row per perturbation.

    A draw of noise cannot give these: the measured effects vary more than the true ones.

    Parameters
    ----------
    truth
        ``(n_perturbations, n_features)`` measured effects.
    halves
        The same from two halves of the cells: what they have in common is true.
    noise
        A draw of noise as large as that of ``truth``.
    keep
        Which features count.
    common
        Which are in the mean that is subtracted for ``pearson_vs_mean``.
    """
    specific, one, other = (v - known_mean(np.where(common, v, np.nan)) for v in (truth, *halves))
    several = common.sum(0) > 1
    rows = []
    for i, k in enumerate(keep):
        s = k & several
        rows.append(
            {
                "pearson": _reachable(truth[i, k], halves[0][i, k], halves[1][i, k]),
                "pearson_vs_mean": _reachable(specific[i, s], one[i, s], other[i, s]),
                "discrimination": _rank_of_its_own(i, halves, noise, keep),
            }
        )
    return pd.DataFrame(rows)


def _reachable(measured: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the true effect with the measured one: the root of the share of the variance that is no noise.

    Spearman and Brown's ``sqrt(2 r / (1 + r))``, without their assumption that the halves are alike.
    """
    if len(measured) < 3:
        return np.nan
    true, whole = np.cov(one, other)[0, 1], measured.var(ddof=1)
    return float(np.sqrt(min(true / whole, 1))) if true > 0 and whole > 0 else 0.0


def _rank_of_its_own(
    i: int, halves: tuple[np.ndarray, np.ndarray], noise: np.ndarray, keep: np.ndarray
) -> float:
    """Where a true effect's own measurement lies among all, by mean squared distance, as ``discrimination``.

    The distance to a measured effect is that of the true ones, which two halves give without noise on average, and the
    noise of the measurement.
    """
    both = keep[i] & keep
    there = both.any(1)
    if not there[i] or there.sum() < 2:
        return np.nan
    one, other = (half[i] - half for half in halves)
    distance = np.where(both, one * other + noise**2, 0).sum(1)[there] / both.sum(1)[there]
    place = rankdata(distance)[there[:i].sum()]
    return float(1 - (place - 1) / (there.sum() - 1))

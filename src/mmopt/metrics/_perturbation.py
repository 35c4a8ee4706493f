"""Scores of predicted perturbation effects against measured ones, and what any prediction has to beat."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

_NOTHING = 1e-6


def perturbation_scores(
    predicted: ArrayLike,
    truth: ArrayLike,
    *,
    changed: ArrayLike,
    keep: ArrayLike | None = None,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    seen: ArrayLike | None = None,
) -> pd.DataFrame:
    """Score the predicted change of every feature, one row per perturbation.

    Parameters
    ----------
    predicted, truth
        ``(n_perturbations, n_features)`` changes against the control, e.g. of mean log1p counts per 10,000. What is not
        kept may be NaN.
    changed
        Boolean, same shape: which features truly change.
    keep
        Boolean, same shape: which features count, e.g. not the perturbed gene itself; default: all.
    low, high
        Limits of the predictions' 90 % intervals; NaN where there are none.
    seen
        For predictions made from the truth of the other perturbations: the mean of these, same shape, e.g. the
        ``perturbed_mean`` of :func:`perturbation_baselines`.

    Returns
    -------
    DataFrame
        ``n_changed``; ``pearson`` against control, 0 where the prediction is constant; ``pearson_vs_mean``, after the
        mean over all perturbations that keep the feature was subtracted from each, the predicted and the true one (what is
        specific; NaN for a single perturbation, 0 where the same is predicted for all); both are NaN for fewer than three
        features; ``sign_accuracy`` on the changed features, an abstention counting one half; ``mae``; ``mae_changed`` and
        ``mae_ratio``, on the changed features, and relative to predicting no change; ``weighted_mse``, each feature weighted
        by its squared true change, so that predicting the mean does not pay; ``discrimination``, 1 where the own truth is
        the nearest by mean absolute error, 0.5 by chance (NaN with ``seen``); ``coverage`` and ``width`` of the intervals
        on the changed features that have one. NaN where nothing changes.

    Raises
    ------
    ValueError
        Shapes that differ, or values that are kept and not finite.

    Notes
    -----
    The true mean is not subtracted from the prediction: it has noise, and that of random numbers or of no change would
    correlate with the truth. A prediction made from the other perturbations has the noise of all but the own, so the mean
    of the others, ``seen``, is subtracted from it and from the truth. By the same token every truth but its own is near such
    a prediction, which is why it has no ``discrimination``.

    References
    ----------
    Viñas Torné R et al. (2025) Nat. Biotechnol., for the perturbed mean as reference; Wu Y et al. (2024)
    arXiv:2408.10609, for rank metrics.

    Examples
    --------
    >>> truth = np.array([[1.0, -1.0, 0.0], [0.0, 2.0, -1.0]])
    >>> scores = perturbation_scores(truth, truth, changed=truth != 0)
    >>> scores[["pearson", "sign_accuracy", "mae", "discrimination"]].to_numpy().tolist()
    [[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]]
    """
    predicted, truth = np.asarray(predicted, dtype=float), np.asarray(truth, dtype=float)
    changed = np.asarray(changed, dtype=bool)
    keep = np.ones(truth.shape, dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
    given = {"predicted": predicted, "changed": changed, "keep": keep}
    if seen is not None:
        given["seen"] = np.asarray(seen, dtype=float)
    if low is not None or high is not None:
        if low is None or high is None:
            raise ValueError("low and high: give both limits of the intervals or neither")
        given |= {"low": np.asarray(low, dtype=float), "high": np.asarray(high, dtype=float)}
    for name, array in given.items():
        if truth.ndim != 2 or array.shape != truth.shape:
            raise ValueError(
                f"{name} {array.shape} and truth {truth.shape}: (n_perturbations, n_features) each"
            )
    for name, array in {"predicted": predicted, "truth": truth}.items():
        if bad := int((keep & ~np.isfinite(array)).sum()):
            raise ValueError(f"{name} has {bad} NaN or infinite values; leave them out with `keep=`")
    n = len(truth)
    if seen is None:
        rank, several = discrimination(predicted, truth, keep), keep.sum(0) > 1
        specific = [values - known_mean(np.where(keep, values, np.nan)) for values in (predicted, truth)]
    else:
        rank, several = np.full(n, np.nan), np.isfinite(truth).sum(0) > 1
        specific = [values - given["seen"] for values in (predicted, truth)]
    rows = []
    for i in range(n):
        k, c = keep[i], changed[i] & keep[i]
        p, t = predicted[i], truth[i]
        s = k & several
        error, weight = np.abs(p - t), t[k] ** 2
        still = np.abs(t[c]).mean() if c.any() else np.nan
        right = np.where(np.abs(p[c]) <= _NOTHING, 0.5, np.sign(p[c]) == np.sign(t[c]))
        row = {
            "n_changed": int(c.sum()),
            "pearson": _pearson(p[k], t[k]),
            "pearson_vs_mean": _pearson(*(values[i, s] for values in specific)),
            "sign_accuracy": right.mean() if c.any() else np.nan,
            "mae": error[k].mean() if k.any() else np.nan,
            "mae_changed": error[c].mean() if c.any() else np.nan,
            "mae_ratio": error[c].mean() / still if c.any() and still > 0 else np.nan,
            "weighted_mse": (weight * error[k] ** 2).sum() / weight.sum() if weight.sum() > 0 else np.nan,
            "discrimination": rank[i],
            "coverage": np.nan,
            "width": np.nan,
        }
        if low is not None:
            c &= np.isfinite(given["low"][i]) & np.isfinite(given["high"][i])
            lo, hi = given["low"][i, c], given["high"][i, c]
            if c.any():
                row |= {"coverage": ((t[c] >= lo) & (t[c] <= hi)).mean(), "width": (hi - lo).mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def discrimination(predicted: np.ndarray, truth: np.ndarray, keep: np.ndarray | None = None) -> np.ndarray:
    """For each prediction, the normalised rank of its own truth among all truths by mean absolute error.

    1: its own is the nearest, 0: the farthest; 0.5 is chance, also for a prediction that is the same for all. NaN for
    fewer than two perturbations. Not for predictions made from the other truths, such as their mean: all but its own are
    in it, so its own comes out as the farthest. Features left out for either of a pair count for neither, and a truth that
    then shares no feature with the prediction is no candidate.

    Examples
    --------
    >>> discrimination(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    array([1., 1.])
    """
    n = len(truth)
    if n < 2:
        return np.full(n, np.nan)
    keep = np.ones(truth.shape, dtype=bool) if keep is None else keep
    rank = np.empty(n)
    for i in range(n):
        both = keep[i] & keep
        there = both.any(1)
        if not there[i] or there.sum() < 2:
            rank[i] = np.nan
            continue
        total = np.where(both, np.abs(predicted[i] - truth), 0).sum(1)
        place = rankdata(total[there] / both.sum(1)[there])[there[:i].sum()]
        rank[i] = 1 - (place - 1) / (there.sum() - 1)
    return rank


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Energy distance between two samples, ``2 E|x-y| - E|x-x'| - E|y-y'|``; 0 for two samples of one distribution.

    Unbiased: pairs of a cell with itself are left out, so it can come out slightly negative.

    References
    ----------
    Székely GJ, Rizzo ML (2013) J. Stat. Plan. Inference 143:1249.

    Examples
    --------
    >>> energy_distance([[0.0], [0.0]], [[1.0], [1.0]])
    2.0
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"x {x.shape} and y {y.shape}: two or more cells each, with the same dimensions")
    within = [cdist(s, s).sum() / (len(s) * (len(s) - 1)) for s in (x, y)]
    return float(2 * cdist(x, y).mean() - sum(within))


def perturbation_baselines(
    truth: ArrayLike,
    targets: list[list[str]],
    genes: list[str],
    embedding: ArrayLike,
    *,
    k: int = 3,
    alpha: float = 0.1,
) -> dict[str, np.ndarray]:
    """Predict each perturbation from the measured effects of the others.

    Parameters
    ----------
    truth
        ``(n_perturbations, n_features)`` measured changes; NaN where one was not measured, which counts as the mean of the
        others that were.
    targets
        Genes that each perturbation hits.
    genes
        Names of the rows of ``embedding``.
    embedding
        ``(n_genes, d)``: what is known of each gene without any perturbation, e.g. loadings of principal components of
        control cells.
    k
        Neighbours of the ``knn`` baseline.
    alpha
        Ridge penalty relative to the variance of the embedding.

    Returns
    -------
    dict
        ``no_change``: 0. ``perturbed_mean``: mean of the others. ``additive``: sum of the singles of a combination; NaN
        rows where one of them was not measured. ``ridge_pca``: ridge from the embedding of the genes hit to the effects,
        reduced to principal components. ``knn``: mean of the ``k`` perturbations whose genes are nearest in the
        embedding. The last two fall back to the perturbed mean for genes without embedding, or with too few others.

    References
    ----------
    Ahlmann-Eltze C, Huber W, Anders S (2025) Nat. Methods 22:1657, for the additive and the linear baseline.

    Examples
    --------
    >>> made = perturbation_baselines([[1.0, 0.0], [0.0, 2.0], [1.0, 2.0]], [["A"], ["B"], ["A", "B"]], ["A"], [[1.0]])
    >>> made["additive"][2].tolist()
    [1.0, 2.0]
    """
    measured, embedding = np.asarray(truth, dtype=float), np.asarray(embedding, dtype=float)
    n, whole = len(measured), bool(np.isfinite(measured).all())
    row = {gene: i for i, gene in enumerate(genes)}
    single = {t[0]: i for i, t in enumerate(targets) if len(t) == 1}
    where = np.full((n, embedding.shape[1]), np.nan)
    for i, hit in enumerate(targets):
        if all(g in row for g in hit):
            where[i] = embedding[[row[g] for g in hit]].sum(0)
    made = {name: np.zeros(measured.shape) for name in ("no_change", "perturbed_mean", "ridge_pca", "knn")}
    made["additive"] = np.full(measured.shape, np.nan)
    for i, hit in enumerate(targets):
        others = np.delete(np.arange(n), i)
        mean = np.nan_to_num(known_mean(measured[others]))
        # filled without the perturbation itself, which must not be seen
        truth = measured if whole else np.where(np.isfinite(measured), measured, mean)
        made["perturbed_mean"][i] = made["ridge_pca"][i] = made["knn"][i] = mean
        if len(hit) > 1 and all(g in single for g in hit):
            made["additive"][i] = truth[[single[g] for g in hit]].sum(0)
        known = others[np.isfinite(where[others]).all(1)]
        if len(known) < 4 or not np.isfinite(where[i]).all():
            continue
        distance = np.linalg.norm(where[known] - where[i], axis=1)
        made["knn"][i] = truth[known[np.argsort(distance, kind="stable")[:k]]].mean(0)
        reduced = PCA(min(10, len(known) - 1, truth.shape[1]), svd_solver="full").fit(truth[known])
        x = where[known]
        fit = Ridge(alpha * max(x.var(0).sum(), _NOTHING) * len(x)).fit(x, reduced.transform(truth[known]))
        made["ridge_pca"][i] = reduced.inverse_transform(fit.predict(where[i : i + 1]).reshape(1, -1))[0]
    return made


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the rows that are finite; NaN where none is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(0) / known.sum(0)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3:
        return np.nan
    if _constant(a) or _constant(b):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _constant(values: np.ndarray) -> bool:
    return not len(values) or bool(np.ptp(values) < 1e-9)

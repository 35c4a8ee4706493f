import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmopt.metrics import imputation_scores, mean_baseline

values = arrays(np.float64, (6, 3), elements=st.floats(0, 10).map(lambda v: round(v, 3)))


def naive(predicted, observed):
    n, m = observed.shape
    squared = total = absolute = 0.0
    correlations = []
    for j in range(m):
        mean = sum(observed[:, j]) / n
        for i in range(n):
            squared += (predicted[i, j] - observed[i, j]) ** 2
            absolute += abs(predicted[i, j] - observed[i, j])
            total += (observed[i, j] - mean) ** 2
        constant = len(set(predicted[:, j])) == 1 or len(set(observed[:, j])) == 1
        correlations.append(0.0 if constant else np.corrcoef(predicted[:, j], observed[:, j])[0, 1])
    mse = squared / (n * m)
    return {
        "r2": 1 - squared / total if len({tuple(row) for row in observed}) > 1 else math.nan,
        "rmse": math.sqrt(mse),
        "mse": mse,
        "mae": absolute / (n * m),
        "pearson": sorted(correlations)[m // 2],
    }


@settings(max_examples=100, deadline=None)
@given(values, values)
def test_against_loops(predicted, observed):
    assert imputation_scores(predicted, observed) == pytest.approx(
        naive(predicted, observed), rel=1e-6, nan_ok=True
    )


@settings(max_examples=30, deadline=None)
@given(values)
def test_truth_scores_one_and_the_mean_scores_zero(observed):
    if not (np.ptp(observed, axis=0) > 0).all():
        observed = observed + np.arange(6.0)[:, None] * 100
    perfect = imputation_scores(observed, observed)
    assert perfect == pytest.approx({"r2": 1, "rmse": 0, "mse": 0, "mae": 0, "pearson": 1})
    mean = imputation_scores(mean_baseline(observed, len(observed)), observed)
    assert mean["r2"] == pytest.approx(0, abs=1e-9)
    assert mean["pearson"] == 0


def test_features_that_differ_from_each_other_earn_nothing():
    rng = np.random.default_rng(0)
    observed = rng.normal(size=(50, 4)) + [0, 10, 100, 1000]
    predicted = rng.normal(size=(50, 4)) + [0, 10, 100, 1000]
    assert np.corrcoef(predicted.ravel(), observed.ravel())[0, 1] > 0.99
    assert imputation_scores(predicted, observed)["r2"] < 0


def test_nothing_varies():
    assert math.isnan(imputation_scores(np.zeros((2, 2)), np.ones((2, 2)))["r2"])


def test_refusals():
    with pytest.raises(ValueError, match=r"predicted \(2, 3\) and observed \(3, 2\)"):
        imputation_scores(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="predicted has 1 NaN or infinite values"):
        imputation_scores([[np.nan, 1.0]], [[1.0, 1.0]])


@settings(max_examples=50, deadline=None)
@given(arrays(float, (6, 3), elements=st.floats(-5, 5)), st.data())
def test_what_was_not_measured_does_not_count(observed, data):
    predicted = observed + np.linspace(-1, 1, 18).reshape(6, 3) ** 2
    measured = np.ones((6, 3), bool)
    measured[data.draw(st.integers(0, 3)) :, 1] = False
    scores = imputation_scores(predicted, np.where(measured, observed, 1e3), measured)
    assert scores == pytest.approx(imputation_scores(predicted, observed, measured), nan_ok=True)
    errors = (predicted - observed)[measured]
    assert scores["mae"] == pytest.approx(np.abs(errors).mean())
    assert scores["mse"] == pytest.approx((errors**2).mean())


def test_a_feature_measured_in_some_cells_is_scored_on_them():
    rng = np.random.default_rng(0)
    predicted, observed = rng.normal(size=(2, 20, 1))
    measured = np.arange(20)[:, None] < 12
    some, alone = (
        imputation_scores(predicted, observed, measured),
        imputation_scores(predicted[:12], observed[:12]),
    )
    assert some == pytest.approx(alone)
    assert imputation_scores(predicted, observed, np.ones((20, 1))) == imputation_scores(predicted, observed)
    with pytest.raises(ValueError, match="True somewhere"):
        imputation_scores(predicted, observed, np.zeros((20, 1)))

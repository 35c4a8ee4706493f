import numpy as np
import pytest

from mmopt.metrics import interval_coverage

LEVELS = (0.5, 0.8, 0.95)


@pytest.mark.parametrize("rate", [0.05, 0.7, 40.0])
def test_a_perfect_prediction_of_counts_covers_its_level(rate):
    rng = np.random.default_rng(0)
    draws, observed = rng.poisson(rate, (99, 200, 30)), rng.poisson(rate, (200, 30))
    found = interval_coverage(draws, observed, LEVELS)
    for level in LEVELS:
        assert found[f"coverage_{100 * level:g}"] == pytest.approx(level, abs=0.02)
        assert found[f"closed_{100 * level:g}"] >= level - 0.02
    assert found["bias"] == pytest.approx(0, abs=0.01)
    assert rate > 1 or found["closed_50"] > 0.7


def test_too_narrow_too_wide_and_too_low():
    rng = np.random.default_rng(0)
    observed = rng.normal(size=(400, 10))
    narrow, wide = (interval_coverage(s * rng.normal(size=(99, 400, 10)), observed) for s in (0.5, 2.0))
    assert narrow["coverage_80"] < 0.6 < 0.95 < wide["coverage_80"]
    low = interval_coverage(rng.normal(size=(99, 400, 10)) - 1, observed)
    assert low["bias"] > 0.2


def test_against_loops():
    rng = np.random.default_rng(1)
    draws, observed = rng.poisson(2.0, (19, 6, 3)), rng.poisson(2.0, (6, 3)).astype(float)
    observed[0, 0] = np.nan
    found = interval_coverage(draws, observed, [0.8])
    inside = [
        np.sort(draws[:, i, j])[1] <= observed[i, j] <= np.sort(draws[:, i, j])[17]
        for i in range(6)
        for j in range(3)
        if (i, j) != (0, 0)
    ]
    assert found["closed_80"] == pytest.approx(np.mean(inside))


def test_refusals():
    with pytest.raises(ValueError, match=r"draws \(5, 3\) must have one more axis"):
        interval_coverage(np.zeros((5, 3)), np.zeros(4))
    with pytest.raises(ValueError, match="levels must lie between 0 and 1"):
        interval_coverage(np.zeros((5, 3)), np.zeros(3), [1.0])

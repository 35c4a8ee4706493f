import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt.metrics import conformal_quantile, leave_one_out_covered, units_needed

levels = st.floats(0.05, 0.97)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), levels, st.integers(0, 2**31))
def test_the_quantile_is_the_order_statistic_of_a_finite_sample(n, level, seed):
    scores = np.random.default_rng(seed).random(n)
    rank = next(k for k in range(1, n + 2) if k + 1e-9 >= (n + 1) * level)
    expected = sorted(scores)[rank - 1] if rank <= n else np.inf
    assert conformal_quantile(scores, level) == expected
    assert np.isfinite(conformal_quantile(scores, level)) == (n >= units_needed(level))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), levels, levels, st.integers(0, 2**31))
def test_it_grows_with_the_level_and_not_with_the_order(n, one, two, seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 3))
    low, high = sorted((one, two))
    assert (conformal_quantile(scores, low) <= conformal_quantile(scores, high)).all()
    np.testing.assert_array_equal(
        conformal_quantile(scores, low), conformal_quantile(rng.permutation(scores), low)
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), levels, st.integers(0, 2**31))
def test_leaving_each_out_covers_the_level_exactly_as_ranks_say(n, level, seed):
    inside = leave_one_out_covered(np.random.default_rng(seed).permutation(n).astype(float), level)
    if n - 1 < units_needed(level):
        assert np.isnan(inside).all()
    else:  # without ties a guarantee on both sides
        assert level - 1e-9 <= inside.mean() <= level + 1 / n + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.integers(12, 40), st.integers(0, 2**31))
def test_ties_only_make_it_cover_more(n, seed):
    scores = np.random.default_rng(seed).integers(0, 4, n)
    assert leave_one_out_covered(scores, 0.9).mean() >= 0.9 - 1e-9


def test_new_exchangeable_units_are_covered_however_skewed():
    rng = np.random.default_rng(1)
    scores = np.exp(2 * rng.normal(size=(15, 40_000)))
    covered = (scores[-1] <= conformal_quantile(scores[:-1])).mean()
    assert covered == pytest.approx(14 / 15, abs=0.006)


def test_what_is_not_known_does_not_count():
    scores = np.arange(40.0).reshape(20, 2)
    scores[:10, 1] = np.nan
    np.testing.assert_array_equal(conformal_quantile(scores)[1], conformal_quantile(scores[10:, 1]))
    scores[:12, 1] = np.nan
    assert conformal_quantile(scores)[1] == np.inf
    assert np.isnan(leave_one_out_covered(scores)[:, 1]).all()
    assert conformal_quantile(np.zeros((0, 3))).tolist() == [np.inf] * 3


def test_refusals():
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 1"):
        conformal_quantile([1.0], 1)
    with pytest.raises(ValueError, match="got a single number"):
        conformal_quantile(3.0)

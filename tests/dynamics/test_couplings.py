import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from mmopt.dynamics import couple, drifts_apart


def clouds(n=60, m=50, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + shift


def test_like_the_balanced_plan_when_growth_is_dear():
    x, y = clouds(25, 20)
    cost = cdist(x, y, "sqeuclidean")
    exact = ot.sinkhorn(np.full(25, 1 / 25), np.full(20, 1 / 20), cost / cost.mean(), 0.1, stopThr=1e-12)
    made = couple(x, y, epsilon=0.1, relaxation=1e3).toarray()
    np.testing.assert_allclose(made, exact, atol=2e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 60), st.integers(5, 60), st.integers(0, 1000))
def test_the_later_point_stays_as_it_was_measured(n, m, seed):
    x, y = clouds(n, m, seed=seed)
    weights = np.random.default_rng(seed).exponential(size=m)
    plan = couple(x, y, weights=weights)
    np.testing.assert_allclose(np.asarray(plan.sum(0)).ravel(), weights / weights.sum(), rtol=1e-6)
    assert (np.asarray(plan.sum(1)).ravel() > 0).all()


def test_no_few_cells_take_over_the_offspring():
    """A tight early cloud far from a wide later one: the nearest cells must not become the ancestors of everyone."""
    x, y = clouds(150, 150, shift=3.0)
    share = np.asarray(couple(0.3 * x, y).sum(1)).ravel() * len(x)
    assert share.max() < 2
    assert share.min() > 0.5


def test_growth_shows_in_the_offspring():
    x, y = clouds(100, 100)
    growth = np.where(np.arange(100) < 50, 3.0, 1.0)
    rows = np.asarray(couple(x, y, growth=growth).sum(1)).ravel()
    assert rows[:50].sum() == pytest.approx(0.75, abs=0.03)


def test_batches():
    x, y = clouds(90, 80)
    plan = couple(x, y, batch=20, seed=3)
    np.testing.assert_allclose(np.asarray(plan.sum(0)).ravel(), 1 / 80, rtol=0.3)
    assert plan.sum() == pytest.approx(1)
    # every cell has a partner, and the whole is still transport to the near side
    reached = (plan @ y) / np.asarray(plan.sum(1))
    whole = couple(x, y)
    assert np.corrcoef(reached[:, 0], (whole @ y)[:, 0] / np.asarray(whole.sum(1)).ravel())[0, 1] > 0.7


@pytest.mark.parametrize("sizes", [(900, 12), (12, 900), (900, 100), (100, 900)])
def test_a_small_point_is_not_cut_to_pieces(sizes):
    """Two clusters far apart: what a batch has no later cells for must not be sent across."""
    cluster = [np.arange(n) % 2 for n in sizes]
    x, y = clouds(*sizes, shift=0.0)
    x[:, 0] += 9 * cluster[0]
    y[:, 0] += 9 * cluster[1]
    weights = np.random.default_rng(1).uniform(0.5, 1.5, size=sizes[1])
    plan = couple(x, y, batch=40, weights=weights).tocoo()
    assert plan.data[cluster[0][plan.row] != cluster[1][plan.col]].sum() < 0.05
    assert (np.asarray(plan.sum(1)).ravel() > 0).all()
    np.testing.assert_allclose(np.asarray(plan.sum(0)).ravel(), weights / weights.sum(), rtol=1e-3)


def test_growth_shows_where_a_small_point_is_shared_out():
    x, y = clouds(600, 30)
    growth = np.where(np.arange(600) < 300, 3.0, 1.0)
    rows = np.asarray(couple(x, y, growth=growth, batch=40).sum(1)).ravel()
    assert rows[:300].sum() == pytest.approx(0.75, abs=0.03)


def test_points_of_like_size_are_split_as_ever():
    """Earlier twins can be made again."""
    x, y = clouds(90, 80)
    plan = couple(x, y, batch=20, seed=3)
    rng = np.random.default_rng(3)
    parts = [np.array_split(rng.permutation(n), 5) for n in (90, 80)]
    for i, j in zip(*parts, strict=True):
        np.testing.assert_allclose(plan[i][:, j].toarray(), couple(x[i], y[j]).toarray() * len(j) / 80)


def test_same_seed_same_plan():
    x, y = clouds(90, 80)
    assert abs(couple(x, y, batch=20, seed=3) - couple(x, y, batch=20, seed=3)).sum() == 0


def test_an_outlier_breaks_nothing():
    x, y = clouds()
    y[0] = 1e3
    plan = couple(x, y)
    assert np.isfinite(plan.data).all()
    np.testing.assert_allclose(np.asarray(plan.sum(0)).ravel(), 1 / len(y), rtol=1e-6)


def test_two_populations_or_one():
    x, y = clouds(150, 150, shift=0.8)
    assert drifts_apart(x, y) == 0.01
    p = [drifts_apart(*clouds(80, 80, shift=0.0, seed=s), seed=s) for s in range(20)]
    assert np.mean(np.array(p) <= 0.05) <= 0.2

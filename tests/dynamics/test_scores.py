"""Distances, fates and shrinkage."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmopt.dynamics import FateMap, agreement, maximum_mean_discrepancy, shrink, wasserstein


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_against_all_assignments(p):
    rng = np.random.default_rng(p)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)) + 1
    best = min(np.mean(np.linalg.norm(x - y[list(order)], axis=1) ** p) for order in permutations(range(6)))
    assert wasserstein(x, y, p) == pytest.approx(best ** (1 / p))


def test_wasserstein_of_another_order():
    with pytest.raises(ValueError, match="p must be 1 or 2"):
        wasserstein(np.zeros((2, 1)), np.zeros((2, 1)), 3)


def test_discrepancy_against_loops():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(7, 2))

    def k(a, b):
        d = ((a - b) ** 2).sum()
        return np.mean([np.exp(-d / (2 * (w * 1.3) ** 2)) for w in (0.5, 1, 2)])

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert maximum_mean_discrepancy(x, y, 1.3) == pytest.approx(xx + yy - 2 * xy)


def test_labels_around_and_nothing_outside():
    rng = np.random.default_rng(0)
    states = np.vstack([rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 20])
    fates = FateMap(states, np.repeat(["a", "b"], 100))
    share, outside = fates(np.array([[0.0, 0], [20, 20], [500, 500]]))
    assert fates.names == ["a", "b"]
    assert share.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert outside.tolist() == [False, False, True]
    assert fates.outside(states).mean() < 0.02


@given(arrays(float, (6, 3), elements=st.floats(-0.5, 0.5)))
def test_shrinking_never_enlarges_or_turns(draws):
    change, factor = shrink(draws)
    assert 0 <= factor <= 1
    np.testing.assert_allclose(change, factor * draws.mean(0))


def test_members_that_disagree_are_not_believed():
    rng = np.random.default_rng(0)
    assert np.mean([shrink(rng.normal(scale=0.1, size=(18, 4)))[1] for _ in range(50)]) < 0.05
    sure = np.array([0.3, -0.2, -0.1, 0]) + rng.normal(scale=0.02, size=(18, 4))
    assert shrink(sure)[1] > 0.95


@given(arrays(float, (7, 3), elements=st.floats(-1, 1)))
def test_agreement_is_that_of_each_change_on_its_own(draws):
    kept = agreement(draws)
    assert ((kept >= 0) & (kept <= 1)).all()
    one_by_one = [shrink(draws[:, [j]])[1] for j in range(3)]
    np.testing.assert_allclose(kept, one_by_one, atol=1e-9)

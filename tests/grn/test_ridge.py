import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt.grn import ridge as module
from mmopt.grn.ridge import adaptive_ridge, choose_penalty, ridge


def problem(n, p, n_targets, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p))
    y = x @ rng.standard_normal((p, n_targets)) + 0.5 * rng.standard_normal((n, n_targets))
    return x, y, rng.uniform(0.01, 1, (n_targets, p))


@settings(max_examples=20, deadline=None)
@given(p=st.integers(1, 8), n_targets=st.integers(1, 5), seed=st.integers(0, 99))
def test_each_target_solves_its_own_normal_equations(p, n_targets, seed):
    x, y, penalty = problem(50, p, n_targets, seed)
    gram, cross = x.T @ x / 50, (x.T @ y / 50).T
    weights = ridge(gram, cross, penalty)
    for t in range(n_targets):
        np.testing.assert_allclose(
            weights[t], np.linalg.inv(gram + np.diag(penalty[t])) @ cross[t], rtol=1e-8
        )


def test_with_many_regulators_the_closest_enter_and_the_others_get_nothing():
    x, _, _ = problem(400, 30, 1, 0)
    y = 2 * x[:, [3]] - x[:, [17]]
    gram, cross = x.T @ x / 400, (x.T @ y / 400).T
    few = ridge(gram, cross, np.full((1, 30), 1e-6), most=6)[0]
    assert np.count_nonzero(few) == 6
    np.testing.assert_allclose(few[[3, 17]], [2, -1], atol=1e-3)
    closed = np.full((1, 30), 1e-6)
    closed[0, 3] = 1e6
    assert abs(ridge(gram, cross, closed, most=6)[0, 3]) < 1e-3


def test_one_round_is_plain_ridge_on_standardised_data_and_counts_every_cell_as_often_as_asked():
    x, y, penalty = problem(60, 4, 3, 1)
    sample = np.random.default_rng(2).integers(0, 3, 60).astype(float)
    got = adaptive_ridge(x, y, sample, penalty, np.zeros((3, 4)), rounds=1)
    xs, ys = np.repeat(x, sample.astype(int), 0), np.repeat(y, sample.astype(int), 0)
    sx, sy = xs.std(0) + 1e-3, ys.std(0) + 1e-3
    xs, ys = (xs - xs.mean(0)) / sx, (ys - ys.mean(0)) / sy
    for t in range(3):
        w = np.linalg.solve(xs.T @ xs / len(xs) + np.diag(penalty[t]), xs.T @ ys[:, t] / len(xs))
        np.testing.assert_allclose(got[t], w * sy[t] / sx, rtol=1e-8)


def test_penalties_grow_on_edges_against_the_sign_of_the_prior_and_on_idle_ones():
    x, _, _ = problem(500, 3, 1, 3)
    y = x[:, [0]] + 0.3 * x[:, [1]]
    even, penalty = np.ones(500), np.full((1, 3), 0.3)
    plain = adaptive_ridge(x, y, even, penalty, np.zeros((1, 3)), rounds=1)[0]
    adapted = adaptive_ridge(x, y, even, penalty, np.zeros((1, 3)))[0]
    assert adapted[0] > plain[0]
    assert abs(adapted[2]) <= abs(plain[2]) + 1e-9
    wrong = adaptive_ridge(x, y, even, penalty, np.array([[1.0, -1.0, 0.0]]))[0]
    assert abs(wrong[1]) < 0.8 * abs(adapted[1])


def test_the_penalty_chosen_is_the_one_that_predicts_the_other_fold():
    x, y, _ = problem(300, 5, 4, 4)
    folds = [(x[:150], y[:150]), (x[150:], y[150:])]
    relative = np.ones((4, 5))
    penalty, errors, explained = choose_penalty(folds, relative, grid=(0.01, 10.0))
    assert penalty == 0.01
    assert errors[0.01] < errors[10.0] < 1.2
    assert (explained > 0.8).all()
    noise = [(a, np.random.default_rng(i).standard_normal((150, 4))) for i, (a, _) in enumerate(folds)]
    penalty, errors, explained = choose_penalty(noise, relative, grid=(0.01, 10.0))
    assert penalty == 10.0
    assert (np.abs(explained) < 0.1).all()


def test_a_target_that_never_varies_is_not_explained():
    x, y, _ = problem(200, 4, 3, 5)
    y[:, 1] = -3.0
    _, errors, explained = choose_penalty([(x[:100], y[:100]), (x[100:], y[100:])], np.ones((3, 4)))
    assert np.isnan(explained).tolist() == [False, True, False]
    assert np.isfinite(list(errors.values())).all()


def test_what_is_explained_is_that_of_a_naive_loop():
    x, y, _ = problem(90, 3, 2, 7)
    x, y = x * [1, 5, 0.2], y + 4
    folds = [(x[:40], y[:40]), (x[40:], y[40:])]
    _, errors, explained = choose_penalty(folds, np.ones((2, 3)), grid=(0.1,))
    error, around = np.zeros(2), np.zeros(2)
    for (a, b), (c, d) in (folds, folds[::-1]):
        spread_x, spread_y = a.std(0) + 1e-3, b.std(0) + 1e-3
        z, t = (a - a.mean(0)) / spread_x, (b - b.mean(0)) / spread_y
        w = np.linalg.solve(z.T @ z / len(z) + 0.1 * np.eye(3), z.T @ t / len(z))
        held = (d - b.mean(0)) / spread_y
        error += ((held - (c - a.mean(0)) / spread_x @ w) ** 2).mean(0) / 2
        around += (held**2).mean(0) / 2
    np.testing.assert_allclose(explained, 1 - error / around, rtol=1e-10)
    assert errors[0.1] == pytest.approx(error.mean())


@pytest.mark.parametrize("name", ["ridge", "pooling", "effects"])
def test_examples(name):
    import importlib

    failed, attempted = doctest.testmod(
        importlib.import_module(f"mmopt.grn.{name}"), extraglobs={"np": np} | vars(module)
    )
    assert attempted > 0
    assert failed == 0

from dataclasses import replace

import numpy as np
import pytest

from mmopt._response import Form, log_odds
from mmopt.grn.confirmation import confirm
from mmopt.grn.ensemble import RADIUS, TOGETHER, bootstraps, cross_validated_penalty, fit_network
from mmopt.grn.network import sign_stability, spectral_radius
from mmopt.grn.problem import Problem


@pytest.fixture(scope="module")
def problem():
    """Regulator 0 switches feature 3 on, regulator 1 switches 4 off; 2 follows 0 and regulates nothing."""
    rng = np.random.default_rng(0)
    x = rng.beta(0.6, 0.6, (400, 3))
    x[:, 2] = np.clip(x[:, 0] + 0.15 * rng.standard_normal(400), 0, 1)
    on = Form(2.0, 0.4)(x)
    y = np.stack([on[:, 0], 1 - on[:, 1], rng.uniform(0.2, 0.8, 400)], 1) + 0.04 * rng.standard_normal(
        (400, 3)
    )
    level = np.hstack([x, y])
    sign = np.zeros((6, 3))
    sign[3, 0], sign[4, 1] = 1, -1
    return Problem(level, np.full(level.shape, np.nan), np.full(6, np.nan), np.arange(3), sign)


def fitted(problem, penalty=0.02, **settings):
    return fit_network(problem, penalty, confirm(problem, penalty, 100.0), **settings)


def test_the_network_has_the_true_edges_and_not_the_follower(problem):
    network, size, spread, radius = fitted(problem, n_members=8)
    edges = {(int(s), int(t)): w for s, t, w in zip(network.source, network.target, size, strict=True)}
    assert edges[0, 3] > 0.5
    assert edges[1, 4] < -0.5
    assert abs(edges.get((2, 3), 0)) < 0.01
    assert (0, 0) not in edges  # its own production is not seen
    assert len(spread) == len(size) == len(network.source)
    assert len(radius) == 8
    again, *_ = fitted(problem, n_members=8)
    np.testing.assert_array_equal(again.weights, network.weights)
    np.testing.assert_allclose(network.dense(1)[network.target, network.source], network.weights[1])


def test_without_evidence_the_follower_takes_its_share(problem):
    blind = replace(problem, sign=0 * problem.sign)
    network, size, *_ = fitted(blind, n_members=8)
    edges = {(int(s), int(t)): w for s, t, w in zip(network.source, network.target, size, strict=True)}
    assert edges[2, 3] > 0.02
    assert (blind.relative_penalty(50.0, 0.5)[3:] == 1).all()


def test_the_spectral_radius_stays_below_one(problem):
    level = problem.level.copy()
    level[:, 1] = 1 - level[:, 0]
    sign = problem.sign.copy()
    sign[0, :2], sign[1, :2] = [1, -1], [-1, 1]
    steep = np.clip(4 * (level - 0.5) + 0.5, 0, 1)
    loop = Problem(level, log_odds(steep), np.ones(6), problem.regulators, sign)
    network, _, _, before = fitted(loop, 0.005, n_members=6)
    after = [spectral_radius(network.dense(m)[:3], level[:, :3], network.forms[m]) for m in range(6)]
    assert max(before) > 1
    assert max(after) <= RADIUS + 1e-9


def test_chromatin_says_what_a_regulator_makes(problem):
    made_odds = problem.made_odds.copy()
    made_odds[:, [1, 3]] = log_odds(problem.level[:, [0, 1]])
    together = np.array([np.nan, 0.5, np.nan, 0.7, np.nan, np.nan])
    mixed = replace(problem, made_odds=made_odds, together=together)
    response = mixed.response(0.25, 0.5)
    np.testing.assert_allclose(response[:, 1], mixed.made_odds[:, 1])
    np.testing.assert_allclose(response[:, 3], 0.75 * mixed.odds[:, 3] + 0.25 * mixed.made_odds[:, 3])
    np.testing.assert_allclose(response[:, 0], mixed.odds[:, 0])
    penalty = mixed.relative_penalty(50.0, 0.5)
    assert penalty[1, 1] == 50
    assert penalty[0, 0] > 1e5  # production not seen: no edge on itself
    stricter = mixed.response(0.25, 0.6)
    np.testing.assert_allclose(stricter[:, 1], mixed.odds[:, 1])
    np.testing.assert_allclose(stricter[:, 3], response[:, 3])
    assert mixed.relative_penalty(50.0, 0.6)[1, 1] > 1e5


def test_members_differ_in_the_correlation_from_which_chromatin_counts(problem):
    """Chromatin of regulator 1 follows regulator 0, its expression does not: a share of the members sees that edge."""
    made_odds = problem.made_odds.copy()
    made_odds[:, 1] = log_odds(problem.level[:, 0])
    sign = problem.sign.copy()
    sign[1, 0] = 1

    def sees(correlation):
        together = np.array([np.nan, correlation, np.nan, np.nan, np.nan, np.nan])
        seen = replace(problem, made_odds=made_odds, together=together, sign=sign)
        network, *_ = fitted(seen, n_members=20)
        return (np.array([network.dense(m)[1, 0] for m in range(20)]) > 0.5).mean()

    low, high = TOGETHER
    shares = [sees(low + part * (high - low)) for part in (-0.1, 0.25, 0.5, 0.75, 1.1)]
    np.testing.assert_allclose(shares, [0, 0.25, 0.5, 0.75, 1], atol=0.051)


def test_donors_are_resampled_where_there_are_five():
    rng = np.random.default_rng(0)
    donors = np.repeat(list("abcde"), 10)
    for sample in bootstraps(50, donors, 5, rng):
        assert all(len(set(sample[donors == d])) == 1 for d in "abcde")
        assert sample.sum() == 50
    (sample,) = bootstraps(50, donors[:40], 1, rng)  # four donors: pools of cells
    assert sample.sum() == 50
    assert len(set(sample[:10])) > 1


def test_penalty_and_stability(problem):
    halves = [
        replace(problem, level=problem.level[rows], made_odds=problem.made_odds[rows])
        for rows in (slice(0, 200), slice(200, 400))
    ]
    penalty, errors, _ = cross_validated_penalty(halves)
    assert errors[penalty] == min(errors.values())
    weights = np.array([[1, -1, 1], [1, 1, 0], [1, -1, 0], [1, 0.0, 0]])
    for sign in (1, -1):
        np.testing.assert_allclose(sign_stability(sign * weights), [1, 0.5, 0.25])


def test_what_changes_is_regressed_on_as_what_it_comes_to(problem):
    """A target that lags behind its regulator looks as if it were driven by what came before."""
    rng = np.random.default_rng(1)
    n, turnover = 600, 12.0
    level = rng.beta(0.6, 0.6, (n, 6))
    made = 0.05 + 0.9 * Form(2.0, 0.4)(level[:, 0])
    level[:, 3] = rng.beta(0.6, 0.6, n)  # what was made before
    pace = np.zeros((n, 6))
    pace[:, 3] = turnover * (made - level[:, 3])
    lagging = replace(problem, level=level, made_odds=np.full(level.shape, np.nan), pace=pace)
    np.testing.assert_allclose(lagging.response(0.0, 0.5, turnover)[:, 3], log_odds(made))
    np.testing.assert_allclose(lagging.response(0.0, 0.5), lagging.odds)

    def edge(given):
        network, size, *_ = fitted(given, n_members=9)
        return sum(size[(network.source == 0) & (network.target == 3)])

    assert edge(lagging) > 0.5 > edge(replace(lagging, pace=None)) + 0.3


def test_chromatin_and_pace_say_half_each_what_is_made_of_a_regulator(problem):
    made_odds = np.full(problem.level.shape, np.nan)
    made_odds[:, 1] = log_odds(problem.level[:, 0])
    together = np.array([np.nan, 0.9, np.nan, np.nan, np.nan, np.nan])
    pace = np.ones(problem.level.shape)
    timed = replace(problem, made_odds=made_odds, together=together, pace=pace)
    response = timed.response(0.3, 0.5, 12.0)
    np.testing.assert_allclose(response[:, 1], (made_odds[:, 1] + log_odds(problem.level[:, 1] + 1 / 12)) / 2)
    np.testing.assert_allclose(response[:, 2], log_odds(problem.level[:, 2] + 1 / 12))
    np.testing.assert_allclose(timed.response(0.3, 0.5)[:, 1], made_odds[:, 1])

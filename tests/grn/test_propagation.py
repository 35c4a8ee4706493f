import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt._response import FLOOR, Form, expit, log_odds
from mmopt.grn.network import spectral_radius
from mmopt.grn.propagation import Cells, Readout, propagate
from mmopt.grn.scale import tops

FORM = Form(2.0, 0.4)


def world(seed=0, n=12, p=3, n_features=7):
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.05, 0.95, (n, n_features))
    weights = rng.normal(0, 1.5, (n_features, p))
    return Cells(level, np.full(n_features, 5.0)), np.arange(p), weights


def naive(level, regulators, weights, form, clamps, n_steps):
    """Cell by cell and step by step, in double precision."""
    out = level.astype(float).copy()
    span = 1 - 2 * FLOOR
    for c in range(len(level)):
        start = {r: max(float(level[c, r]), 0.0) for r in regulators}
        now = start | {r: v for r, v in clamps.items() if r in regulators}
        for _ in range(n_steps):
            new = dict(now)
            for r in regulators:
                if r in clamps:
                    continue
                push = sum(
                    weights[r, i] * (form(np.float64(now[s])) - form(np.float64(start[s])))
                    for i, s in enumerate(regulators)
                )
                odds = float(log_odds(np.float64(level[c, r])))
                aim = max(start[r] + (expit(odds + push) - expit(odds)) / span, 0)
                new[r] = now[r] + 0.3 * (aim - now[r])
            now = new
        for f in range(level.shape[1]):
            push = sum(
                weights[f, i] * (form(np.float64(now[s])) - form(np.float64(start[s])))
                for i, s in enumerate(regulators)
            )
            odds = float(log_odds(np.float64(level[c, f])))
            out[c, f] = max(level[c, f] + (expit(odds + push) - expit(odds)) / span, 0)
        for r in regulators:
            out[c, r] = level[c, r] + now[r] - start[r]
        for column, value in clamps.items():
            out[c, column] = value
    return out


@pytest.mark.parametrize("clamps", [{0: 0.0}, {1: 1.8, 2: 0.0}])
@pytest.mark.parametrize("n_steps", [1, 9])
def test_against_a_naive_loop(clamps, n_steps):
    cells, regulators, weights = world()
    got, _ = propagate(cells, regulators, weights, FORM, clamps, n_steps=n_steps)
    expected = naive(cells.level, regulators, weights, FORM, clamps, n_steps)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_a_gene_without_edges_changes_itself_alone():
    cells, regulators, weights = world()
    weights[:, 1] = 0
    got, clipped = propagate(cells, regulators, weights, FORM, {1: 0.0}, n_steps=20)
    others = [0, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(got[:, others], cells.level[:, others])
    assert (got[:, 1] == 0).all()
    assert not clipped.any()
    same, _ = propagate(cells, regulators, weights, FORM, {5: 0.3})  # no regulator at all
    np.testing.assert_array_equal(np.delete(same, 5, 1), np.delete(cells.level, 5, 1))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50))
def test_the_order_of_features_does_not_matter(seed):
    cells, regulators, weights = world(seed)
    order = np.random.default_rng(seed).permutation(7)
    where = np.argsort(order)
    got, _ = propagate(cells, regulators, weights, FORM, {0: 0.0})
    other, _ = propagate(
        Cells(cells.level[:, order], cells.highest[order]),
        where[regulators],
        weights[order],
        FORM,
        {int(where[0]): 0.0},
    )
    np.testing.assert_allclose(other, got[:, order], atol=1e-5)


def test_steady_is_where_one_more_step_changes_nothing():
    cells, regulators, weights = world()
    weights *= 0.2
    steady, _ = propagate(cells, regulators, weights, FORM, {0: 0.0}, n_steps=None)
    long, _ = propagate(cells, regulators, weights, FORM, {0: 0.0}, n_steps=200)
    np.testing.assert_allclose(steady, long, atol=1e-3)


def test_nothing_leaves_the_observed_range_and_it_is_counted():
    cells, regulators, weights = world()
    low = Cells(cells.level, np.full(7, 0.5))
    weights[6] = [30, 0, 0]
    got, clipped = propagate(low, regulators, weights, FORM, {0: 2.0}, n_steps=3)
    assert (got[:, 6] <= np.maximum(cells.level[:, 6], 0.5)).all()
    assert clipped[:, 6].any()
    assert (got[:, 3:] >= 0).all()


def test_a_shift_moves_a_gene_and_what_it_regulates():
    cells, regulators, weights = world()
    shift = np.full(12, -2.0)
    got, _ = propagate(cells, regulators, weights, FORM, {}, shifts={5: shift})
    span = 1 - 2 * FLOOR
    expected = cells.level[:, 5] + (expit(cells.odds[:, 5] - 2) - expit(cells.odds[:, 5])) / span
    np.testing.assert_allclose(got[:, 5], np.maximum(expected, 0), atol=1e-5)
    np.testing.assert_array_equal(np.delete(got, 5, 1), np.delete(cells.level, 5, 1))
    lowered, _ = propagate(cells, regulators, 0 * weights, FORM, {}, shifts={0: shift}, n_steps=None)
    assert (lowered[:, 0] < cells.level[:, 0]).all()
    assert (
        propagate(cells, regulators, weights, FORM, {}, shifts={0: shift})[0][:, 3:] != cells.level[:, 3:]
    ).any()


def test_readout_leaves_clamped_features_out_of_totals_and_centres():
    readout = Readout(
        [(slice(0, 3), "share"), (slice(3, 5), "ratio")],
        np.array([10, 20, 30, 8, 8.0]),
        np.array([0, 0, 0, 1, 1.0]),
    )
    level = np.array([[0.5, 0.5, 0.5, 1.0, 0.0]])
    values = readout.values(level)[0]
    np.testing.assert_allclose(values, [5, 10, 15, 8, 1])
    logged = readout.logged(level, [2])[0]
    np.testing.assert_allclose(logged[:3], np.log1p(np.array([5, 10, 15]) * 1e4 / 15))
    np.testing.assert_allclose(logged[3] - logged[4], np.log(8))
    moved = level.copy()
    moved[0, 2] = 0
    change = readout.logged(moved, [2]) - readout.logged(level, [2])
    np.testing.assert_allclose(change[0, [0, 1, 3, 4]], 0, atol=1e-12)


def test_form_and_scale():
    u = np.linspace(0.01, 2, 50)
    for form in (Form(1.0, 0.3), Form(3.0, 0.5)):
        assert form(np.float64(form.half)) == pytest.approx(0.5)
        numeric = (form(u + 1e-6) - form(u - 1e-6)) / 2e-6
        np.testing.assert_allclose(form.slope(u), numeric, rtol=1e-4)
    np.testing.assert_allclose(expit(log_odds(u[u < 1])), FLOOR + (1 - 2 * FLOOR) * u[u < 1])
    assert tops(np.tile(np.linspace(0, 1, 1001)[:, None], (1, 2))).tolist() == pytest.approx(
        [0.995 / 0.9] * 2
    )


def test_spectral_radius_of_the_average_jacobian():
    rng = np.random.default_rng(3)
    level, weights = rng.uniform(0.1, 0.9, (30, 4)), rng.standard_normal((4, 4))
    jacobians = []
    for x in level:

        def f(y, x=x):
            return (expit(log_odds(x) + weights @ (FORM(y) - FORM(x))) - expit(log_odds(x))) / (1 - 2 * FLOOR)

        jacobians.append(np.stack([(f(x + 1e-6 * e) - f(x - 1e-6 * e)) / 2e-6 for e in np.eye(4)], 1))
    expected = np.abs(np.linalg.eigvals(np.mean(jacobians, 0))).max()
    assert spectral_radius(weights, level, FORM) == pytest.approx(expected, rel=1e-4)

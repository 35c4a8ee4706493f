import numpy as np
import pytest
import torch

from mmopt import optim
from mmopt.dynamics import Flow, couple, fit_flow, wasserstein

TIMES = np.array([0.0, 1.0, 3.0])


def states():
    """A cloud that splits in two."""
    rng = np.random.default_rng(0)
    side = np.where(rng.random(150) < 0.3, -1.0, 1.0)
    parts = [rng.normal(scale=0.3, size=(150, 2)) for _ in TIMES]
    for part, way in zip(parts, (0.0, 1.5, 4.0), strict=True):
        part += np.column_stack([way * side, np.full(150, way)])
    return parts


@pytest.fixture(scope="module")
def flow():
    s = states()
    plans = [couple(s[i], s[i + 1]) for i in (0, 1)]
    return fit_flow(s, TIMES, plans, optim.creator("asgdadam", lr=5e-3), n_hidden=64, n_steps=600, seed=1)


@pytest.mark.parametrize("stochastic", [False, True])
def test_it_reaches_the_later_points(flow, stochastic):
    s = states()
    path = flow.run(s[0], TIMES, stochastic=stochastic)
    for t in (1, 2):
        assert wasserstein(path[t], s[t]) < 0.35 * wasserstein(s[t - 1], s[t])
    assert abs((path[-1][:, 0] < 0).mean() - (s[-1][:, 0] < 0).mean()) < 0.12


def test_arrays_hold_everything(flow):
    of_before = {"losses": np.zeros(3)}  # which nobody read
    again = Flow.from_arrays({k: v.copy() for k, v in flow.arrays().items()} | of_before, TIMES)
    start = states()[0][:5]
    np.testing.assert_array_equal(again.run(start, TIMES), flow.run(start, TIMES))


def test_the_velocity_is_where_a_cell_is_going_and_how_fast(flow):
    start = states()[1]
    ran = flow.run(start, np.array([1.0, 1.01]))
    np.testing.assert_allclose(flow.velocity(start, np.ones(len(start))), (ran[1] - ran[0]) / 0.01, atol=0.05)
    # each cell has a time of its own
    times = np.where(np.arange(len(start)) < 50, 1.0, 2.0)
    mixed = flow.velocity(start, times)
    np.testing.assert_allclose(mixed[:50], flow.velocity(start, np.ones(len(start)))[:50], rtol=1e-5)
    assert not np.allclose(mixed[50:], flow.velocity(start, np.ones(len(start)))[50:], rtol=1e-3)


def test_far_from_the_data_nothing_explodes(flow):
    path = flow.run(np.full((3, 2), 500.0), TIMES, stochastic=True)
    assert np.isfinite(path).all()
    assert np.abs(path).max() < 2000


def test_the_seed_decides_and_global_generators_are_left_alone():
    s = states()
    plans = [couple(s[i], s[i + 1]) for i in (0, 1)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (
        fit_flow(s, TIMES, plans, optim.creator("adam", lr=1e-2), n_hidden=8, n_steps=10, seed=k)
        for k in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    start = s[0][:4]
    np.testing.assert_array_equal(one.run(start, TIMES), two.run(start, TIMES))
    assert np.abs(one.run(start, TIMES) - other.run(start, TIMES)).max() > 1e-4
    noisy = [one.run(start, TIMES, stochastic=True, seed=k) for k in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-3

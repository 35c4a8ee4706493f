import numpy as np
from scipy.integrate import solve_ivp

from mmopt._response import Form
from mmopt.dynamics import Circuit, follow
from mmopt.grn.propagation import Cells, propagate

TIMES = np.array([0.0, 2.0, 5.0])
CIRCUIT = Circuit(np.array([[1.0, -4.0, 0], [3.0, 0.5, 0], [-3.0, 2.0, 0]]), Form(2.0, 0.5), 0.8)


def path(seed=0, n=6):
    return np.random.default_rng(seed).uniform(0.05, 0.95, (3, n, 3))


def test_without_a_clamp_the_observed_path_is_followed_exactly():
    np.testing.assert_allclose(follow(CIRCUIT, TIMES, path(), lambda t: {}), path(), atol=1e-12)


def test_against_an_adaptive_solver():
    observed = path(n=1)
    made = follow(CIRCUIT, TIMES, observed, lambda t: {0: 0.0}, step=0.002)

    def odds(level):
        inside = 0.03 + 0.94 * np.clip(level, 0, 1)
        return np.log(inside / (1 - inside))

    def drift(t, x):
        w = np.array([np.interp(t, TIMES, observed[:, 0, i]) for i in range(3)])
        slope = [(observed[i + 1, 0] - observed[i, 0]) / (TIMES[i + 1] - TIMES[i]) for i in (0, 1)][
            int(t >= 2)
        ]
        x = np.concatenate([[0.0], x])
        push = CIRCUIT.weights @ (CIRCUIT.form(x) - CIRCUIT.form(w))
        answer = (1 / (1 + np.exp(-odds(w) - push)) - 1 / (1 + np.exp(-odds(w)))) / 0.94
        return (slope + CIRCUIT.rate * (answer - (x - w)))[1:]

    first = solve_ivp(drift, (0, 2), observed[0, 0, 1:], rtol=1e-9, atol=1e-9)
    second = solve_ivp(drift, (2, 5), first.y[:, -1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made[1, 0, 1:], first.y[:, -1], atol=2e-3)
    np.testing.assert_allclose(made[2, 0, 1:], second.y[:, -1], atol=2e-3)


def test_in_the_long_run_like_the_propagation_of_a_snapshot():
    rng = np.random.default_rng(1)
    level = rng.uniform(0.1, 0.9, (8, 3))
    weights = 0.5 * CIRCUIT.weights
    steady, _ = propagate(
        Cells(level, np.full(3, 5.0)), np.arange(3), weights, Form(2.0, 0.5), {1: 0.0}, n_steps=None
    )
    circuit = Circuit(weights, Form(2.0, 0.5), 1.0)
    made = follow(circuit, np.array([0.0, 60.0]), np.stack([level, level]), lambda t: {1: 0.0})
    np.testing.assert_allclose(made[-1], steady, atol=2e-3)


def test_a_pulse_fades_and_a_permanent_clamp_stays():
    still = np.full((3, 1, 3), 0.5)
    circuit = Circuit(np.array([[0, 0, 0], [4.0, 0, 0], [0, 0, 0]]), Form(2.0, 0.5), 2.0)
    pulse = follow(circuit, TIMES, still, lambda t: {0: 2.0} if t < 2 else {})
    always = follow(circuit, TIMES, still, lambda t: {0: 2.0})
    assert pulse[1, 0, 1] > 0.7
    assert always[2, 0, 1] > 0.7
    assert abs(pulse[2, 0, 1] - 0.5) < 0.15
    assert always[2, 0, 0] == 2.0


def test_a_shift_acts_like_an_input():
    still = np.full((2, 1, 3), 0.5)
    made = follow(CIRCUIT, np.array([0.0, 5.0]), still, lambda t: {}, lambda t: {2: np.array([-3.0])})
    assert made[-1, 0, 2] < 0.2
    np.testing.assert_allclose(made[-1, 0, :2], 0.5, atol=1e-9)

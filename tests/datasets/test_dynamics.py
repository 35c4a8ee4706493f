from dataclasses import asdict

import numpy as np
import pytest

from mmopt.datasets import Kinetics
from mmopt.datasets.dynamics import CHROMATIN, EXPRESSION, PROTEIN, TRANSCRIPT, Clamp, integrate

QUIET = Kinetics(noise=0.0, speed=0.0, head_start=0.0)


def constant(level):
    return lambda x: np.full_like(x, level)


def days(t, n=1):
    return np.full((1, n), float(t))


def test_without_noise_it_is_the_ode():
    read = integrate(
        constant(1.0), np.array([0.0]), days(2.0), kinetics=Kinetics(**asdict(QUIET) | {"step": 0.001})
    )
    assert read[0, TRANSCRIPT, 0, 0] == pytest.approx(1 - np.exp(-2), abs=1e-3)


def test_filters_follow_one_after_the_other():
    t = np.linspace(0, 8, 41)
    x = integrate(constant(1.0), np.array([0.0]), t[:, None], kinetics=QUIET)[:, :, 0, 0]
    half = [t[np.argmax(x[:, stage] > 0.5)] for stage in (TRANSCRIPT, CHROMATIN, EXPRESSION, PROTEIN)]
    assert half == sorted(half)
    assert len(set(half)) == 4


def test_noise_has_the_size_of_a_birth_death_process():
    kinetics = Kinetics(speed=0.0, head_start=0.0, leak=0.0)
    x = integrate(constant(1.0), np.array([1.0]), days(8, 4000), kinetics=kinetics)[0, TRANSCRIPT, 0]
    assert x.mean() == pytest.approx(1, abs=0.01)
    assert x.std() == pytest.approx(kinetics.noise, rel=0.1)


def test_a_cell_draws_the_same_with_and_without_clamp_and_whatever_else_is_read():
    n = 1100  # more than one block
    initial, late = np.array([0.5, 0.5, 0.5]), days(3, n)
    clamp = Clamp(0, 0.0, np.zeros(n), np.full(n, np.inf))
    free = integrate(constant(0.7), initial, late, seed=(1,))
    held = integrate(constant(0.7), initial, np.vstack([late, 2 * late]), clamps=[clamp], seed=(1,))
    assert (held[0, TRANSCRIPT, 0] == 0).all()
    np.testing.assert_array_equal(held[0][:, 1:], free[0][:, 1:])


def test_clamps_open_and_close_cell_by_cell():
    start, stop = np.array([0.0, 1.0]), np.array([1.0, np.inf])
    clamp = Clamp(0, 5.0, start, stop)
    at = np.array([[0.5, 0.5], [1.5, 1.5]])
    x = integrate(constant(1.0), np.array([1.0]), at, clamps=[clamp], kinetics=QUIET)[:, TRANSCRIPT, 0]
    assert x[0].tolist() == [5.0, 1.0]
    assert x[1, 1] == 5
    assert 1 < x[1, 0] < 5


def test_levels_never_fall_below_zero():
    x = integrate(constant(0.0), np.array([0.1]), days(2, 500), kinetics=Kinetics(noise=1.0))
    assert x.min() >= 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rate": 0.0}, "must be positive"),
        ({"noise": -0.1}, "not negative"),
        ({"speed": np.nan}, "finite"),
        ({"leak": 1.5}, "leak must be at most 1"),
        ({"step": 1.0}, "step at most"),
    ],
)
def test_kinetics_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        Kinetics(**wrong)

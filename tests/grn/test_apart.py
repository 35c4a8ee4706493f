import numpy as np

from mmopt.grn.apart import apart_by_chance


def test_samples_of_one_population_are_as_far_apart_as_chance_has_it():
    rng = np.random.default_rng(0)
    p = [apart_by_chance(*rng.normal(0, [1, 10, 0, 3], (2, 15, 4)), rng) for _ in range(200)]
    assert 0.01 < np.mean(np.array(p) <= 0.05) < 0.1
    assert abs(np.mean(p) - 0.5) < 0.07


def test_what_differs_is_told_apart_whatever_the_scale():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (2, 30, 6))
    other[:, 2] += 1.5
    assert apart_by_chance(one, other, rng) < 0.05
    assert apart_by_chance(one * [1e6, 1, 1e-3, 1, 1, 1], other * [1e6, 1, 1e-3, 1, 1, 1], rng) < 0.05
    assert apart_by_chance(one, one, rng) == 1


def test_too_few_cells_can_not_say():
    rng = np.random.default_rng(0)
    assert np.isnan(apart_by_chance(np.zeros((2, 3)), np.ones((4, 3)), rng))
    assert apart_by_chance(np.zeros((1, 3)), np.ones((80, 3)), rng) < 0.05

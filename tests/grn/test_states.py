import numpy as np
import pytest

from mmopt.grn.states import Surroundings


def test_neighbours_are_counted_by_group_and_no_cell_is_its_own():
    rng = np.random.default_rng(0)
    states = np.vstack([rng.normal(0, 1, (40, 2)), rng.normal(10, 1, (40, 2)), rng.normal(0, 1, (20, 2))])
    group = np.repeat([0, 1, -1], [40, 40, 20])
    among = Surroundings(states, group, 2)
    here = among.shares(states)
    np.testing.assert_allclose(here.sum(1), 1)
    np.testing.assert_array_equal(here[:40, 0], 1)
    np.testing.assert_array_equal(here[80:, 0], 1)  # cells without a group have neighbours and are none
    moved = np.where(group[:, None] == 0, states + 10, states)
    np.testing.assert_array_equal(among.shares(moved)[:40, 1], 1)
    # a lone cell of its group does not find itself where it was
    alone = np.where(np.arange(100) == 0, 1, 0)
    assert Surroundings(states, alone, 2).shares(states)[0].tolist() == [1, 0]
    brute = np.linalg.norm(states[:, None] - states[None, :80], axis=-1)
    np.fill_diagonal(brute[:80], np.inf)
    nearest = np.argsort(brute, axis=1)[:, :15]
    np.testing.assert_allclose(here[:, 1], (group[nearest] == 1).mean(1))


def test_neighbours_are_needed():
    with pytest.raises(ValueError, match="two cells with a group are needed, got 1"):
        Surroundings(np.zeros((3, 1)), np.array([0, -1, -1]), 1)

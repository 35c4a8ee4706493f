"""Seeds: what they fix, and what may be one."""

import random

import numpy as np
import pytest
import torch

from mmopt._random import isolated


def drawn():
    return random.random(), np.random.random(), torch.rand(()).item()


def test_integers_of_numpy_are_seeds_like_others():
    with isolated(3):
        expected = drawn()
    before = random.getstate()
    with isolated(np.int64(3)):
        assert drawn() == expected
    assert random.getstate() == before


def test_half_a_seed_is_refused():
    with pytest.raises(ValueError, match="random_state must be an integer"), isolated(0.5):
        pass

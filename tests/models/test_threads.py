import pytest
import torch

from mmopt.models.threads import WORTH_SHARING, sensible_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n_values", "expected"), [(WORTH_SHARING - 1, 1), (WORTH_SHARING, 2)])
def test_small_steps_get_one_thread(n_values, expected):
    with sensible_threads(n_values):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_an_error_gives_the_threads_back():
    with pytest.raises(RuntimeError, match="stop"), sensible_threads(10):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 2

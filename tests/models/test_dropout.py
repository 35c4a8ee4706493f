import numpy as np
import pytest
import torch

from mmopt.models.dropout import Dropout, dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.75])
def test_drops_at_the_rate_and_keeps_the_expectation(rate):
    torch.manual_seed(0)
    x = dropout(torch.ones(400_000), rate, True)
    cut = round(256 * rate) / 256
    np.testing.assert_allclose((x == 0).double().mean(), cut, atol=0.004)
    assert x.unique().tolist() == pytest.approx([0, 1 / (1 - cut)])
    np.testing.assert_allclose(x.mean(), 1, atol=0.02)


def test_units_are_dropped_independently():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(20_000, 16), 0.3, True) > 0).double()
    np.testing.assert_allclose(np.corrcoef(kept.numpy().T), np.eye(16), atol=0.035)


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (8,), (9,), (3, 5), (0, 4)])
def test_any_shape(shape):
    assert dropout(torch.ones(shape), 0.5, True).shape == shape


def test_memory_that_is_not_contiguous():
    assert dropout(torch.ones(3, 5).T, 0.5, True).shape == (5, 3)


def test_nothing_happens_in_evaluation_or_at_rate_zero():
    x = torch.randn(50)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


def test_the_seed_decides_and_the_gradient_passes_where_kept():
    x = torch.randn(100, requires_grad=True)
    torch.manual_seed(3)
    first = dropout(x, 0.25, True)
    torch.manual_seed(3)
    second = dropout(x, 0.25, True)
    assert torch.equal(first, second)
    first.sum().backward()
    torch.testing.assert_close(x.grad, (first != 0) / 0.75)


@pytest.mark.parametrize("rate", [0.999, 1.0])
def test_rates_next_to_one_stay_finite(rate):
    assert torch.isfinite(dropout(torch.ones(64), rate, True)).all()

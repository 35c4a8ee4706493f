import numpy as np
import pytest
import torch

from mmopt.models.genes import SMALL, negative_binomial_of_shares
from mmopt.models.likelihoods import LARGE_DISPERSION, negative_binomial


@pytest.mark.parametrize("level", [-8.0, 0.0, np.log(LARGE_DISPERSION), 12.0])
def test_value_and_gradients_equal_those_of_plain_operations(to_csr, level):
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (7, 11)).astype(np.float64)
    counts[2] = 0  # a measured cell without counts
    counts[3, :3] = SMALL, SMALL + 1, 5000  # the last that is looked up, and larger ones
    x = to_csr(counts)
    logits = torch.as_tensor(rng.normal(size=(7, 11))).requires_grad_()
    log_theta = torch.as_tensor(level + rng.normal(size=11)).requires_grad_()
    upstream = torch.as_tensor(rng.random(7))

    log_mean = torch.log_softmax(logits, 1) + x.totals().clamp_min(1).log()[:, None]
    expected = negative_binomial(x, log_mean, log_theta)
    found = negative_binomial_of_shares(x, logits, log_theta)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(v @ upstream, (logits, log_theta)) for v in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lowest", [-30.0, -95.0])
def test_extreme_logits_stay_finite(to_csr, lowest):
    x = to_csr(np.array([[3.0, 0, 50], [0, 0, 0]], np.float32))
    logits = torch.tensor([[80.0, -80, 0], [-80, 80, 0]], requires_grad=True)
    log_theta = torch.tensor([lowest, 0, 30], requires_grad=True)
    value = negative_binomial_of_shares(x, logits, log_theta)
    value.sum().backward()
    assert all(torch.isfinite(t).all() for t in (value, logits.grad, log_theta.grad))


def test_half_precision_logits_are_worked_on_in_single(to_csr):
    """Under autocast the head gives such logits, on a CPU as on a GPU."""
    x = to_csr(np.arange(12, dtype=np.float32).reshape(3, 4))
    logits, log_theta = torch.linspace(-2, 2, 12).reshape(3, 4).bfloat16(), torch.zeros(4)
    found = negative_binomial_of_shares(x, logits, log_theta)
    assert found.dtype == torch.float32
    assert found.equal(negative_binomial_of_shares(x, logits.float(), log_theta))

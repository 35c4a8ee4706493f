import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.autograd import gradcheck, gradgradcheck

from mmopt.models.likelihoods import (
    expected_log1p,
    multinomial,
    negative_binomial,
    negative_binomial_mixture,
)

# a row without counts, small counts, a large one
COUNTS = np.array([[0, 0, 0, 0], [1, 0, 3, 0], [0, 250, 1, 7.0]])


def tensor(values, grad=False):
    return torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=grad)


def nbinom(x, log_mean, log_theta):
    """Log-probabilities in SciPy's parametrisation."""
    mean, theta = np.exp(log_mean), np.exp(log_theta)
    return stats.nbinom.logpmf(x, theta, theta / (theta + mean))


def draws(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 1.5, COUNTS.shape), rng.normal(0.0, 1.0, COUNTS.shape[1])


class TestNegativeBinomial:
    def test_equals_scipy(self, to_csr):
        log_mean, log_theta = draws()
        value = negative_binomial(to_csr(COUNTS), tensor(log_mean), tensor(log_theta))
        np.testing.assert_allclose(value, nbinom(COUNTS, log_mean, log_theta).sum(1), rtol=1e-8)

    @pytest.mark.parametrize("log_theta", [-12.0, -6.0, 6.0, 12.0])
    @pytest.mark.parametrize("log_mean", [-25.0, 0.0, 8.0])
    def test_equals_the_formula_in_extremes(self, to_csr, log_mean, log_theta):
        value = negative_binomial(
            to_csr(COUNTS), tensor(np.full(COUNTS.shape, log_mean)), tensor(np.full(4, log_theta))
        )
        # SciPy rounds the success probability to 1 for such means, so the textbook formula stands in, in logarithms
        theta, log_both = np.exp(log_theta), np.logaddexp(log_mean, log_theta)
        expected = (
            special.gammaln(COUNTS + theta)
            - special.gammaln(theta)
            - special.gammaln(COUNTS + 1)
            + theta * (log_theta - log_both)
            + COUNTS * (log_mean - log_both)
        )
        np.testing.assert_allclose(value, expected.sum(1), rtol=1e-6, atol=1e-7)

    def test_probabilities_sum_to_one(self, to_csr):
        x = np.arange(2000.0)[:, None]
        value = negative_binomial(to_csr(x), torch.full((2000, 1), 2.0, dtype=torch.float64), tensor([0.3]))
        assert float(value.exp().sum()) == pytest.approx(1, abs=1e-9)

    def test_derivatives(self, to_csr):
        log_mean, log_theta = draws(1)
        x = to_csr(COUNTS)
        arguments = tensor(log_mean, True), tensor(log_theta, True)
        assert gradcheck(lambda a, b: negative_binomial(x, a, b), arguments)
        assert gradgradcheck(lambda a, b: negative_binomial(x, a, b), arguments)

    @pytest.mark.parametrize("x", [0.0, 1.0, 1e5])
    @pytest.mark.parametrize("log_mean", [-60.0, 0.0, 12.0])
    @pytest.mark.parametrize("log_theta", [-40.0, 0.0, 20.0])
    def test_second_derivatives_are_finite_in_float32(self, to_csr, x, log_mean, log_theta):
        a = torch.full((1, 1), log_mean, requires_grad=True)
        b = torch.full((1,), log_theta, requires_grad=True)
        value = negative_binomial(to_csr(np.array([[x]], np.float32)), a, b).sum()
        first = torch.autograd.grad(value, (a, b), create_graph=True)
        second = torch.autograd.grad(sum(g.sum() for g in first), (a, b))
        for t in (value, *first, *second):
            assert torch.isfinite(t).all()


class TestMixture:
    def arguments(self, seed=0):
        rng = np.random.default_rng(seed)
        shape = COUNTS.shape
        background = rng.normal(0, 1, shape)
        return (
            background,
            background + rng.gamma(2, 1, shape),
            rng.normal(0, 1, shape),
            rng.normal(0, 2, shape),
        )

    def test_equals_scipy(self):
        background, foreground, log_theta, logit = self.arguments()
        value = negative_binomial_mixture(tensor(COUNTS), *map(tensor, self.arguments()))
        pi = 1 / (1 + np.exp(-logit))
        expected = np.logaddexp(
            np.log(pi) + nbinom(COUNTS, background, log_theta),
            np.log1p(-pi) + nbinom(COUNTS, foreground, log_theta),
        )
        np.testing.assert_allclose(value, expected, rtol=1e-8)

    def test_one_component_alone_is_a_negative_binomial(self, to_csr):
        background, foreground, log_theta, _ = map(tensor, self.arguments())
        log_theta = log_theta[:1].expand(COUNTS.shape)
        for logit, log_mean in ((1e4, background), (-1e4, foreground)):
            value = negative_binomial_mixture(
                tensor(COUNTS),
                background,
                foreground,
                log_theta,
                torch.full(COUNTS.shape, logit, dtype=torch.float64),
            )
            torch.testing.assert_close(
                value.sum(1), negative_binomial(to_csr(COUNTS), log_mean, log_theta[0])
            )

    def test_derivatives(self):
        arguments = tuple(tensor(a, True) for a in self.arguments(1))
        assert gradcheck(lambda *a: negative_binomial_mixture(tensor(COUNTS), *a), arguments)
        assert gradgradcheck(lambda *a: negative_binomial_mixture(tensor(COUNTS), *a), arguments)

    @pytest.mark.parametrize("x", [0.0, 1.0, 1e5])
    @pytest.mark.parametrize("apart", [0.0, 12.0, 80.0])
    @pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
    @pytest.mark.parametrize("log_theta", [-30.0, 8.0])
    def test_second_derivatives_are_finite_in_float32(self, x, apart, logit, log_theta):
        values = (-1.0, -1.0 + apart, log_theta, logit)
        arguments = [torch.full((1, 1), v, requires_grad=True) for v in values]
        value = negative_binomial_mixture(torch.full((1, 1), x), *arguments).sum()
        first = torch.autograd.grad(value, arguments, create_graph=True)
        second = torch.autograd.grad(sum(g.sum() for g in first), arguments)
        for t in (value, *first, *second):
            assert torch.isfinite(t).all()


class TestMultinomial:
    def test_equals_scipy(self, to_csr):
        logits = np.random.default_rng(0).normal(0, 3, COUNTS.shape)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = [stats.multinomial.logpmf(x, int(x.sum()), q) for x, q in zip(COUNTS, p, strict=True)]
        np.testing.assert_allclose(
            multinomial(to_csr(COUNTS), tensor(logits)), expected, rtol=1e-8, atol=1e-12
        )

    def test_shifting_the_logits_changes_nothing(self, to_csr):
        logits = tensor(np.random.default_rng(1).normal(0, 3, COUNTS.shape))
        x = to_csr(COUNTS)
        torch.testing.assert_close(multinomial(x, logits), multinomial(x, logits + 700))

    def test_row_without_counts_is_certain_and_has_no_gradient(self, to_csr):
        logits = tensor(np.full(COUNTS.shape, 5.0), True)
        value = multinomial(to_csr(COUNTS), logits)
        assert value[0] == 0
        value.sum().backward()
        assert not logits.grad[0].any()

    def test_derivatives(self, to_csr):
        logits = tensor(np.random.default_rng(2).normal(0, 1, COUNTS.shape), True)
        assert gradcheck(lambda a: multinomial(to_csr(COUNTS), a), logits)
        assert gradgradcheck(lambda a: multinomial(to_csr(COUNTS), a), logits)

    def test_second_derivatives_are_finite_for_huge_counts_and_logits(self, to_csr):
        x = to_csr(np.array([[1e6, 0, 1], [0, 0, 0]], np.float32))
        logits = torch.tensor([[-300.0, 300.0, 0.0], [300.0, -300.0, 0.0]], requires_grad=True)
        value = multinomial(x, logits).sum()
        (first,) = torch.autograd.grad(value, logits, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), logits)
        assert all(torch.isfinite(t).all() for t in (value, first, second))


class TestExpectedLog1p:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equals_the_sum_over_all_counts(self, dtype):
        x = np.arange(200_000)
        for mean in (1e-3, 0.3, 5, 50, 3000):
            theta = np.array([0.2, 0.5, 2, 20, 1e4])
            p = stats.nbinom.pmf(x[:, None], theta, theta / (theta + mean))
            found = expected_log1p(
                torch.full((5,), np.log(mean), dtype=dtype), torch.as_tensor(np.log(theta), dtype=dtype)
            )
            np.testing.assert_allclose(found, np.log1p(x) @ p, atol=2e-3)

    def test_derivatives(self):
        arguments = tensor([-3.0, 0.0, 2.0, 8.0], True), tensor([0.0, -2.0, 1.0, 4.0], True)
        assert gradcheck(expected_log1p, arguments)
        assert gradgradcheck(expected_log1p, arguments)

"""The likelihood of peaks from a sample of them, against the likelihood of all."""

import numpy as np
import pytest
import torch

from mmopt.models import likelihoods, peaks
from mmopt.models.likelihoods import FACTORIALS, log_factorial


def problem(to_csr, n_peaks=1003, n=5, seed=0):
    """Counts that a low-rank model did not produce, so that no gradient is near zero, and uneven peaks."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 1.5, n_peaks)
    hidden, weight = rng.normal(0, 0.5, (n, 4)), rng.normal(0, 0.5, (n_peaks, 4))
    rate = np.exp(bias + rng.normal(0, 0.5, (n, n_peaks)))
    counts = rng.poisson(300 * rate / rate.sum(1, keepdims=True)).astype(np.float64)
    counts[2] = 0  # a measured cell without fragments
    parameters = [torch.as_tensor(a).requires_grad_() for a in (hidden, weight, bias)]
    return to_csr(counts), parameters, torch.as_tensor(rng.random(n))


def with_gradients(value, upstream, parameters):
    return [value.detach(), *torch.autograd.grad(value @ upstream, parameters)]


def test_all_peaks_give_the_plain_likelihood(to_csr):
    x, parameters, upstream = problem(to_csr)
    hidden, weight, bias = parameters
    expected = likelihoods.multinomial(x, hidden @ weight.T + bias)
    found = peaks.multinomial(x, *parameters)
    for one, other in zip(
        with_gradients(found, upstream, parameters),
        with_gradients(expected, upstream, parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(peaks.multinomial(x, *parameters, one_in=4), expected)


def test_without_gradient_it_goes_chunk_by_chunk(to_csr, monkeypatch):
    x, parameters, _ = problem(to_csr)
    with torch.no_grad():
        whole = peaks.multinomial(x, *parameters)
        monkeypatch.setattr(peaks, "CHUNK", 100)
        torch.testing.assert_close(peaks.multinomial(x, *parameters), whole)


@pytest.mark.parametrize("one_in", [3, 8])
def test_a_sample_is_right_on_average(to_csr, one_in):
    """Value and gradients: the mean over many draws is the full one within its standard error, for every entry."""
    x, parameters, upstream = problem(to_csr, 4000)
    full = with_gradients(peaks.multinomial(x, *parameters), upstream, parameters)
    torch.manual_seed(0)
    draws = [
        with_gradients(peaks.multinomial(x, *parameters, one_in), upstream, parameters) for _ in range(250)
    ]
    for expected, drawn in zip(full, map(torch.stack, zip(*draws, strict=True)), strict=True):
        error = drawn.std(0) / len(drawn) ** 0.5
        off = drawn.mean(0) - expected
        assert (off / error)[error > 1e-9].square().mean().sqrt() < 1.5
        # a ratio of sums is off by about one over the peaks drawn
        assert (off.abs() <= 6 * error + 1e-3 * expected.abs().max()).all()


def test_the_bias_vanishes_with_the_number_of_peaks(to_csr):
    """Every draw of one in two of a few peaks, so that the mean over draws has no error of its own."""
    biases = []
    for n_peaks in (4, 8, 16):
        x, parameters, _ = problem(to_csr, n_peaks)
        with torch.no_grad():
            full = peaks.multinomial(x, *parameters)
        torch.manual_seed(1)
        seen = {}
        while len(seen) < 2 ** (n_peaks // 2):
            state = torch.get_rng_state()
            key = tuple(peaks.draw(n_peaks, 2).tolist())
            if key not in seen:
                torch.set_rng_state(state)
                seen[key] = peaks.multinomial(x, *parameters, 2).detach()
        biases.append((torch.stack(list(seen.values())).mean(0) - full).abs().mean())
    assert biases[2] < biases[1] < biases[0]


def test_no_sampling_where_the_profile_is_all_there_is(to_csr):
    """The average profile is a control variate: without deviations from it, any sample gives the exact likelihood."""
    x, (hidden, weight, bias), _ = problem(to_csr)
    full = peaks.multinomial(x, hidden, 0 * weight, bias)
    for _ in range(3):
        torch.testing.assert_close(peaks.multinomial(x, hidden, 0 * weight, bias, 8), full)


@pytest.mark.parametrize("n_peaks", [1, 7, 24])
def test_every_peak_is_drawn_equally_often(n_peaks):
    torch.manual_seed(0)
    often = torch.zeros(n_peaks)
    for _ in range(3000):
        often[peaks.draw(n_peaks, 4)] += 1
    assert ((often / 3000 - 0.25).abs() < 5 * (0.25 * 0.75 / 3000) ** 0.5).all()
    assert torch.equal(peaks.draw(n_peaks, 1), torch.arange(n_peaks))


def test_many_counts_have_their_factorial(to_csr):
    counts = np.array([[0, 3, FACTORIALS - 1], [1, 0, 5]], np.float64)
    for x in (counts, counts + FACTORIALS):
        found = log_factorial(to_csr(x).counts)
        torch.testing.assert_close(found, torch.lgamma(to_csr(x).counts + 1))

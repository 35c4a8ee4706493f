import numpy as np
import pytest
import torch
from scipy import stats

from mmopt.models.decoders import AtacDecoder, ProteinDecoder, RnaDecoder

X = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0]], np.float32)
Z, BATCH = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.eye(2)[[0, 1, 0]]


def made(cls, **kwargs):
    torch.manual_seed(0)
    return cls(4, 2, 2, 8, 0.0, **kwargs)


def test_rna_is_negative_binomial_at_the_observed_depth(to_csr):
    decoder = made(RnaDecoder)
    with torch.no_grad():
        decoder.log_theta.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    log_share = decoder(Z, BATCH)
    np.testing.assert_allclose(log_share.exp().sum(1).detach(), 1, rtol=1e-6)
    mean = log_share.exp().detach().numpy() * np.maximum(X.sum(1, keepdims=True), 1)
    theta = np.exp([-1.0, 0.0, 1.0, 2.0])
    expected = stats.nbinom.logpmf(X, theta, theta / (theta + mean)).sum(1)
    np.testing.assert_allclose(decoder.log_likelihood(log_share, to_csr(X)).detach(), expected, rtol=1e-5)


def test_atac_is_multinomial(to_csr):
    decoder = made(AtacDecoder, rank=3)
    logits = decoder(Z, BATCH)
    p = torch.softmax(logits.double(), 1).detach().numpy()
    expected = [stats.multinomial.logpmf(x, int(x.sum()), q) for x, q in zip(X, p, strict=True)]
    np.testing.assert_allclose(
        decoder.log_likelihood(logits, to_csr(X)).detach(), expected, rtol=1e-5, atol=1e-6
    )


def test_atac_prior_is_the_gaussian_log_density_up_to_a_constant():
    decoder = made(AtacDecoder, rank=3)
    sd = (2 * decoder.PRIOR_PRECISION) ** -0.5
    weights = np.concatenate(
        [w.detach().numpy().ravel() for w in (decoder.low_rank.weight, decoder.head.weight)]
    )
    expected = (stats.norm.logpdf(0, 0, sd) - stats.norm.logpdf(weights, 0, sd)).sum()
    assert decoder.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_protein_is_a_mixture_with_the_background_of_the_batch(to_csr):
    decoder = made(ProteinDecoder)
    with torch.no_grad():
        decoder.log_background.copy_(torch.tensor([[0.0, 0.5, 1.0, 1.5], [-1.0, 0.0, 0.3, 2.0]]))
        decoder.log_theta.copy_(torch.tensor([[0.0, 0.1, 0.2, 0.3], [1.0, 1.0, 1.0, 1.0]]))
    p = decoder(Z, BATCH)
    for b, cells in ((0, [0, 2]), (1, [1])):
        assert torch.equal(p["log_background"][cells], decoder.log_background[b].expand(len(cells), 4))
        assert torch.equal(p["log_theta"][cells], decoder.log_theta[b].expand(len(cells), 4))
    assert (p["log_foreground"] > p["log_background"]).all()
    q = {k: v.detach().double().numpy() for k, v in p.items()}
    theta, pi = np.exp(q["log_theta"]), 1 / (1 + np.exp(-q["background_logit"]))
    density = sum(
        share * stats.nbinom.pmf(X, theta, theta / (theta + np.exp(q[name])))
        for share, name in ((pi, "log_background"), (1 - pi, "log_foreground"))
    )
    found = decoder.log_likelihood(p, to_csr(X)).detach()
    np.testing.assert_allclose(found, np.log(density).sum(1), rtol=1e-5)
    of_each = {
        name: stats.nbinom.pmf(np.arange(2000)[:, None, None], theta, theta / (theta + np.exp(q[name])))
        for name in ("log_background", "log_foreground")
    }
    level = sum(
        share * np.einsum("x,xij->ij", np.log1p(np.arange(2000)), of_each[name])
        for share, name in ((pi, "log_background"), (1 - pi, "log_foreground"))
    )
    np.testing.assert_allclose(decoder.log_level(p).detach(), level, atol=1e-3)


@pytest.mark.parametrize("log_theta", [0.0, 8.0, 12.0, 16.0, 20.0, 30.0])
def test_large_dispersion_is_poisson_and_not_rounding_noise(to_csr, log_theta):
    """In float32 the noise of lgamma must not look like likelihood, in long training and on landscapes."""
    x = np.array([[3.0, 50.0, 1.0, 0.0]], np.float32)
    log_mean = np.log(x + 1)
    theta = np.exp(log_theta)
    expected = (
        stats.poisson.logpmf(x, x + 1)
        if log_theta > 15
        else stats.nbinom.logpmf(x, theta, theta / (theta + x + 1))
    ).sum()
    decoders = made(RnaDecoder), made(ProteinDecoder)
    for decoder in decoders:
        with torch.no_grad():
            decoder.log_theta.fill_(log_theta)
    level = torch.as_tensor(log_mean)
    known = {"log_background": level, "log_foreground": level, "background_logit": torch.zeros(1, 4)}
    parameters = decoders[1](Z[:1], BATCH[:1]) | known
    rna = decoders[0].log_likelihood(level - np.log(x.sum()), to_csr(x))
    protein = decoders[1].log_likelihood(parameters, to_csr(x))
    for value, decoder in ((rna, decoders[0]), (protein, decoders[1])):
        assert value.item() == pytest.approx(expected, abs=0.03)
        (gradient,) = torch.autograd.grad(value, decoder.log_theta)
        assert log_theta < 15 or gradient.abs().max() < 1e-3

"""The published rules, step for step in float64, and what they do: nothing, or one switch after a warm-up."""

import pytest
import torch

from mmopt.optim import ASGDAdam, ASGDAMSGrad

LOW, HIGH, BETAS, EPS = 1e-7, 1e-4, (0.9, 0.999), 1e-8
pytestmark = pytest.mark.filterwarnings("ignore:switch_rule='published:UserWarning")


def gradients(steps, size, seed=0):
    return torch.randn(steps, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trajectory(build, all_gradients, rule, cuts, **kwargs):
    """Base rates, and the joined parameters, after every step; the parameters are cut into two tensors."""
    parameters = [torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in cuts]
    optimizer = build(
        parameters, alpha_min=LOW, alpha_max=HIGH, switch_rule=rule, betas=BETAS, eps=EPS, **kwargs
    )
    rates, path = [], []
    for g in all_gradients:
        for p, piece in zip(parameters, g.split(cuts), strict=True):
            p.grad = piece.clone()
        optimizer.step()
        rates.append(optimizer.base_rates()[0].item())
        path.append(torch.cat([p.detach().clone() for p in parameters]))
    return rates, torch.stack(path)


@pytest.mark.parametrize(("build", "largest"), [(ASGDAdam, False), (ASGDAMSGrad, True)])
def test_published_never_leaves_alpha_max_and_is_adam_without_bias_correction(build, largest):
    all_gradients = gradients(2000, 12) * torch.logspace(-6, 6, 12, dtype=torch.float64)
    rates, path = trajectory(build, all_gradients, "published", [5, 7], lr=3e-4)
    assert set(rates) == {HIGH}

    # closed form: n_t and H_t as explicit weighted sums of all gradients so far
    powers = torch.arange(2000, dtype=torch.float64)
    age = powers[:, None] - powers
    weights = [(1 - beta) * beta ** age.clamp(min=0) * (age >= 0) for beta in BETAS]
    n, H = weights[0] @ all_gradients, weights[1] @ all_gradients.square()
    if largest:
        H = H.cummax(0).values
    expected = -(HIGH * n / (H.sqrt() + EPS)).cumsum(0)
    torch.testing.assert_close(path, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("build", "largest"), [(ASGDAdam, False), (ASGDAMSGrad, True)])
def test_published_sc_step_for_step(build, largest):
    delta, tau = 0.01, 0.5
    all_gradients = gradients(700, 30, seed=2)
    rates, path = trajectory(build, all_gradients, "published_sc", [10, 20], damping=(delta, tau))

    w = n = v = biggest = torch.zeros(30, dtype=torch.float64)
    for t, g in enumerate(all_gradients, start=1):
        n = BETAS[0] * n + (1 - BETAS[0]) * g
        grown = BETAS[1] * v + (1 - BETAS[1]) * g**2
        n_min, n_max = int((grown - v > 0).sum()), int((grown - v <= 0).sum())
        v = grown
        alpha = LOW if n_max < n_min else HIGH
        assert rates[t - 1] == alpha
        if largest:
            biggest = torch.maximum(biggest, v)
            w = w - alpha * n / (biggest.clamp(min=tau) + delta / t).sqrt()
        else:
            # the smallest v is taken within each tensor
            lift = torch.cat(
                [(tau - part.min()).clamp(min=0).expand(len(part)) for part in v.split([10, 20])]
            )
            w = w - alpha * n / ((v + lift + delta / t).sqrt() + EPS)
        torch.testing.assert_close(path[t - 1], w, rtol=1e-10, atol=1e-16)
    assert {LOW, HIGH} == set(rates)


def test_published_sc_is_a_warm_up_whose_length_beta2_sets():
    rates, _ = trajectory(ASGDAdam, gradients(800, 3000), "published_sc", [3000])
    assert 500 <= rates.index(HIGH) + 1 <= 650
    assert set(rates[700:]) == {HIGH}


def test_published_sc_decides_for_all_groups_and_each_keeps_its_own_bounds():
    steady, growing = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    optimizer = ASGDAdam(
        [{"params": [steady], "alpha_min": 1e-6, "alpha_max": 1e-3}, {"params": [growing]}],
        switch_rule="published_sc",
        alpha_min=LOW,
        alpha_max=HIGH,
    )
    steady.grad, growing.grad = torch.zeros(2), torch.ones(3)
    optimizer.step()  # three of five coordinates grew
    assert [rate.item() for rate in optimizer.alphas()] == [1e-6, LOW]
    growing.grad = torch.tensor([0.0, 0.0, 1.0])
    optimizer.step()  # one of five did
    assert [rate.item() for rate in optimizer.alphas()] == [1e-3, HIGH]


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -0.0, 1e-310])
def test_published_ties_on_any_values(bad):
    rates, _ = trajectory(ASGDAdam, torch.full((3, 4), bad, dtype=torch.float64), "published", [4])
    assert set(rates) == {HIGH}


def test_decoupled_weight_decay_goes_with_the_chosen_rate():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = ASGDAdam([p], alpha_max=0.1, switch_rule="published", weight_decay=0.5)
    p.grad = torch.zeros(2, dtype=torch.float64)
    optimizer.step()
    assert p.tolist() == [0.95, 0.95]

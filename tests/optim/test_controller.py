"""How the base rate moves: always within its bounds, up on agreement, down on disagreement, nowhere on noise."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt.optim import ASGDAdam, ASGDAMSGrad

LOW, HIGH = 1e-4, 2e-2


def feed(optimizer, gradients):
    """Step once per gradient; the base rate after every step."""
    (p,) = optimizer.param_groups[0]["params"]
    rates = []
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        rates.append(optimizer.base_rates()[0].item())
    return rates


def parameter(size=4, dtype=torch.float32):
    return torch.nn.Parameter(torch.zeros(size, dtype=dtype))


HARSH = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 1e-45, math.nan, math.inf, -math.inf]),
)


@given(
    st.lists(st.lists(HARSH, min_size=3, max_size=3), min_size=1, max_size=40),
    st.sampled_from(["agreement", "switch", "published", "published_sc"]),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([(1e-4, 1e-2), (1e-12, 3.0), (0.3, 0.3)]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_base_rate_never_leaves_its_bounds(gradients, rule, interval, bounds, capturable):
    low, high = bounds
    optimizer = ASGDAdam(
        [parameter(3)],
        switch_rule=rule,
        switch_interval=interval,
        warmup_steps=0,
        alpha_min=low,
        alpha_max=high,
        switch_factor=1.7,
        capturable=capturable,
    )
    assert low <= optimizer.base_rates()[0].item() <= high
    rates = feed(optimizer, [torch.tensor(g) for g in gradients])
    assert all(low <= rate <= high for rate in rates)


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("rule", ["agreement", "switch"])
def test_a_constant_gradient_raises_the_rate_to_the_upper_bound(build, rule):
    rates = feed(
        build([parameter()], lr=LOW, switch_rule=rule), [torch.tensor([1.0, -2.0, 3.0, 1e-20])] * 300
    )
    assert rates[-1] == HIGH
    assert rates == sorted(rates)


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("rule", ["agreement", "switch"])
def test_an_alternating_gradient_lowers_the_rate_to_the_lower_bound(build, rule):
    g = torch.tensor([1.0, -2.0, 3.0, 1e-20])
    rates = feed(build([parameter()], lr=HIGH, switch_rule=rule), [g, -g] * 150)
    assert rates[-1] == LOW
    assert rates == sorted(rates, reverse=True)


# three coordinates of four go on, one turns back at every step: S = 0.5, which four votes may give by chance
HALF = [torch.ones(4), torch.tensor([1.0, 1.0, 1.0, -1.0])] * 20


def test_the_rate_moves_by_the_factor_once_per_window_after_the_warm_up():
    optimizer = ASGDAdam([parameter()], lr=1e-3, switch_interval=5, warmup_steps=12, switch_factor=1.5)
    rates = feed(optimizer, HALF[:21])
    assert rates == [1e-3] * 14 + [1e-3 * 1.5] * 5 + [1e-3 * 1.5 * 1.5] * 2


def test_a_move_is_as_large_as_the_vote_is_far_from_the_threshold():
    optimizer = ASGDAdam([parameter()], lr=1e-3, switch_interval=20, warmup_steps=0, threshold=0.485)
    feed(optimizer, HALF[:1])  # without a momentum it does not vote
    rates = feed(optimizer, HALF[1:20])
    assert optimizer.agreements()[0].item() == 0.5
    assert rates[-1] == pytest.approx(1e-3 * 1.25**0.5)


def test_where_the_vote_is_no_chance_six_moves_are_made_and_at_the_start_after_three_votes():
    rates = feed(ASGDAdam([parameter(1000)], lr=1e-15, alpha_min=1e-15), [torch.ones(1000)] * 70)
    jump = pytest.approx(1.25**6)
    assert [b / a for a, b in pairwise(rates[:13])] == [1, 1, jump] * 4
    assert rates[68] / rates[58] == rates[59] / rates[58] == jump  # after the start, once a window
    # one that falls never does so in leaps
    falling = feed(
        ASGDAdam([parameter(1000)], lr=1.0, alpha_max=1.0), [torch.ones(1000), -torch.ones(1000)] * 15
    )
    assert min(b / a for a, b in pairwise(falling)) == pytest.approx(1 / 1.25)


def test_the_threshold_decides():
    for threshold, up in ((0.45, True), (0.55, False)):
        optimizer = ASGDAdam([parameter()], warmup_steps=0, threshold=threshold)
        rates = feed(optimizer, HALF)
        assert (rates[-1] > 1e-3) is up
        assert optimizer.agreements()[0].item() == 0.5


def test_noise_moves_the_rate_without_drift():
    count, decisions = 100, 30
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(8)) for _ in range(count)]
    optimizer = ASGDAdam(
        parameters,
        scope="tensor",
        threshold=0.0,
        warmup_steps=0,
        switch_interval=2,
        alpha_min=1e-12,
        alpha_max=1e6,
    )
    for _ in range(2 * decisions):
        for p, g in zip(parameters, torch.randn(count, 8, generator=generator), strict=True):
            p.grad = g
        optimizer.step()
    moves = torch.stack(optimizer.base_rates()).div(1e-3).log() / math.log(1.25)
    spread = moves.std().item()
    assert abs(moves.mean().item()) < 3 * spread / count**0.5
    assert 0.6 * decisions**0.5 < spread < 1.2 * decisions**0.5


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("lr", [LOW, HIGH])
def test_a_quadratic_is_solved_from_either_bound(build, lr):
    x = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = build([x], lr=lr)
    rates = []
    for _ in range(1500):
        x.grad = x.detach().clone()
        optimizer.step()
        rates.append(optimizer.base_rates()[0].item())
    assert x.item() ** 2 / 2 < 1e-6
    assert max(rates) > 5e-3  # it ran where the way was free
    assert max(rates[-300:]) <= 2 * min(rates[-300:])  # and settled


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("power", [-20, 3, 10])
def test_the_scale_of_the_loss_does_not_matter(build, power):
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(80, 6, generator=generator)
    one, two = build([parameter(6)], eps=0.0), build([parameter(6)], eps=0.0)
    assert feed(one, gradients) == feed(two, gradients * 2.0**power)
    assert torch.equal(one.param_groups[0]["params"][0], two.param_groups[0]["params"][0])


@pytest.mark.parametrize("capturable", [False, True])
def test_splitting_and_reordering_the_parameters_does_not_change_the_rate(capturable):
    generator = torch.Generator().manual_seed(0)
    sizes = [5, 300, 41]
    runs = []
    for order in ([0, 1, 2], [2, 0, 1], None):
        generator.manual_seed(0)
        parameters = [parameter(sum(sizes))] if order is None else [parameter(sizes[i]) for i in order]
        optimizer = ASGDAdam(parameters, switch_interval=3, warmup_steps=0, capturable=capturable)
        rates = []
        for _ in range(60):
            g = torch.randn(sum(sizes), generator=generator)
            pieces = [g] if order is None else [g.split(sizes)[i] for i in order]
            for p, piece in zip(parameters, pieces, strict=True):
                p.grad = piece.clone()
            optimizer.step()
            rates.append(optimizer.base_rates()[0].item())
        runs.append(rates)
    assert len(set(runs[0])) > 3
    assert runs[0] == runs[1] == runs[2]


def test_norm_clipping_hardly_changes_the_vote():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(80, 600, generator=generator) + 0.1
    clipped = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1)
    votes = []
    for fed in (gradients, clipped):
        optimizer = ASGDAdam([parameter(600)])
        feed(optimizer, fed)
        votes.append(optimizer.agreements()[0].item())
    assert votes[0] == pytest.approx(votes[1], abs=0.01)


@pytest.mark.parametrize("capturable", [False, True])
def test_zero_gradients_do_not_raise_the_rate(capturable):
    optimizer = ASGDAdam([parameter()], warmup_steps=0, capturable=capturable)
    assert set(feed(optimizer, [torch.zeros(4)] * 45)) == {1e-3}
    assert math.isnan(optimizer.agreements()[0].item())


def test_steps_without_a_vote_are_left_out_of_the_mean():
    optimizer = ASGDAdam([parameter()], warmup_steps=0)
    g = torch.ones(4)
    feed(optimizer, [g] + [torch.zeros(4)] * 18 + [-g])
    assert optimizer.agreements()[0].item() == -1.0


def test_gradients_that_are_not_finite_leave_the_controller_alone():
    optimizer = ASGDAdam([parameter()], warmup_steps=0)
    bad = torch.tensor([math.nan, 1.0, 1.0, 1.0])
    rates = feed(optimizer, [bad] * 40)
    assert rates[-1] > 1e-3  # the others went on voting
    assert optimizer.agreements()[0].item() == 0.75
    assert optimizer.param_groups[0]["params"][0].isnan().tolist() == [True, False, False, False]


def test_bfloat16_parameters_keep_an_exact_controller():
    optimizer = ASGDAdam([parameter(1000, torch.bfloat16)], warmup_steps=0)
    feed(optimizer, [torch.ones(1000, dtype=torch.bfloat16)] * 5)
    assert optimizer.agreements()[0].item() == 1.0
    assert optimizer.base_rates()[0].item() == 1e-3 * 1.25**6


def test_what_is_read_is_a_copy():
    optimizer = ASGDAdam([parameter()], lr=1e-3, warmup_steps=0)
    first = optimizer.alphas() + optimizer.base_rates()
    feed(optimizer, [torch.ones(4)] * 20)
    assert [x.item() for x in first] == [1e-3, 1e-3]
    assert all(x.ndim == 0 for x in first)


def test_warm_up_is_linear_and_the_effective_rate_is_reported():
    optimizer = ASGDAdam([parameter()], lr=1e-3, warmup_steps=4, alpha_max=1e-3)
    seen = []
    for _ in range(6):
        feed(optimizer, [torch.ones(4)])
        seen.append(optimizer.alphas()[0].item())
    assert seen == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_each_tensor_has_its_own_rate_in_tensor_scope():
    calm, wild, still = parameter(), parameter(), parameter()
    optimizer = ASGDAdam([calm, still, wild], scope="tensor", warmup_steps=0)
    for step in range(40):
        calm.grad, wild.grad = torch.ones(4), torch.full((4,), (-1.0) ** step)
        optimizer.step()
    up, unchanged, down = (rate.item() for rate in optimizer.base_rates())
    assert down < unchanged == 1e-3 < up

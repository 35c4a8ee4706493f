"""The optimizers stand on torch's own Adam: what must be equal is equal bit for bit, whatever the implementation."""

import pytest
import torch

from mmopt.optim import ASGDAdam, ASGDAMSGrad

STEPS = 35
IMPLEMENTATIONS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
RIVALS = {
    "adam": (ASGDAdam, torch.optim.Adam, {"weight_decay": 0.0}),
    "adam l2": (ASGDAdam, torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (ASGDAdam, torch.optim.AdamW, {"weight_decay": 0.1}),
    "amsgrad": (ASGDAMSGrad, torch.optim.Adam, {"weight_decay": 0.0, "amsgrad": True}),
    "amsgradw": (ASGDAMSGrad, torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
}


def train(build, dtype=torch.float32, steps=STEPS, schedule=None):
    """Noisy regression with a small network, all draws the same for every optimizer; its final parameters."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(6, 11), torch.nn.Tanh(), torch.nn.Linear(11, 3)).to(dtype)
    optimizer = build(net.parameters())
    scheduler = schedule(optimizer) if schedule else None
    for _ in range(steps):
        x = torch.randn(16, 6, generator=generator).to(dtype)
        optimizer.zero_grad()
        (net(x) - x[:, :3].abs()).square().mean().backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    return [p.detach() for p in net.parameters()], optimizer


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@each_implementation
@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_none_is_torchs_adam(rival, implementation, maximize, dtype):
    ours, theirs, kwargs = RIVALS[rival]
    common = {"lr": 3e-3, "betas": (0.8, 0.99), "eps": 1e-7, "maximize": maximize, **implementation}
    decoupled = theirs is torch.optim.AdamW
    weight_decay = kwargs["weight_decay"]
    a, _ = train(
        lambda p: ours(
            p, switch_rule="none", weight_decay=weight_decay, decoupled_weight_decay=decoupled, **common
        ),
        dtype,
        15,
    )
    b, _ = train(lambda p: theirs(p, **kwargs, **common), dtype, 15)
    assert equal(a, b)


@each_implementation
@pytest.mark.parametrize("rival", ["adam", "adam l2", "amsgradw"])
@pytest.mark.parametrize(
    ("rule", "scope"), [("agreement", "group"), ("agreement", "tensor"), ("switch", "group")]
)
def test_equal_bounds_are_torchs_adam(rival, implementation, rule, scope):
    ours, theirs, kwargs = RIVALS[rival]
    bounds = {"alpha_min": 3e-3, "alpha_max": 3e-3, "warmup_steps": 0, "switch_rule": rule, "scope": scope}
    decoupled = theirs is torch.optim.AdamW
    weight_decay = kwargs["weight_decay"]
    a, _ = train(
        lambda p: ours(
            p,
            lr=3e-3,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled,
            **bounds,
            **implementation,
        )
    )
    b, _ = train(lambda p: theirs(p, lr=3e-3, **kwargs, **implementation))
    assert equal(a, b)


def test_none_follows_a_scheduler_as_torch_does():
    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)

    a, _ = train(lambda p: ASGDAdam(p, lr=3e-3, switch_rule="none", fused=True), schedule=cosine)
    b, _ = train(lambda p: torch.optim.Adam(p, lr=3e-3, fused=True), schedule=cosine)
    assert equal(a, b)


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("scope", ["group", "tensor"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=["fp32", "fp64"]
)
def test_implementations_agree(build, scope, dtype, tolerance):
    runs = [
        train(lambda p, how=how: build(p, scope=scope, eps=1e-4, **how), dtype, 70)
        for how in IMPLEMENTATIONS.values()
    ]
    rates = [[rate.item() for rate in optimizer.base_rates()] for _, optimizer in runs]
    assert rates[0] == rates[1] == rates[2]
    for parameters, _ in runs[1:]:
        torch.testing.assert_close(parameters, runs[0][0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("rule", ["agreement", "switch"])
@pytest.mark.parametrize("scope", ["group", "tensor"])
@pytest.mark.parametrize("max_votes", [2**16, 40], ids=["all vote", "sampled"])
def test_the_branch_free_form_is_the_branching_one(rule, scope, max_votes):
    def build(**more):
        return train(
            lambda p: ASGDAdam(p, switch_rule=rule, scope=scope, max_votes=max_votes, **more), steps=75
        )

    (a, one), (b, two) = build(), build(capturable=True)
    assert equal(a, b)
    assert equal(one.base_rates(), two.base_rates())
    assert equal(one.agreements(), two.agreements())


def test_the_rate_may_be_a_tensor():
    a, one = train(lambda p: ASGDAdam(p, lr=1e-3), steps=75)
    b, two = train(lambda p: ASGDAdam(p, lr=torch.tensor(1e-3, dtype=torch.float64)), steps=75)
    assert equal(a, b)
    assert equal(one.alphas(), two.alphas())


def test_the_fused_form_is_the_default_where_torch_has_it():
    assert ASGDAdam([torch.nn.Parameter(torch.ones(2))]).param_groups[0]["fused"] is True
    assert (
        ASGDAdam([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))]).param_groups[0]["fused"] is None
    )
    assert ASGDAdam([torch.nn.Parameter(torch.ones(2))], foreach=True).param_groups[0]["fused"] is None

"""Parameter groups, the AMP scaler, accumulation, and refusals."""

import warnings

import pytest
import torch

from mmopt.optim import ASGDAdam, ASGDAMSGrad, create


def parameter(size=4):
    return torch.nn.Parameter(torch.zeros(size))


def step(optimizer, *gradients, times=1):
    for _ in range(times):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()


def test_each_group_keeps_its_own_bounds_rate_and_rule():
    a, b, c = parameter(), parameter(), parameter()
    optimizer = ASGDAdam(
        [
            {"params": [a], "lr": 1e-2, "alpha_max": 2e-2},
            {"params": [b], "alpha_max": 1.5e-3, "switch_interval": 1},
            {"params": [c], "switch_rule": "none"},
        ],
        lr=1e-3,
        warmup_steps=0,
    )
    g = torch.ones(4)
    step(optimizer, g, g, g, times=60)
    assert [rate.item() for rate in optimizer.base_rates()] == [2e-2, 1.5e-3, 1e-3]
    assert [rate.item() for rate in optimizer.alphas()] == [2e-2, 1.5e-3, 1e-3]


def test_an_added_group_starts_its_own_warm_up_and_does_not_disturb_the_first():
    a, b = parameter(), parameter()
    optimizer, alone = ASGDAdam([a], warmup_steps=20), ASGDAdam([parameter()], warmup_steps=20)
    g = torch.ones(4)
    step(optimizer, g, times=25)
    optimizer.add_param_group({"params": [b], "lr": 5e-3})
    step(optimizer, g, g, times=10)
    step(alone, g, times=35)
    assert [group["t"] for group in optimizer.param_groups] == [35, 10]
    assert torch.equal(optimizer.base_rates()[0], alone.base_rates()[0])
    assert optimizer.alphas()[1].item() == pytest.approx(optimizer.base_rates()[1].item() * 10 / 20)


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_frozen_parameters_do_not_vote_and_may_join_later(scope):
    frozen, free = parameter(1000), parameter(4)
    optimizer = ASGDAdam([frozen, free], warmup_steps=0, scope=scope)
    step(optimizer, None, torch.ones(4), times=20)
    assert optimizer.base_rates()[-1] > 1e-3
    assert frozen not in optimizer.state
    step(optimizer, torch.ones(1000), torch.ones(4), times=20)
    assert optimizer.state[frozen]["step"] == 20
    assert (frozen < 0).all()


def test_a_step_without_any_gradient_does_not_count():
    optimizer = ASGDAdam([parameter()])
    step(optimizer, None, times=3)
    assert optimizer.param_groups[0]["t"] == 0


def test_a_refused_step_moves_nothing():
    a, b = parameter(), parameter()
    optimizer = ASGDAdam([{"params": [a], "averaging": None}, {"params": [b]}])
    step(optimizer, torch.ones(4), torch.ones(4), times=10)
    before = a.detach().clone()
    b.grad = torch.ones(4).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    optimizer.eval()
    called = []
    with pytest.raises(RuntimeError, match=r"optimizer.train\(\)"):
        optimizer.step(lambda: called.append(True))
    assert torch.equal(a, before) and not called
    assert [group["t"] for group in optimizer.param_groups] == [10, 10]


def test_a_scalar_parameter():
    p = torch.nn.Parameter(torch.ones(()))
    optimizer = ASGDAdam([p], warmup_steps=0)
    step(optimizer, torch.ones(()), times=20)
    assert p.item() < 1
    assert optimizer.agreements()[0].item() == 1.0


def test_coupled_weight_decay_is_the_penalty_in_the_loss():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, generator=generator, dtype=torch.float64)
    inside, coupled = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    kwargs = {"warmup_steps": 0, "foreach": False}
    first = ASGDAdam([inside], **kwargs)
    second = ASGDAdam([coupled], weight_decay=0.5, decoupled_weight_decay=False, **kwargs)
    for _ in range(50):
        g = torch.randn(40, generator=generator, dtype=torch.float64)
        inside.grad, coupled.grad = g + 0.5 * inside.detach(), g.clone()
        first.step()
        second.step()
    torch.testing.assert_close(inside, coupled, rtol=0, atol=1e-13)
    assert torch.equal(first.agreements()[0], second.agreements()[0])
    assert torch.equal(first.base_rates()[0], second.base_rates()[0])


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
def test_the_scaler_skips_a_step_and_the_controller_does_not_notice(build):
    p, q = parameter(), parameter()
    scaled, plain = build([p], eps=0.0), build([q], eps=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000, backoff_factor=0.5)
    generator = torch.Generator().manual_seed(0)
    for i in range(30):
        g = torch.randn(4, generator=generator)
        scaler.scale((p * (g * float("inf") if i == 11 else g)).sum()).backward()
        scaler.step(scaled)
        scaler.update()
        scaled.zero_grad()
        if i != 11:
            step(plain, g)
    assert scaled.param_groups[0]["t"] == scaled.state[p]["step"] == 29
    assert torch.equal(p, q)
    assert torch.equal(scaled.base_rates()[0], plain.base_rates()[0])


def test_accumulated_gradients_are_one_step():
    p, q = parameter(), parameter()
    accumulated, summed = ASGDAdam([p]), ASGDAdam([q])
    for i in range(40):
        g = torch.full((4,), float(i % 3 - 1))
        for part in (0.25 * g, 0.75 * g):
            (p * part).sum().backward()
        accumulated.step()
        accumulated.zero_grad()
        step(summed, g)
    assert torch.equal(p, q)


REFUSED = {
    "lr": [-1e-3, 0.0, float("inf"), "fast", True],
    "betas": [(0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9],
    "eps": [-1e-8, float("nan"), None],
    "weight_decay": [-0.1],
    "switch_interval": [0, 2.5, True],
    "alpha_min": [0.0, -1.0, float("nan"), "small"],
    "alpha_max": [1e-5, 0.0, float("inf")],
    "switch_rule": ["sign", None],
    "switch_factor": [1.0, 0.5],
    "threshold": [-1.1, 2],
    "warmup_steps": [-1, 1.5],
    "scope": ["layer"],
    "max_votes": [0, 0.5],
    "damping": [(0.0, 1.0), 1.0],
}


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize(
    ("argument", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_an_argument_out_of_range_is_refused_by_name(build, argument, value):
    with pytest.raises(ValueError, match=rf"{build.__name__}: {argument}=.* is not accepted; give "):
        build([parameter()], **{argument: value})
    optimizer = build([parameter()])
    with pytest.raises(ValueError, match=f"{argument}="):
        optimizer.add_param_group({"params": [parameter()], argument: value})
    assert len(optimizer.param_groups) == 1


def test_crossed_bounds_name_both():
    with pytest.raises(ValueError, match=r"alpha_max=0\.02 .* >= alpha_min, which is 0\.1"):
        ASGDAdam([parameter()], alpha_min=0.1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fused": True, "foreach": True}, "not both"),
        ({"foreach": True, "capturable": True}, "capturable=True needs parameters on one of cuda"),
        (
            {"switch_rule": "published", "weight_decay": 0.1, "decoupled_weight_decay": False},
            "no coupled weight decay",
        ),
    ],
)
def test_arguments_that_do_not_go_together(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ASGDAdam([parameter()], **kwargs)


def test_the_fused_form_is_refused_where_torch_has_none():
    with pytest.raises(ValueError, match="fused=True needs real floating-point parameters"):
        ASGDAdam([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))], fused=True)
    optimizer = ASGDAdam([parameter()], fused=True)
    with pytest.raises(ValueError, match="fused=True"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))]})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_name_the_way_out():
    table = torch.nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(
        RuntimeError, match="ASGDAdam does not support sparse gradients; use a layer with sparse=False"
    ):
        ASGDAdam(table.parameters()).step()


@pytest.mark.parametrize("lr", [1e-5, 0.5])
def test_a_rate_outside_the_bounds_warns_and_is_clipped(lr):
    with pytest.warns(UserWarning, match=r"outside \[alpha_min, alpha_max\]") as caught:
        optimizer = ASGDAdam([parameter()], lr=lr)
    assert caught[0].filename == __file__
    assert optimizer.base_rates()[0].item() == min(max(lr, 1e-4), 2e-2)


@pytest.mark.parametrize("rule", ["published", "published_sc"])
def test_the_published_rules_warn_once_with_a_link(rule):
    with pytest.warns(UserWarning, match=r"ignores `lr`; see https://\S+") as caught:
        optimizer = ASGDAdam([parameter()], switch_rule=rule)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(optimizer, torch.ones(4), times=3)


def test_the_usual_calls_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rule in ("agreement", "switch", "none"):
            step(create("asgdadam", [parameter()], switch_rule=rule), torch.ones(4), times=3)

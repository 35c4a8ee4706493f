"""Without a GPU: on a device whose values cannot be read (``meta``) a step must do without reading any."""

import pytest
import torch

from mmopt.optim import ASGDAdam, ASGDAMSGrad, implementation


@pytest.fixture
def steps_taken(monkeypatch):
    """Let ``meta`` pass for an accelerator with a fused Adam; the rate of each fused step."""
    monkeypatch.setattr(implementation, "FUSED_DEVICES", ("meta",))
    rates = []
    for kernel in ("_fused_adam_", "_fused_adamw_"):
        monkeypatch.setattr(torch, kernel, lambda *_, lr, **__: rates.append(lr))
    return rates


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"capturable": True},
        {"scope": "tensor"},
        {"scope": "tensor", "capturable": True},
        {"switch_rule": "switch"},
        {"maximize": True, "weight_decay": 0.1, "decoupled_weight_decay": False},
        {"weight_decay": 0.1, "lr": torch.tensor(1e-3)},
    ],
    ids=str,
)
def test_a_step_reads_nothing_back(build, kwargs, steps_taken):
    parameters = [torch.nn.Parameter(torch.zeros(n, device="meta")) for n in (500, 100_000, 3)]
    optimizer = build(parameters, switch_interval=2, warmup_steps=1, **kwargs)
    for _ in range(5):
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        logged = optimizer.alphas() + optimizer.base_rates() + optimizer.agreements()
        assert {x.device.type for x in logged} == {"meta"}
    # torch's fused kernels take the rate as a float32 tensor on the parameters' device
    assert {(rate.device.type, rate.dtype, rate.ndim) for rate in steps_taken} == {("meta", torch.float32, 0)}
    assert len(steps_taken) == 5 * len(optimizer.alphas())


@pytest.mark.filterwarnings("ignore:switch_rule='published:UserWarning")
@pytest.mark.parametrize("rule", ["published", "published_sc"])
@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
def test_the_published_rules_read_nothing_back(build, rule, steps_taken):
    p = torch.nn.Parameter(torch.zeros(5, device="meta"))
    optimizer = build([p], switch_rule=rule, weight_decay=0.1)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.alphas()[0].device.type == "meta"

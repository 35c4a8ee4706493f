"""Schedulers act on ``lr`` and scale the whole band: rate = A * lr now / lr at the start, down to zero."""

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from mmopt.optim import ASGDAdam, ASGDAMSGrad

SCHEDULES = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda t: 0.9**t),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 60),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=1e-3, total_steps=61),
    "sequential": lambda o: schedulers.SequentialLR(
        o,
        [schedulers.LinearLR(o, 0.1, total_iters=20), schedulers.CosineAnnealingLR(o, 40)],
        milestones=[20],
    ),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.1, total_iters=4), schedulers.ExponentialLR(o, 0.95)]
    ),
    "warm restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 15),
}


def scheduled(build, schedule, steps=60, **kwargs):
    """Relative lr, base rate and rate of every step, under a gradient that all but always agrees."""
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = build([p], lr=2e-3, warmup_steps=0, **kwargs)
    scheduler = SCHEDULES[schedule](optimizer)
    history = []
    for _ in range(steps):
        lr = optimizer.param_groups[0]["lr"]
        p.grad = torch.ones(4)
        optimizer.step()
        history.append((lr / 2e-3, optimizer.base_rates()[0].item(), optimizer.alphas()[0].item()))
        scheduler.step()
    return history, optimizer, p


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("scope", ["group", "tensor"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_is_the_base_rate_times_the_schedule(build, scope, schedule):
    history, optimizer, _ = scheduled(build, schedule, scope=scope)
    factors, base_rates, rates = zip(*history, strict=True)
    assert len(set(factors)) > 3
    assert rates == pytest.approx([f * a for f, a in zip(factors, base_rates, strict=True)])
    assert base_rates[-1] > base_rates[0]  # the schedule does not stop the controller
    assert optimizer.param_groups[0]["base_lr"] == 2e-3


def test_cosine_brings_the_rate_to_zero_and_a_zero_rate_freezes():
    _, optimizer, p = scheduled(ASGDAdam, "cosine", weight_decay=0.1)
    assert optimizer.param_groups[0]["lr"] == 0
    before = p.detach().clone()
    p.grad = torch.ones(4)
    optimizer.step()
    assert optimizer.alphas()[0] == 0
    assert torch.equal(p, before)


def test_one_cycle_moves_the_momentum_too():
    _, optimizer, _ = scheduled(ASGDAdam, "one cycle", steps=20)
    assert optimizer.param_groups[0]["betas"][0] < 0.9


def test_reduce_on_plateau():
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = ASGDAdam([p], lr=1e-3, warmup_steps=0)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, factor=0.1, patience=1)
    for _ in range(3):
        p.grad = torch.ones(4)
        optimizer.step()
        scheduler.step(1.0)
    p.grad = torch.ones(4)
    optimizer.step()
    assert optimizer.alphas()[0].item() == pytest.approx(1e-4)
    assert optimizer.base_rates()[0].item() == 1e-3


def test_a_schedule_resumes_with_the_optimizer():
    _, optimizer, _ = scheduled(ASGDAdam, "cosine", steps=30)
    other = ASGDAdam([torch.nn.Parameter(torch.zeros(4))], lr=5e-3)
    other.load_state_dict(optimizer.state_dict())
    group = other.param_groups[0]
    assert (group["lr"], group["base_lr"]) == (optimizer.param_groups[0]["lr"], 2e-3)


def test_the_rate_of_a_tensor_follows_what_a_scheduler_writes_into_it():
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = ASGDAdam([p], lr=torch.tensor(1e-3), warmup_steps=0, capturable=True)
    schedulers.LambdaLR(optimizer, lambda t: 0.5)
    p.grad = torch.ones(4)
    optimizer.step()
    assert optimizer.alphas()[0].item() == pytest.approx(0.5e-3)

"""The average of iterates: against its definition, swapped in and out exactly, saved, and out of the way otherwise."""

import copy
import io

import pytest
import torch

from mmopt.optim import ASGDAdam, ASGDAMSGrad
from mmopt.optim.averaging import WeightAverage

IMPLEMENTATIONS = [{"fused": True}, {"foreach": True}, {"foreach": False}, {"capturable": True}]


def parameter(size=6, dtype=torch.float64):
    return torch.nn.Parameter(torch.zeros(size, dtype=dtype))


def go(optimizer, steps, seed=0):
    """Take steps on noise; the iterates."""
    generator = torch.Generator().manual_seed(seed)
    (p,) = optimizer.param_groups[0]["params"]
    iterates = []
    for _ in range(steps):
        p.grad = torch.randn(len(p), generator=generator).to(p.dtype) + 0.3
        optimizer.step()
        iterates.append(p.detach().clone())
    return iterates


def by_definition(iterates, power):
    """Every tenth iterate, with weights that make the update x̄ + (power + 1) / (n + power) (x - x̄)."""
    weights = [1.0]
    for n in range(2, len(iterates) // 10 + 1):
        share = (power + 1) / (n + power)
        weights = [w * (1 - share) for w in weights] + [share]
    return sum(w * x for w, x in zip(weights, iterates[9::10], strict=True))


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("power", [0, 1.5, 8.0])
@pytest.mark.parametrize("form", IMPLEMENTATIONS, ids=str)
def test_the_average_is_that_of_the_definition(build, power, form):
    # in a graph the weights are computed in single precision
    tolerance = 1e-6 if "capturable" in form else 1e-12
    optimizer = build([parameter()], averaging=power, **form)
    iterates = go(optimizer, 73)
    optimizer.eval()
    (p,) = optimizer.param_groups[0]["params"]
    torch.testing.assert_close(p.detach(), by_definition(iterates, power), rtol=tolerance, atol=0)


def test_a_power_of_zero_is_the_mean_and_a_large_one_forgets():
    for power, expected in ((0, 45.5), (8.0, 81.1)):
        p = parameter(1)
        average = WeightAverage([p], power, every=1)
        for i in range(1, 91):
            p.data.fill_(float(i))
            average.update()
        average.eval()
        assert p.item() == pytest.approx(expected, abs=0.5)


def test_iterates_do_not_notice_that_they_are_averaged_or_looked_at():
    plain, averaged = ASGDAdam([parameter()], averaging=None), ASGDAdam([parameter()])
    reference = go(plain, 60)
    seen = go(averaged, 30)
    for _ in range(2):  # asked twice, the same
        averaged.eval()
    averaged.train()
    averaged.train()
    assert torch.equal(averaged.param_groups[0]["params"][0], seen[-1])
    assert all(torch.equal(a, b) for a, b in zip(reference[:30], seen, strict=True))
    assert not any("average" in state for state in plain.state.values())


def test_before_there_is_an_average_the_parameters_stay():
    optimizer = ASGDAdam([parameter()])
    last = go(optimizer, 9)[-1]
    optimizer.eval()
    assert torch.equal(optimizer.param_groups[0]["params"][0], last)
    go(optimizer, 1)


def test_a_step_at_the_average_is_refused():
    optimizer = ASGDAdam([parameter()])
    go(optimizer, 10)
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\) before the next step"):
        go(optimizer, 1)


@pytest.mark.parametrize("when", ["training", "evaluating"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", [{}, {"capturable": True}], ids=str)
def test_saved_and_resumed_it_goes_on_bit_for_bit(when, dtype, form):
    whole = ASGDAdam([parameter(dtype=dtype)], **form)
    go(whole, 47)
    if when == "evaluating":
        whole.eval()
    file = io.BytesIO()
    torch.save((whole.state_dict(), whole.param_groups[0]["params"][0].detach()), file)
    file.seek(0)
    state, value = torch.load(file, weights_only=True)
    resumed = ASGDAdam([torch.nn.Parameter(value.clone())], **form)
    resumed.load_state_dict(state)
    results = []
    for optimizer in (whole, resumed):
        optimizer.train()
        go(optimizer, 40, seed=1)
        (p,) = optimizer.param_groups[0]["params"]
        results += [p.detach().clone(), optimizer.state[p]["average"]]
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
    assert results[1].dtype == torch.promote_types(dtype, torch.float32)  # no half-precision average


@pytest.mark.parametrize("theirs", [torch.bfloat16, torch.float32])
def test_a_state_of_lower_precision_gives_an_average_in_that_of_the_parameters(theirs):
    optimizer, other = ASGDAdam([parameter(dtype=theirs)]), ASGDAdam([parameter()])
    go(optimizer, 20)
    other.load_state_dict(optimizer.state_dict())
    (p,) = other.param_groups[0]["params"]
    average = other.state[p]["average"]
    assert average.dtype == torch.float64
    go(other, 10, seed=1)
    assert not torch.equal(average, average.float().double())


def test_copies_keep_their_own():
    optimizer = ASGDAdam([parameter()])
    go(optimizer, 20)
    other = copy.deepcopy(optimizer)
    (p,), (q,) = optimizer.param_groups[0]["params"], other.param_groups[0]["params"]
    before = optimizer.state[p]["average"].clone()
    go(other, 20, seed=1)
    assert torch.equal(optimizer.state[p]["average"], before)
    assert not torch.equal(other.state[q]["average"], before)


def test_beside_an_optimizer_without_one_it_is_the_same():
    optimizer, plain = ASGDAdam([parameter()]), ASGDAdam([parameter()], averaging=None)
    (p,), (q,) = optimizer.param_groups[0]["params"], plain.param_groups[0]["params"]
    beside = WeightAverage([q], 8.0)
    go(optimizer, 55)
    generator = torch.Generator().manual_seed(0)
    for _ in range(55):
        q.grad = torch.randn(len(q), generator=generator).to(q.dtype) + 0.3
        plain.step()
        beside.update()
    again = WeightAverage([q], 8.0)
    again.load_state_dict(beside.state_dict())
    optimizer.eval()
    for average in (beside, again):
        average.eval()
        assert torch.equal(p, q)
        average.train()


def test_on_a_noisy_quadratic_the_average_is_nearer_to_the_solution():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.Parameter(torch.ones(200, dtype=torch.float64))
    optimizer = ASGDAdam([x], lr=1e-2)
    for _ in range(1500):
        x.grad = x.detach() + torch.randn(200, generator=generator)
        optimizer.step()
    iterate = x.detach().square().mean()
    optimizer.eval()
    assert x.detach().square().mean() < iterate / 2


def test_a_group_without_averaging_stays_at_its_iterates():
    a, b = parameter(), parameter()
    optimizer = ASGDAdam([{"params": [a]}, {"params": [b], "averaging": None}])
    for _ in range(20):
        a.grad, b.grad = torch.ones(6).double(), torch.ones(6).double()
        optimizer.step()
    assert torch.equal(a, b)
    optimizer.eval()
    assert (a > b).all()


@pytest.mark.parametrize("value", [-1.0, float("nan"), "yes", True])
def test_a_power_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"averaging=.*a finite number >= 0, or None"):
        ASGDAdam([parameter()], averaging=value)

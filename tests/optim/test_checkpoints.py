"""State that travels: mid-window, to another precision, from torch's Adam and back. (Bit-exact resume: contract.)"""

import io

import numpy as np
import pytest
import torch

from mmopt.optim import ASGDAdam, ASGDAMSGrad, Padam


def trained(build, steps=27, dtype=torch.float32, **kwargs):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(n, dtype=dtype)) for n in (5, 3)]
    optimizer = build(parameters, **kwargs)
    go_on(optimizer, steps, generator)
    return optimizer, generator


def go_on(optimizer, steps, generator):
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(len(p), generator=generator).to(p.dtype) + 0.3
        optimizer.step()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_the_controller_is_saved_in_the_middle_of_a_window(scope, capturable):
    kwargs = {"scope": scope, "capturable": capturable, "warmup_steps": 0}
    optimizer, _ = trained(ASGDAdam, **kwargs)
    saved = through_a_file(optimizer.state_dict())
    other, _ = trained(ASGDAdam, steps=0, **kwargs)
    other.load_state_dict(saved)
    group, theirs = optimizer.param_groups[0], other.param_groups[0]
    assert group["t"] == theirs["t"] == 27
    assert (group["votes"][:, 1] > 0).all()
    for name in ("votes", "base_rate", "agreement", "alpha"):
        assert torch.equal(group[name], theirs[name])
        assert theirs[name].dtype == torch.float64


def test_the_controller_keeps_its_precision_with_parameters_of_another():
    optimizer, _ = trained(ASGDAdam, warmup_steps=0)
    other, _ = trained(ASGDAdam, steps=0, dtype=torch.bfloat16)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert [x.item() for x in other.base_rates()] == [x.item() for x in optimizer.base_rates()] != [1e-3]
    states = list(other.state.values())
    assert all(
        state["exp_avg"].dtype == torch.bfloat16 and state["step"].dtype == torch.float32 for state in states
    )
    go_on(other, 5, torch.Generator().manual_seed(1))


def test_loading_does_not_tie_two_optimizers_together():
    optimizer, generator = trained(ASGDAdam, warmup_steps=0)
    other, _ = trained(ASGDAdam, steps=0)
    state = optimizer.state_dict()
    other.load_state_dict(state)
    before = other.base_rates()[0]
    go_on(optimizer, 20, generator)
    assert other.base_rates()[0] == before != optimizer.base_rates()[0]


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize(
    "implementation", [{"fused": True}, {"foreach": True}, {"foreach": False}, {"capturable": True}], ids=str
)
def test_a_checkpoint_of_torchs_adam_gives_moments_and_steps(build, implementation):
    theirs, _ = trained(torch.optim.Adam, lr=7e-3, betas=(0.5, 0.6))
    ours, _ = trained(build, steps=0, lr=2e-3, **implementation)
    settings = ours.param_groups[0].keys() - {"params", "t"}
    ours.load_state_dict(through_a_file(theirs.state_dict()))
    group = ours.param_groups[0]
    assert group["t"] == 27
    assert isinstance(group["t"], torch.Tensor) is group["capturable"]
    assert group.keys() - {"params", "t"} == settings
    assert (group["lr"], group["betas"], group["base_rate"].item()) == (2e-3, (0.9, 0.999), 2e-3)
    for p, q in zip(group["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.equal(ours.state[p]["exp_avg"], theirs.state[q]["exp_avg"])
        assert ours.state[p]["step"] == 27
    go_on(ours, 5, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("capturable", [False, True])
def test_a_checkpoint_of_torchs_adam_begins_a_new_average_in_a_used_optimizer(capturable):
    theirs, _ = trained(torch.optim.Adam)
    ours, _ = trained(ASGDAdam, capturable=capturable)
    ours.eval()
    ours.load_state_dict(theirs.state_dict())
    group = ours.param_groups[0]
    assert (int(group["n_averaged"]), group["evaluating"]) == (0, False)
    ours.train()
    go_on(ours, 3, torch.Generator().manual_seed(1))  # the 30th step enters, alone
    ours.eval()
    last = [p.detach().clone() for p in group["params"]]
    ours.train()
    assert all(torch.equal(p, q) for p, q in zip(group["params"], last, strict=True))


def test_torchs_adam_goes_on_from_ours():
    ours, _ = trained(ASGDAdam, switch_rule="none", fused=True, lr=2e-3)
    theirs, _ = trained(torch.optim.Adam, steps=0, fused=True)
    for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        q.data.copy_(p.data)
    theirs.load_state_dict(through_a_file(ours.state_dict()))
    for optimizer in (ours, theirs):
        go_on(optimizer, 10, torch.Generator().manual_seed(1))
    for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)


def test_amsgrad_takes_over_from_adam_with_the_moment_it_has():
    optimizer, _ = trained(ASGDAdam)
    other, _ = trained(ASGDAMSGrad, steps=0)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["amsgrad"] is True
    for state in other.state.values():
        assert torch.equal(state["max_exp_avg_sq"], state["exp_avg_sq"])
    go_on(other, 5, torch.Generator().manual_seed(1))


def test_numbers_of_numpy_do_not_end_up_in_a_checkpoint():
    rates = np.logspace(-4, -2, 3)
    optimizer, _ = trained(ASGDAdam, lr=rates[1], alpha_max=np.float32(0.5), switch_interval=np.int64(3))
    assert through_a_file(optimizer.state_dict())["param_groups"][0]["lr"] == rates[1]


@pytest.mark.parametrize(
    ("build", "own"),
    [(ASGDAdam, {"damping": tuple(np.float32([1e-8, 1e-7]))}), (Padam, {"partial": np.float64(0.2)})],
)
def test_numbers_of_numpy_in_a_pair_or_in_padam_do_not_either(build, own):
    betas = tuple(np.array([0.8, 0.99]))
    optimizer, _ = trained(build, lr=np.float32(1e-3), betas=betas, weight_decay=np.float64(0), **own)
    (group,) = through_a_file(optimizer.state_dict())["param_groups"]
    assert (group["lr"], group["betas"]) == (float(np.float32(1e-3)), (0.8, 0.99))
    added = {"params": [torch.nn.Parameter(torch.zeros(2))], "betas": list(np.array([0.7, 0.9]))}
    optimizer.add_param_group(added)
    assert through_a_file(optimizer.state_dict())["param_groups"][1]["betas"] == [0.7, 0.9]


def test_named_parameters_keep_their_names():
    net = torch.nn.Linear(3, 2)
    theirs = torch.optim.Adam(net.named_parameters())
    ours = ASGDAdam(net.named_parameters())
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["param_names"] == ["weight", "bias"]


def test_a_state_of_another_shape_is_refused():
    optimizer, _ = trained(ASGDAdam)
    with pytest.raises(ValueError, match="parameter group"):
        ASGDAdam([torch.nn.Parameter(torch.zeros(5))]).load_state_dict(optimizer.state_dict())

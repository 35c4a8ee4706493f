"""What holds for every optimizer of the registry, checked on one table of cases."""

import copy
import io
import pickle

import pytest
import torch

from mmopt.optim import available, create

# name, and the arguments that move a small problem far enough in 100 steps
CASES = [
    ("adam", {"lr": 3e-2}),
    ("adamw", {"lr": 3e-2}),
    ("amsgrad", {"lr": 3e-2}),
    ("padam", {"lr": 1e-1}),
    ("sgd", {"lr": 1e-2}),
    *[
        ("asgdadam", {"lr": 3e-2, "alpha_max": 3e-2, **more})
        for more in (
            {},
            {"switch_rule": "switch"},
            {"switch_rule": "none"},
            {"switch_rule": "published"},
            {"switch_rule": "published_sc", "alpha_min": 2e-2},
            {"scope": "tensor"},
            {"foreach": True},
            {"foreach": False},
            {"capturable": True},
        )
    ],
    *[
        ("asgdamsgrad", {"lr": 3e-2, "alpha_max": 3e-2, **more})
        for more in ({}, {"switch_rule": "published"}, {"switch_rule": "published_sc", "alpha_min": 2e-2})
    ],
]


def cases(which=lambda name, kwargs: True):
    """Parametrize a test with the cases it is about."""
    chosen = [case for case in CASES if which(*case)]
    ids = [
        " ".join([name, *(f"{k}={v}" for k, v in kwargs.items() if not isinstance(v, float))])
        for name, kwargs in chosen
    ]
    return pytest.mark.parametrize(("name", "kwargs"), chosen, ids=ids)


every_case = cases()
pytestmark = pytest.mark.filterwarnings("ignore:switch_rule='published:UserWarning")


def problem(dtype=torch.float32):
    """Parameters of three shapes; the loss is the sum of their squares."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in ((4, 3), (5,), ())
    ]


def size(parameters):
    return sum(p.square().sum().item() for p in parameters)


def run(optimizer, steps, sign=1.0):
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = 2 * sign * p.detach()
        optimizer.step()


def test_the_table_covers_the_registry():
    assert {name for name, _ in CASES} == set(available())


@every_case
def test_it_descends(name, kwargs):
    parameters = problem()
    before = size(parameters)
    run(create(name, parameters, **kwargs), 100)
    assert size(parameters) < 0.2 * before


@cases(lambda name, _: name != "padam")
def test_maximising_is_minimising_the_negative(name, kwargs):
    up, down = problem(), problem()
    run(create(name, up, **kwargs, maximize=True), 30, sign=-1.0)
    run(create(name, down, **kwargs), 30)
    assert all(torch.equal(a, b) for a, b in zip(up, down, strict=True))


@every_case
def test_a_closure_is_called_once_with_gradients_and_its_loss_returned(name, kwargs):
    parameters = problem()
    optimizer, losses = create(name, parameters, **kwargs), []

    def closure():
        optimizer.zero_grad()
        losses.append(parameters[0].square().sum())
        losses[-1].backward()
        return losses[-1]

    assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1


@every_case
def test_parameters_without_gradient_stay(name, kwargs):
    parameters = problem()
    before = [p.detach().clone() for p in parameters]
    optimizer = create(name, parameters, **kwargs)
    optimizer.step()
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer.step()
    assert not torch.equal(parameters[0], before[0])
    assert all(torch.equal(p, b) for p, b in zip(parameters[1:], before[1:], strict=True))
    assert set(optimizer.state) <= {parameters[0]}


@every_case
def test_empty_groups_and_empty_tensors_do_no_harm(name, kwargs):
    parameters = problem()
    before = size(parameters)
    empty = torch.nn.Parameter(torch.zeros(0))
    run(create(name, [{"params": []}, {"params": [*parameters, empty]}], **kwargs), 30)
    assert size(parameters) < before


@every_case
@pytest.mark.parametrize("steps", [7, 57])
def test_a_resumed_run_is_the_same_bit_for_bit(name, kwargs, steps):
    parameters = problem()
    optimizer = create(name, parameters, **kwargs)
    run(optimizer, steps)
    file = io.BytesIO()
    torch.save({"model": [p.detach() for p in parameters], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    run(optimizer, 25)

    saved = torch.load(file, weights_only=True)
    resumed = [torch.nn.Parameter(value) for value in saved["model"]]
    other = create(name, resumed, **kwargs)
    other.load_state_dict(saved["optimizer"])
    run(other, 25)
    assert all(torch.equal(a, b) for a, b in zip(parameters, resumed, strict=True))


@every_case
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_copy_goes_its_own_equal_way(name, kwargs, duplicate):
    parameters = problem()
    optimizer = create(name, parameters, **kwargs)
    run(optimizer, 13)
    other = duplicate(optimizer)
    theirs = [p for group in other.param_groups for p in group["params"]]
    run(other, 20)
    run(optimizer, 20)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(parameters, theirs, strict=True))
    assert repr(other) == repr(optimizer)


@every_case
def test_hooks_run_around_a_step(name, kwargs):
    optimizer, calls = create(name, problem(), **kwargs), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    run(optimizer, 1)
    assert calls == ["before", "after"]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@cases(lambda name, _: name != "sgd")
def test_sparse_gradients_are_refused(name, kwargs):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.sparse_coo_tensor([[1]], [1.0], (3,))
    with pytest.raises(RuntimeError, match="sparse gradients"):
        create(name, [p], **kwargs).step()


# torch's SGD rounds complex products in its own way; capturable without the fused form needs an accelerator
@cases(lambda name, kwargs: name != "sgd" and not kwargs.get("capturable"))
def test_complex_parameters_move_like_their_real_and_imaginary_parts(name, kwargs):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, dtype=torch.complex64, generator=generator)
    z, xy = torch.nn.Parameter(start), torch.nn.Parameter(torch.view_as_real(start).clone())
    loop = {} if name == "padam" or "foreach" in kwargs else {"foreach": False}
    first, second = create(name, [z], **kwargs, **loop), create(name, [xy], **kwargs, **loop)
    for _ in range(40):
        g = torch.randn(6, dtype=torch.complex64, generator=generator)
        z.grad, xy.grad = g, torch.view_as_real(g).clone()
        first.step()
        second.step()
    assert torch.equal(torch.view_as_real(z.detach()), xy.detach())


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(name, kwargs, dtype):
    parameters = problem(dtype)
    before = size(parameters)
    run(create(name, parameters, **kwargs), 30)
    assert size(parameters) < before
    assert all(p.dtype == dtype and p.isfinite().all() for p in parameters)


@cases(lambda name, _: name != "sgd")
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("betas", (1.0, 0.9)),
        ("betas", (0.9, -0.1)),
        ("eps", -1.0),
        ("weight_decay", -1.0),
    ],
)
def test_bad_arguments_are_refused(name, kwargs, argument, value):
    with pytest.raises(
        ValueError, match=rf"(?i){argument.rstrip('s').replace('lr', '(lr|learning rate)')}|epsilon"
    ):
        create(name, [torch.nn.Parameter(torch.ones(2))], **{**kwargs, argument: value})

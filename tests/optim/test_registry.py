"""Optimizers by name: which there are, what each is given, and what is refused."""

import pickle
import sys

import pytest
import torch

from mmopt import optim
from mmopt.optim import available, available_rivals, create, creator
from mmopt.optim.rivals import CLASSES


def parameters():
    return torch.nn.Linear(3, 2).parameters()


def test_the_names():
    assert available() == ["adam", "adamw", "amsgrad", "asgdadam", "asgdamsgrad", "padam", "sgd"]
    assert {"radam", "nadam"} <= set(available_rivals()) <= set(CLASSES)
    assert not set(available()) & set(CLASSES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adam", torch.optim.Adam),
        ("AdamW", torch.optim.AdamW),
        ("AMSGrad", torch.optim.Adam),
        ("SGD", torch.optim.SGD),
        ("Padam", optim.Padam),
        ("asgdadam", optim.ASGDAdam),
        ("asgd_adam", optim.ASGDAdam),
        ("ASGDAdam", optim.ASGDAdam),
        ("ASGD_AMSGrad", optim.ASGDAMSGrad),
        ("asgdamsgrad", optim.ASGDAMSGrad),
        ("radam", torch.optim.RAdam),
    ],
)
def test_a_name_in_any_case_gives_its_class(name, expected):
    assert type(create(name, parameters())) is expected


def test_every_optimizer_takes_the_common_arguments():
    common = {"lr": 2e-3, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.01}
    for name in available():
        given = create(name, parameters(), **common).defaults
        assert all(given[argument] == value for argument, value in common.items() if argument in given)
    assert not {"betas", "eps"} & create("sgd", parameters(), **common).defaults.keys()


def test_defaults_are_each_optimizers_own():
    assert create("sgd", parameters()).defaults["momentum"] == 0.9
    assert create("sgd", parameters(), momentum=0.5).defaults["momentum"] == 0.5
    assert create("amsgrad", parameters()).defaults["amsgrad"] is True
    assert create("adam", parameters()).defaults["amsgrad"] is False
    assert create("adamw", parameters()).defaults["weight_decay"] == 0.01
    assert create("asgdadam", parameters()).defaults["alpha_max"] == 2e-2


def test_an_unknown_name_lists_the_accepted_ones():
    with pytest.raises(
        ValueError, match=r"Unknown optimizer 'asgd'; accepted are adam, adamw, .* sgd, and .*prodigy"
    ):
        create("asgd", parameters())
    with pytest.raises(ValueError, match="Unknown optimizer None"):
        create(None, parameters())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("adam", {"switch_rule": "none"}),
        ("amsgrad", {"amsgrad": False}),
        ("padam", {"momentum": 0.9}),
        ("sgd", {"p": 1}),
    ],
)
def test_an_argument_the_optimizer_does_not_have_is_refused(name, kwargs):
    with pytest.raises(TypeError, match=rf"{name} does not accept {next(iter(kwargs))}; it accepts .*lr"):
        create(name, parameters(), **kwargs)


def test_a_creator_can_be_pickled_and_takes_a_generator():
    build = pickle.loads(pickle.dumps(creator("asgdadam", lr=3e-3, alpha_max=3e-2)))
    optimizer = build(p for p in parameters())
    assert type(optimizer) is optim.ASGDAdam
    assert (optimizer.defaults["lr"], optimizer.defaults["alpha_max"]) == (3e-3, 3e-2)
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_a_creator_refuses_at_once():
    with pytest.raises(ValueError, match="Unknown optimizer"):
        creator("adamm")
    with pytest.raises(TypeError, match="does not accept"):
        creator("adam", alpha_min=1e-4)
    with pytest.raises(ValueError, match="alpha_max"):
        creator("asgdadam", alpha_min=1.0, alpha_max=0.1)
    with pytest.raises(ValueError, match="learning rate"):
        creator("sgd", lr=-1.0)


@pytest.mark.parametrize("name", [*available(), *available_rivals()])
def test_a_creator_knows_no_device_and_leaves_warnings_to_the_optimizer(name, recwarn):
    for form in ({}, {"fused": True}, {"foreach": True}, {"capturable": True, "foreach": True}, {"lr": 1.0}):
        try:
            creator(name, **form)
        except TypeError as error:  # an argument that it does not have
            assert "does not accept" in str(error)
    assert not recwarn


@pytest.mark.parametrize(
    "name", [name for name, (module, _) in CLASSES.items() if module == "pytorch_optimizer"]
)
def test_a_rival_that_is_not_installed_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match=rf"{name}.*pip install 'mmopt\[benchmark\]'"):
        create(name, parameters())


@pytest.mark.parametrize("name", available_rivals())
def test_an_installed_rival_descends(name):
    p = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = create(name, [p], eps=1e-8, weight_decay=0.0)
    for _ in range(30):
        p.grad = 2 * p.detach()
        optimizer.step()
    assert p.square().sum() < 16
    with pytest.raises(TypeError, match="does not accept nonsense"):
        create(name, [p], nonsense=1)


def test_padam_is_amsgrad_at_one_half_and_momentum_at_zero():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(50, 6, generator=generator, dtype=torch.float64)

    def path(build):
        p = torch.nn.Parameter(torch.ones(6, dtype=torch.float64))
        optimizer = build([p])
        for g in gradients:
            p.grad = g.clone()
            optimizer.step()
        return p.detach()

    amsgrad = path(lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1, foreach=False))
    torch.testing.assert_close(
        path(lambda p: optim.Padam(p, weight_decay=0.1, partial=0.5)), amsgrad, rtol=1e-12, atol=0
    )

    n, w = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for t, g in enumerate(gradients, start=1):
        n = 0.9 * n + 0.1 * g
        w = w - 0.1 * n / (1 - 0.9**t)
    torch.testing.assert_close(path(lambda p: optim.Padam(p, partial=0.0)), w, rtol=1e-12, atol=0)


@pytest.mark.parametrize("partial", [-0.1, 0.6, "half"])
def test_padam_refuses_a_power_out_of_range(partial):
    with pytest.raises(ValueError, match="Padam: partial="):
        optim.Padam(parameters(), partial=partial)

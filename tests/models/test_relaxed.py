import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mmopt.grn.search import KNOCKOUT, OVEREXPRESS, every_set, score
from mmopt.models.relaxed import RelaxedJourney, descend, round_off, starts
from mmopt.optim import creator

_spec = importlib.util.spec_from_file_location(
    "search_task", Path(__file__).parents[1] / "grn/test_search.py"
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
task, WAYS = _module.task, _module.WAYS


def relaxed(journey, penalty=0.0, ways=WAYS, identity=1.0):
    return RelaxedJourney(journey, ways, penalty=penalty, identity=identity, cells=slice(None))


def at(sets, p=5):
    free = torch.zeros(len(sets), p)
    for row, members in enumerate(sets):
        for number, way in members:
            free[row, number] = 20.0 * way
    return free


def test_at_the_corners_it_is_the_discrete_score():
    journey = task()
    # the discrete one leaves clamped features out and clips; here nothing seen is a regulator, and nothing is clipped
    apart = np.setdiff1d(np.arange(len(journey.seen)), [1, 3])
    wide = type(journey)(
        journey.network,
        type(journey.cells)(journey.cells.level, np.full(10, 9.0)),
        journey.seen[apart],
        journey.centres[:, apart],
        journey.spread[apart],
        journey.raised,
        journey.gap,
    )
    wide.cells.floor[:] = -9
    sets = [*every_set(WAYS, 1), *every_set(WAYS, 2)[:10]]
    _, span = wide.span(sets)
    expected = np.mean([score(wide.distances(sets, m), wide.apart(sets)) for m in range(3)], axis=0) / span
    np.testing.assert_allclose(relaxed(wide)(at(sets)).detach(), expected, atol=2e-3)


def test_gradients_are_those_of_finite_differences():
    objective = relaxed(task(), penalty=0.05)
    for name, value in vars(objective).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(objective, name, value.double())
    objective.members = [(a.double(), b.double(), f, n) for a, b, f, n in objective.members]
    free = starts(2, 5, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(objective, free, eps=1e-6, atol=1e-4)


def test_what_is_not_allowed_stays_off():
    objective = relaxed(task(), ways=[(0, KNOCKOUT), (1, OVEREXPRESS)])
    dose = objective.dose(torch.tensor([[2.0, 2.0, 2.0, -2.0, 0.1], [-2.0, -2.0, 0.0, 0.0, 0.0]]))
    assert (dose[0] != 0).tolist() == [False, True, False, False, False]
    assert (dose[1] != 0).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    "make",
    [
        creator("adam", lr=0.1),
        creator("asgdadam", lr=0.1, alpha_min=0.01, alpha_max=1.0, switch_interval=5),
        partial(torch.optim.LBFGS, lr=1.0, max_iter=20, line_search_fn="strong_wolfe"),
    ],
    ids=["adam", "asgdadam", "lbfgs"],
)
def test_an_optimizer_gets_its_budget_and_goes_down_from_every_start(make):
    objective, begin = relaxed(task(), penalty=0.02), starts(3, 5, seed=0)
    run = descend(objective, begin, make, 15)
    assert run.objective.shape == (15, 3)
    assert run.dose.shape == (3, 5)
    lowest = np.minimum.accumulate(run.objective)
    assert (lowest[-1] < run.objective[0] - 1e-3).all()
    # the doses kept are those of the lowest objective
    free = torch.atanh(torch.tensor(run.dose).clamp(-1 + 1e-6, 1 - 1e-6))
    np.testing.assert_allclose(objective(free), lowest[-1], atol=5e-3)
    # a start does not depend on the others
    alone = descend(objective, begin[:1], make, 15)
    np.testing.assert_allclose(alone.objective[:, 0], run.objective[:, 0], rtol=1e-3, atol=1e-4)


def test_doses_stand_for_the_largest_that_are_allowed():
    dose = np.array([[0.9, -0.5, 0.1, 0, 0], [0.2, 0, 0, 0, -0.3]])
    ways = [w for w in WAYS if w != (0, OVEREXPRESS)]
    assert round_off(dose, WAYS, 2) == [
        ((0, 1),),
        ((0, 1), (1, -1)),
        ((0, 1), (4, -1)),
        ((4, -1),),
    ]
    assert ((1, -1),) in round_off(dose, ways, 1)

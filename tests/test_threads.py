import re
import sys

import numpy as np
import pytest
import torch
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

import mmopt as mm
from mmopt._threads import WORTH_SHARING, sensible_threads
from mmopt.dynamics.flow import Field, fit_flow
from mmopt.grn.effects import Scene
from mmopt.grn.search import Journey
from mmopt.models.module import TriModule
from mmopt.models.relaxed import RelaxedJourney


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n_values", "expected"), [(WORTH_SHARING - 1, 1), (WORTH_SHARING, 2)])
def test_small_steps_get_one_thread(n_values, expected):
    with sensible_threads(n_values):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_an_error_gives_the_threads_back():
    with pytest.raises(RuntimeError, match="stop"), sensible_threads(10):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 2


def threads() -> set[int]:
    """Of every library that has some, torch's own linear algebra included."""
    of_torch = re.findall(r"get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return {pool["num_threads"] for pool in threadpool_info()} | set(map(int, of_torch))


def test_small_work_gets_one_thread_everywhere(fitted, regulated, monkeypatch):
    """On a busy machine two threads in small operations took several times longer than one."""
    seen: dict[str, set[int]] = {}

    def spy(module, name):
        """Note the threads of what is called first in each of the calls below."""
        whole = getattr(module, name)

        def watched(*args, **kwargs):
            if name not in seen:
                seen[name] = threads()
            return whole(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    for module, name in (
        (TriModule, "inference"),
        (Scene, "draws"),
        (Scene, "null"),
        (RelaxedJourney, "__call__"),
        (Journey, "distances"),
        (Field, "forward"),
        (sys.modules["mmopt.grn.ensemble"], "adaptive_ridge"),
    ):
        spy(module, name)
    mdata, model = fitted
    model.get_latent_representation(mdata)
    assert seen.pop("inference") == {1}
    mdata, prior = regulated[0].copy(), regulated[1]
    mm.tl.regulons(mdata, prior=prior, n_boot=5)
    assert seen.pop("adaptive_ridge") == {1}
    mm.tl.perturb(mdata, "GATA1", n_null=5)
    assert seen.pop("draws") == seen.pop("null") == {1}
    mm.tl.screen(mdata, ["GATA1", "SPI1"], progress_bar=False)
    assert seen.pop("draws") == {1}
    few = {"n_starts": 2, "n_evaluations": 2, "n_null": 19, "optimizers": ["adam"]}
    mm.tl.reprogram(mdata, "monocyte", "erythrocyte", groupby="cell_type", **few)
    assert seen.pop("__call__") == seen.pop("distances") == {1}
    states = np.random.default_rng(0).normal(size=(40, 3))
    plan = sparse.eye(20, format="csr") / 20
    flow = fit_flow([states[:20], states[20:]], np.arange(2.0), [plan], torch.optim.Adam, n_steps=2)
    assert seen.pop("forward") == {1}
    flow.run(states, np.arange(2.0))
    assert seen.pop("forward") == {1}

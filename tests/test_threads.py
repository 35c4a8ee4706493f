import numpy as np
import pytest
import torch
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

import mmopt as mm
from mmopt._threads import WORTH_SHARING, sensible_threads
from mmopt.dynamics.flow import Field, fit_flow
from mmopt.grn.effects import Scene
from mmopt.models.module import TriModule
from mmopt.models.relaxed import RelaxedJourney


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2):
        yield


@pytest.mark.parametrize(("n_values", "expected"), [(WORTH_SHARING - 1, 1), (WORTH_SHARING, 2)])
def test_small_steps_get_one_thread(n_values, expected):
    with sensible_threads(n_values):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_an_error_gives_the_threads_back():
    with pytest.raises(RuntimeError, match="stop"), sensible_threads(10):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 2


def test_small_work_gets_one_thread_everywhere(fitted, regulated, monkeypatch):
    """On a busy machine two threads in small operations took ten times longer than one."""
    seen = {}

    def spy(owner, name):
        whole = getattr(owner, name)

        def watched(*args, **kwargs):
            if name not in seen:
                seen[name] = {pool["num_threads"] for pool in threadpool_info()} | {torch.get_num_threads()}
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    spy(TriModule, "inference")
    spy(Scene, "draws")
    spy(RelaxedJourney, "__call__")
    spy(Field, "forward")
    mdata, model = fitted
    model.get_latent_representation(mdata)
    mdata = regulated[0].copy()
    mm.tl.screen(mdata, ["GATA1", "SPI1"], progress_bar=False)
    few = {"n_starts": 2, "n_evaluations": 2, "n_null": 19, "optimizers": ["adam"]}
    mm.tl.reprogram(mdata, "monocyte", "erythrocyte", groupby="cell_type", **few)
    states = np.random.default_rng(0).normal(size=(40, 3))
    plan = sparse.eye(20, format="csr") / 20
    flow = fit_flow([states[:20], states[20:]], np.arange(2.0), [plan], torch.optim.Adam, n_steps=2)
    flow.run(states, np.arange(2.0))
    assert seen == {name: {1} for name in ("inference", "draws", "__call__", "forward")}

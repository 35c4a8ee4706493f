"""The same seed gives the same numbers, and nothing outside the model is touched."""

import logging
import random
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

from mmopt.models import TriVI


def global_state():
    return (
        random.getstate(),
        [np.asarray(part).tolist() for part in np.random.get_state()],
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        list(warnings.filters),
        warnings.showwarning,
        {name: logging.getLogger(name).level for name in ["", *logging.root.manager.loggerDict]},
        list(logging.root.handlers),
        logging.root.manager.disable,
    )


@contextmanager
def untouched():
    """Assert that the global state after the block is that before it."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    one = torch.get_num_threads()
    torch.set_num_threads(2)  # a limit that is left behind could not be told from one thread
    try:
        before = global_state()
        yield
        for was, now in zip(before, global_state(), strict=True):
            assert was == now
    finally:
        torch.set_num_threads(one)


def outcome(model):
    history = pd.concat(model.history.values(), axis=1)
    return (
        model.get_latent_representation(),
        history.to_numpy(),
        model.steps_.to_numpy(),
        model.validation_indices,
    )


def same(one, other):
    return [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("optimizer", ["asgdadam", "adamw"])
def test_same_seed_same_numbers(make_model, train, optimizer):
    torch.manual_seed(1)
    first = outcome(train(make_model(), 3, optimizer=optimizer))
    torch.manual_seed(2)
    second = outcome(train(make_model(), 3, optimizer=optimizer))
    assert same(first, second) == [True] * 4


def test_another_seed_gives_others(make_model, train):
    first = outcome(train(make_model(), 2))
    assert same(first, outcome(train(make_model(random_state=1), 2))) == [False, False, False, True]
    assert same(first, outcome(train(make_model(), 2, random_state=1))) == [False] * 4


def test_progress_bar_and_checkpoint_change_no_number(make_model, train, tmp_path, capsys):
    first = outcome(train(make_model(), 3))
    second = outcome(train(make_model(), 3, progress_bar=True, checkpoint=tmp_path / "run.ckpt"))
    assert same(first, second) == [True] * 4
    assert "poch" in "".join(capsys.readouterr())


def test_setting_up_and_making_touch_nothing(fitted, make_mosaic):
    mdata = make_mosaic()
    x = {m: mdata[m].X.copy() for m in mdata.mod}
    with untouched():
        TriVI.setup_mudata(mdata, batch_key="donor")
        TriVI(mdata, n_latent=3)
    assert all((x[m] != mdata[m].X).nnz == 0 for m in mdata.mod)
    assert list(mdata.obs.columns) == ["donor"]


@pytest.mark.parametrize("bar", [False, True])
def test_training_touches_nothing(fitted, make_model, train, bar):
    model = make_model()
    with untouched():
        train(model, 2, progress_bar=bar)


def test_a_failed_training_touches_nothing(make_model, train):
    import lightning.pytorch as lightning

    class Fail(lightning.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("stop")

    model = train(make_model(), 1)
    with untouched(), pytest.raises(RuntimeError, match="stop"):
        train(model, 2, callbacks=[Fail()])


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.get_latent_representation(return_dist=True),
        lambda model: model.get_modality_weights(),
        lambda model: model.get_normalized("rna"),
        lambda model: model.get_normalized("prot", n_samples=3),
        lambda model: model.get_elbo(),
        lambda model: model.get_reconstruction_error(),
    ],
    ids=["latent", "weights", "normalized", "samples", "elbo", "reconstruction"],
)
def test_asking_touches_nothing(fitted, ask):
    state = {k: v.clone() for k, v in fitted.module.state_dict().items()}
    with untouched():
        ask(fitted)
    assert all(torch.equal(v, state[k]) for k, v in fitted.module.state_dict().items())
    assert not fitted.module.training


def test_saving_and_loading_touch_nothing(fitted, make_mosaic, tmp_path):
    mdata = make_mosaic()
    with untouched():
        fitted.save(tmp_path / "model")
        TriVI.load(tmp_path / "model", mdata, accelerator="cpu")


def test_the_loss_as_a_function_touches_nothing(fitted):
    from mmopt.models.frozen import frozen_loss

    with untouched():
        parameters, loss = frozen_loss(fitted, n_cells=20)
        loss(parameters)

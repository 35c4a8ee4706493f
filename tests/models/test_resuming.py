"""A run that was interrupted and goes on from its checkpoint ends as if nothing had happened."""

import os
import pickle
import signal
import struct
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from mmopt import optim
from mmopt.models import TriVI
from mmopt.models.resuming import _name, resumable

EPOCHS = 6


class Stop(lightning.Callback):
    """Raise (or do anything else) at the start of an epoch, or in the middle of it."""

    def __init__(self, epoch, act, batch=None):
        self.epoch, self.act, self.batch = epoch, act, batch

    def on_train_epoch_start(self, trainer, plan):
        if self.batch is None and trainer.current_epoch == self.epoch:
            self.act()

    def on_train_batch_start(self, trainer, plan, batch, index):
        if index == self.batch and trainer.current_epoch == self.epoch:
            self.act()


def fail():
    raise RuntimeError("the power went")


def outcome(model):
    """Everything a run produces."""
    return {
        "embedding": model.get_latent_representation(),
        "history": pd.concat(model.history.values(), axis=1),
        "steps": model.steps_,
        "validation": model.validation_indices,
        "state": model.module.state_dict(),
    }


def assert_same(found, expected):
    np.testing.assert_array_equal(found["embedding"], expected["embedding"])
    pd.testing.assert_frame_equal(found["history"], expected["history"], check_exact=True)
    pd.testing.assert_frame_equal(found["steps"], expected["steps"], check_exact=True)
    np.testing.assert_array_equal(found["validation"], expected["validation"])
    assert all(torch.equal(v, expected["state"][k]) for k, v in found["state"].items())


OPTIONS = {
    "early stopping": {},
    "averaged": {"early_stopping": False},
    "asgdamsgrad": {
        "optimizer": "asgdamsgrad",
        "optimizer_kwargs": {"switch_interval": 2, "warmup_steps": 3},
    },
    "no validation": {"train_size": 1.0},
}


@pytest.fixture(scope="module")
def uninterrupted(make_model, train):
    return {name: outcome(train(make_model(), EPOCHS, **options)) for name, options in OPTIONS.items()}


@pytest.mark.parametrize(
    ("option", "epoch", "batch"),
    [*((option, 3, 1) for option in OPTIONS), ("early stopping", 1, None), ("averaged", 5, None)],
)
def test_a_run_that_failed_goes_on(make_model, train, uninterrupted, tmp_path, option, epoch, batch):
    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="the power went"):
        train(make_model(), EPOCHS, checkpoint=path, callbacks=[Stop(epoch, fail, batch)], **OPTIONS[option])
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]
    resumed = train(make_model(), EPOCHS, checkpoint=path, **OPTIONS[option])
    assert_same(outcome(resumed), uninterrupted[option])


def test_a_run_that_failed_before_its_first_checkpoint_starts_anew(
    make_model, train, uninterrupted, tmp_path
):
    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="the power went"):
        train(make_model(), EPOCHS, checkpoint=path, callbacks=[Stop(0, fail, 1)])
    assert not path.exists()
    assert_same(outcome(train(make_model(), EPOCHS, checkpoint=path)), uninterrupted["early stopping"])


def test_a_run_may_fail_often(make_model, train, uninterrupted, tmp_path):
    for epoch in (1, 2, 4):
        with pytest.raises(RuntimeError, match="the power went"):
            train(make_model(), EPOCHS, checkpoint=tmp_path / "run.ckpt", callbacks=[Stop(epoch, fail)])
    resumed = train(make_model(), EPOCHS, checkpoint=str(tmp_path / "run.ckpt"))
    assert_same(outcome(resumed), uninterrupted["early stopping"])


@pytest.mark.parametrize("option", ["early stopping", "averaged"])
def test_a_complete_run_is_not_run_again(make_model, train, uninterrupted, tmp_path, option):
    path = tmp_path / "run.ckpt"
    train(make_model(), EPOCHS, checkpoint=path, **OPTIONS[option])
    again = train(
        make_model(), EPOCHS, checkpoint=path, **OPTIONS[option], callbacks=[Stop(e, fail) for e in range(9)]
    )
    assert_same(outcome(again), uninterrupted[option])


def test_the_same_model_goes_on_after_ctrl_c(make_model, train, uninterrupted, tmp_path):
    def press():
        raise KeyboardInterrupt

    model = make_model()
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(model, EPOCHS, checkpoint=tmp_path / "run.ckpt", callbacks=[Stop(4, press, 1)])
    finally:
        signal.signal(signal.SIGINT, handler)
    train(model, EPOCHS, checkpoint=tmp_path / "run.ckpt")
    assert_same(outcome(model), uninterrupted["early stopping"])


@pytest.fixture(scope="module")
def two_networks(make_model, train):
    options = ("early stopping", "no validation")
    return {name: outcome(train(make_model(n_networks=2), EPOCHS, **OPTIONS[name])) for name in options}


@pytest.mark.parametrize("network", [0, 1])
@pytest.mark.parametrize("option", ["early stopping", "no validation"])
def test_networks_fitted_one_after_the_other_go_on(
    make_model, train, two_networks, tmp_path, option, network
):
    """Each network has a checkpoint: one that was complete is not fitted again, the interrupted one goes on."""
    path, fits = tmp_path / "run.ckpt", []

    def fail_later():
        fits.append(1)
        if len(fits) > network:
            fail()

    with pytest.raises(RuntimeError, match="the power went"):
        stop = Stop(3, fail_later, 1)
        train(make_model(n_networks=2), EPOCHS, checkpoint=path, callbacks=[stop], **OPTIONS[option])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.ckpt", "run.ckpt.1"][: network + 1]
    again = Stop(0, lambda: fits.append("from the start"))
    resumed = train(make_model(n_networks=2), EPOCHS, checkpoint=path, callbacks=[again], **OPTIONS[option])
    assert_same(outcome(resumed), two_networks[option])
    assert fits.count("from the start") == 1 - network  # the second network, where it had not begun


def test_early_stopping_counts_on(make_model, train, tmp_path):
    """Nothing improves at rate zero: the run ends at the same epoch, interrupted before its last one or complete."""
    options = {"optimizer": "sgd", "lr": 0.0, "early_stopping_patience": 3}
    expected = outcome(train(make_model(), 12, **options))
    n = len(expected["history"])
    assert 6 <= n < 12
    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="the power went"):
        train(make_model(), 12, checkpoint=path, callbacks=[Stop(n - 1, fail)], **options)
    assert_same(outcome(train(make_model(), 12, checkpoint=path, **options)), expected)
    assert_same(outcome(train(make_model(), 12, checkpoint=path, **options)), expected)


KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("mosaics", sys.argv[1])
mosaics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mosaics)
import lightning.pytorch as lightning
from mmopt.models import TriVI

class Kill(lightning.Callback):
    def on_train_batch_start(self, trainer, plan, batch, index):
        if trainer.current_epoch == 3 and index == 1:
            os.kill(os.getpid(), signal.SIGKILL)

mdata = mosaics.draw_mosaic()
TriVI.setup_mudata(mdata, batch_key="donor")
model = TriVI(mdata, n_latent=4, n_hidden=16)
model.train(6, accelerator="cpu", progress_bar=False, batch_size=32, checkpoint=sys.argv[2], callbacks=[Kill()])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_process_goes_on(make_model, train, uninterrupted, tmp_path):
    path = tmp_path / "run.ckpt"
    mosaics = Path(__file__).with_name("conftest.py")
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, mosaics, path],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]
    resumed = train(make_model(), EPOCHS, checkpoint=path)
    assert_same(outcome(resumed), uninterrupted["early stopping"])


@pytest.fixture(scope="module")
def checkpoint(make_model, train, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.ckpt"
    train(make_model(), 2, checkpoint=path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "optimizer",
    [optim.creator("adam", lr=1e-3), partial(torch.optim.Adam, lr=1e-3), lambda p: torch.optim.Adam(p)],
    ids=["creator", "partial", "lambda"],
)
def test_a_run_is_recognised_in_another_process(make_model, train, tmp_path, optimizer):
    """No address of an object in memory, which the next process will not have, may tell runs apart."""
    train(make_model(), 1, checkpoint=tmp_path / "run.ckpt", optimizer=optimizer)
    written = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert " at 0x" not in repr(written["mmopt"])


RATE = 1e-3


def test_functions_are_told_apart_by_what_they_do(monkeypatch):
    def closing_over(rate):
        return lambda p: torch.optim.Adam(p, lr=rate)

    def of_default(rate):
        def make(p, lr=rate):
            return torch.optim.Adam(p, lr=lr)

        return make

    def of_global(rate):
        monkeypatch.setitem(globals(), "RATE", rate)
        return lambda p: torch.optim.Adam(p, lr=RATE)

    for make in (closing_over, of_default, of_global):
        one, again, other = (_name(make(rate)) for rate in (1e-3, 1e-3, 1e-2))
        assert one == again != other
    functions = (
        lambda p: torch.optim.Adam(p, lr=1e-3),
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.SGD(p, lr=1e-3),
        lambda p: next(torch.optim.Adam([x], lr=1e-3) for x in p),
        lambda p: next(torch.optim.Adam([x], lr=1e-2) for x in p),
    )
    assert len({str(_name(f)) for f in functions}) == len(functions)


class TestAnotherStart:
    """What was trained from other weights must not take the place of what is asked for."""

    def test_other_starting_weights(self, make_model, train, checkpoint, tmp_path):
        (tmp_path / "run.ckpt").write_bytes(checkpoint)
        with pytest.raises(ValueError, match="another start"):
            train(make_model(random_state=1), 2, checkpoint=tmp_path / "run.ckpt")

    def test_other_panels(self, make_model, make_mosaic, train, tmp_path):
        def mosaic():
            mdata = make_mosaic()
            prot = mdata["prot"]
            x = prot.X.toarray()
            x[(prot.obs["sample"] == "b").to_numpy(), 0] = 0
            prot.X = sp.csr_matrix(x)
            return mdata

        path = tmp_path / "run.ckpt"
        train(make_model(mosaic(), setup={"protein_panels": None}), 1, checkpoint=path)
        with pytest.raises(ValueError, match="protein panels"):
            train(make_model(mosaic()), 1, checkpoint=path)

    def test_another_reference_or_more_to_train(self, make_model, make_mosaic, train, tmp_path):
        def query(seed=0, unfrozen=False):
            reference = train(make_model(random_state=seed), 1)
            mdata = make_mosaic(n=40, seed=1)
            mdata.obs["donor"] = "new"
            model = TriVI.load_query_data(mdata, reference, unfrozen=unfrozen, accelerator="cpu")
            return train(model, 1, checkpoint=tmp_path / "run.ckpt")

        expected = query().get_latent_representation()
        np.testing.assert_array_equal(query().get_latent_representation(), expected)
        for other in ({"seed": 1}, {"unfrozen": True}):
            with pytest.raises(ValueError, match="another start"):
                query(**other)

    def test_training_on_after_a_run_is_another_run(self, make_model, train, tmp_path):
        model = train(make_model(), 1)
        train(model, 1, checkpoint=tmp_path / "run.ckpt")
        after = model.get_latent_representation()
        train(model, 1, checkpoint=tmp_path / "run.ckpt")  # it is complete
        np.testing.assert_array_equal(model.get_latent_representation(), after)
        with pytest.raises(ValueError, match="another start"):
            train(make_model(), 1, checkpoint=tmp_path / "run.ckpt")

    def test_rounding_of_another_machine_is_none(self, make_model, train, tmp_path):
        path = tmp_path / "run.ckpt"
        train(make_model(), 1, checkpoint=path)
        model = make_model()
        with torch.no_grad():
            for value in model.module.state_dict().values():
                if value.is_floating_point():
                    value *= 1 + 1e-7
        train(model, 1, checkpoint=path)


class TestRefusals:
    @pytest.mark.parametrize(
        ("made", "options"),
        [
            ({"n_latent": 5}, {}),
            ({}, {"lr": 1e-4}),
            ({}, {"optimizer": "adam"}),
            ({}, {"optimizer_kwargs": {"warmup_steps": 7}}),
            ({}, {"batch_size": 16}),
            ({}, {"random_state": 1}),
            ({}, {"held_out": [1, 2]}),
            ({}, {"max_epochs": 9}),
            ({}, {"gradient_clip_val": 1.0}),
            ({}, {"accumulate_grad_batches": 2}),
            ({}, {"precision": "bf16-mixed"}),
        ],
        ids=str,
    )
    def test_a_checkpoint_of_another_run(self, make_model, train, checkpoint, tmp_path, made, options):
        """A lower rate, say after a NaN, must not be overruled in silence by the rate in the checkpoint."""
        path = tmp_path / "run.ckpt"
        path.write_bytes(checkpoint)
        with pytest.raises(ValueError, match=r"run\.ckpt.* other .*delete it"):
            train(make_model(**made), **({"max_epochs": 2} | options), checkpoint=path)
        assert path.read_bytes() == checkpoint

    @pytest.mark.parametrize("content", ["nothing", "half", "noise", "text", "other"])
    def test_a_file_that_is_no_checkpoint(self, make_model, train, checkpoint, tmp_path, content):
        path = tmp_path / "run.ckpt"
        if content == "other":
            torch.save({"weights": torch.zeros(3)}, path)
        else:
            path.write_bytes(
                {
                    "nothing": b"",
                    "half": checkpoint[: len(checkpoint) // 2],
                    "noise": np.random.default_rng(0).bytes(5000),
                    "text": b"not a checkpoint",
                }[content]
            )
        with pytest.raises(ValueError, match=r"run\.ckpt.*no intact checkpoint.*delete it"):
            train(make_model(), 2, checkpoint=path)

    def test_nothing_in_it_is_executed(self, make_model, train, tmp_path):
        class Attack:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path}/executed",)

        for name, write in {
            "torch": lambda path: torch.save({"mmopt": Attack(), "state_dict": {}}, path),
            "pickle": lambda path: path.write_bytes(pickle.dumps(Attack(), protocol=2)),
        }.items():
            path = tmp_path / name
            write(path)
            with pytest.raises(ValueError, match="no intact checkpoint"):
                train(make_model(), 2, checkpoint=path)
        assert not (tmp_path / "executed").exists()

    def test_a_folder_that_is_not_there_is_noticed_before_training(self, make_model, train, tmp_path):
        epochs = []
        with pytest.raises(FileNotFoundError, match="no folder"):
            train(
                make_model(),
                2,
                checkpoint=tmp_path / "none" / "run.ckpt",
                callbacks=[Stop(0, lambda: epochs.append(0))],
            )
        assert not epochs

    def test_a_byte_changed_anywhere(self, checkpoint, tmp_path):
        """torch reads a weight with a flipped bit without a word, and the run would go on elsewhere."""
        path = tmp_path / "run.ckpt"
        path.write_bytes(checkpoint)
        content = torch.load(path, weights_only=True)
        description = content["mmopt"]["description"]
        assert resumable(path, description) == str(path)
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.file_size][::12]
        assert len(members) > 10
        for member in members:
            start = member.header_offset  # of the local header, whose end says how long it is
            n_name, n_extra = struct.unpack_from("<HH", checkpoint, start + 26)
            changed = bytearray(checkpoint)
            changed[start + 30 + n_name + n_extra + member.file_size // 2] ^= 16
            path.write_bytes(changed)
            with pytest.raises(ValueError, match="no intact checkpoint"):
                resumable(path, description)

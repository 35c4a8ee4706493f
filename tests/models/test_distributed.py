"""Two processes that train together end where one does that takes as many cells in a step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).with_name("distributed_run.py")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "2", str(folder)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "early_stopping was automatically disabled" not in done.stderr  # it was not
    ranks = [dict(np.load(folder / f"rank{r}.npz")) for r in (0, 1)]
    return ranks, folder


def test_two_processes_do_as_one(together, make_mosaic, tmp_path):
    import importlib.util

    spec = importlib.util.spec_from_file_location("distributed_run", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (first, second), folder = together
    for name, value in first.items():  # weights, rates and the epoch of stopping are the same everywhere
        if name != "embedding":
            np.testing.assert_array_equal(value, second[name], err_msg=name)
    np.testing.assert_allclose(first["embedding"], second["embedding"], atol=1e-6)

    alone = script.run(make_mosaic(n=81), tmp_path / "alone.ckpt", devices=1)
    assert len(first["train_loss"]) == len(alone["train_loss"])
    assert len(np.unique(alone["rates"])) > 2
    np.testing.assert_allclose(first["rates"], alone["rates"], rtol=1e-4)
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=2e-3)
    np.testing.assert_allclose(first["train_loss"], alone["train_loss"], rtol=2e-3)
    np.testing.assert_allclose(first["elbo"], alone["elbo"], rtol=5e-3)
    np.testing.assert_allclose(first["embedding"], alone["embedding"], atol=0.1)

    kept = [torch.load(p, weights_only=True) for p in (folder / "together.ckpt", tmp_path / "alone.ckpt")]
    assert kept[0]["epoch"] == kept[1]["epoch"]
    assert kept[0]["mmopt"]["best_epoch"] == kept[1]["mmopt"]["best_epoch"]
    assert not list(folder.glob(".mmopt-partial-*"))


def test_a_value_that_one_process_finds_wrong_is_the_error_of_all(together):
    for found in together[0]:
        assert "the loss of 'prot' became NaN or infinite at step 1" in str(found["error"])
        assert found["restored"].all()


def test_a_process_without_held_out_cells(together):
    assert np.isfinite(together[0][0]["few"]).all()

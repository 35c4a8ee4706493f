import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt.__main__ import BATCHES, DEFAULT_OPTIMIZERS, LABELS, _column, main
from mmopt._files import atomic_path
from mmopt._report import OUTPUTS, _batch
from mmopt.tl._compare_optimizers import DEFAULT

QUICK = [
    "--epochs",
    "2",
    "--optimizers",
    "adam, asgdadam",
    "--landscape-points",
    "3",
    "--accelerator",
    "cpu",
    "--quiet",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    (out / "metrics.csv").write_text("of an earlier run")
    assert main(["--out", str(out), "--comparison-cells", "300", *QUICK]) == 0
    return out


def test_every_output_is_there_and_nothing_else(results):
    assert {p.name for p in results.iterdir()} == {*OUTPUTS, "report.md"}


def test_metrics_have_one_row_per_optimizer_with_every_figure(results):
    metrics = pd.read_csv(results / "metrics.csv")
    assert list(metrics["optimizer"]) == ["adam", "asgdadam"]
    figures = ["elbo", "accuracy", "precision", "recall", "f1"]
    figures += [f"{s}_{m}" for s in ("r2", "rmse", "mse", "mae", "pearson") for m in ("rna", "atac", "prot")]
    assert metrics[figures].notna().all(axis=None)
    assert metrics[[f"baseline_{f}" for f in figures[1:]]].notna().all(axis=None)


def test_pictures_are_pictures(results):
    from matplotlib.image import imread

    for name in OUTPUTS:
        if name.endswith(".png"):
            picture = imread(results / name)[..., :3]
            assert min(picture.shape[:2]) > 300
            assert picture.std() > 0.02, f"{name} is blank"


def test_embedding_and_model_belong_together(results):
    from mmopt._compat import override_pull_on_update
    from mmopt.models import TriVI

    with override_pull_on_update():
        mdata = mudata.read_h5mu(results / "embedding.h5mu")
    assert {"mmopt", "landscape", "optimizer_comparison"} <= set(mdata.uns)
    model = TriVI.load(results / "final_model.pt", mdata, accelerator="cpu")
    np.testing.assert_allclose(model.get_latent_representation(), mdata.obsm["X_mmopt"], atol=1e-5)


def test_the_model_file_is_no_pickle(results):
    data = (results / "final_model.pt").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert json.loads(data[8 : 8 + length])["__metadata__"]["format"] == "mmopt.TriVI"


def test_report_names_data_versions_and_files(results):
    report = (results / "report.md").read_text()
    assert " 2 epochs" in report  # of each of two networks
    assert "the loss of 512 cells, 120 of them held out" in report
    for text in ("1200 cells", "300 rna features", "Held-out", "torch", "scvi-tools", "One seed", *OUTPUTS):
        assert text in report, text


def test_report_says_how_many_networks_were_fitted_and_compared(results):
    from mmopt._compat import override_pull_on_update

    report = (results / "report.md").read_text()
    assert "2 networks, 2 epochs each" in report
    assert "Compared on one network" in report
    with override_pull_on_update():
        history = mudata.read_h5mu(results / "embedding.h5mu").uns["mmopt"]["history"]
    bounds = history.groupby("network")["elbo_validation"].last()
    assert len(bounds) == 2
    assert f"bound: {bounds.mean():.2f} per cell, mean of the networks." in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.h5mu"], "nowhere.h5mu"),
        (["--batch-key", "nobody"], "nobody"),
        (["--rna", "GEX"], "GEX"),
        (["--optimizer", "adamm"], "asgdadam"),
        (["--alpha-min", "1", "--alpha-max", "0.1"], "alpha_min"),
        (["--label-key", "nobody"], "nobody"),
        (["--optimizers", "adam,adamm"], "adamm"),
        (["--optimizers", "adam,prodigy"], "package pytorch-optimizer"),
        (["--lr-grid", "-0.1"], "learning rate"),
        (["--landscape-points", "2"], "--landscape-points must be at least 3"),
        (["--comparison-cells", "5"], "--comparison-cells at least 100"),
        (["--accelerator", "tpu"], "accelerator='tpu'"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2_before_anything_is_trained(
    tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    monkeypatch.setattr("mmopt.models.TriVI.train", lambda *_, **__: pytest.fail("something was trained"))
    assert main([*QUICK, *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_mudata(tmp_path, capsys):
    (tmp_path / "data.h5mu").write_bytes(b"no hdf5")
    assert main([str(tmp_path / "data.h5mu"), "--out", str(tmp_path / "out"), *QUICK]) == 2
    assert "no readable .h5mu" in capsys.readouterr().err


def test_an_anndata_is_told_how_to_become_a_mudata(tmp_path, capsys):
    (tmp_path / "cells.h5ad").write_bytes(b"")
    assert main([str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out"), *QUICK]) == 2
    error = capsys.readouterr().err
    assert "is an AnnData (.h5ad)" in error
    assert 'mudata.MuData({"rna": anndata.read_h5ad(' in error


def test_a_zarr_store_is_told_how_to_become_a_file(tmp_path, capsys):
    (tmp_path / "cells.zarr").mkdir()
    assert main([str(tmp_path / "cells.zarr"), "--out", str(tmp_path / "out"), *QUICK]) == 2
    assert '.write_h5mu("cells.h5mu")' in capsys.readouterr().err


def test_labels_may_have_gaps_and_batches_may_not():
    mdata, remarks = mm.datasets.simulate_trimodal(80, n_genes=60, n_peaks=80, n_proteins=5, n_donors=2), []
    for column in ("donor", "cell_type"):
        mdata.obs[column] = mdata.obs[column].where(np.arange(80) > 2)
    assert _column(mdata, "auto", LABELS) == "cell_type"
    assert _column(mdata, "auto", BATCHES, remarks) is None
    assert ["'donor'" in r and "3 cells have no value" in r for r in remarks] == [True]
    assert _batch(mdata, None, remarks) == f"none; {remarks[0]}"
    mdata.obs["sample"], mdata.obs["one"] = np.array(["a", "b"] * 40), "a"
    assert _column(mdata, "auto", BATCHES, remarks) == "sample"
    assert _batch(mdata, "sample", []) == "sample"
    assert _batch(mdata, "one", []) == "none; all cells are of one 'one'"


def test_optimizers_are_those_that_the_tool_compares():
    assert tuple(DEFAULT_OPTIMIZERS.split(",")) == DEFAULT


def test_a_process_that_is_asked_to_end_cleans_up_and_the_handler_is_as_before(tmp_path, monkeypatch):
    def write(_):
        with atomic_path(tmp_path / "metrics.csv") as path:
            path.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("mmopt.__main__.run", write)
    # without the handler the signal would end the tests
    assert main([]) == 130
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


SIGNALS = ["SIGINT", "SIGTERM", "SIGKILL"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    script = Path(__file__).with_name("interrupted_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("interrupted")), *SIGNALS],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("stop", SIGNALS)
def test_an_interrupted_run_leaves_no_half_written_file(interrupted, stop):
    found = interrupted[stop]
    assert found["trained"]
    assert found["code"] == {"SIGINT": 130, "SIGTERM": 130, "SIGKILL": -9}[stop]
    assert found["left"] == []


def test_what_fails_late_loses_no_model_and_leaves_nothing_of_an_earlier_run(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no picture")

    monkeypatch.setattr("mmopt.__main__._figures", broken)
    (tmp_path / "report.md").write_text("of another model")
    with pytest.raises(RuntimeError, match="no picture"):
        main(
            [
                "--out",
                str(tmp_path),
                "--comparison-cells",
                "100",
                *QUICK,
                "--epochs",
                "1",
                "--optimizers",
                "adam",
            ]
        )
    found = {p.name for p in tmp_path.iterdir()}
    assert found == {"final_model.pt", "optimizer_comparison.csv", "metrics.csv"}


def test_help_and_version_are_quick(capsys):
    for flag in ("--help", "--version"):
        with pytest.raises(SystemExit) as end:
            main([flag])
        assert end.value.code == 0
    assert "asgdadam" in capsys.readouterr().out

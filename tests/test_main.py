import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time

import mudata
import numpy as np
import pandas as pd
import pytest

from mmopt.__main__ import OUTPUTS, main

QUICK = [
    "--epochs",
    "2",
    "--optimizers",
    "adam,asgdadam",
    "--landscape-points",
    "3",
    "--accelerator",
    "cpu",
    "--quiet",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
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
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path), *QUICK]) == 2
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


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_half_written_file(tmp_path, stop):
    command = [
        sys.executable,
        "-m",
        "mmopt",
        "--out",
        str(tmp_path),
        "--epochs",
        "500",
        "--accelerator",
        "cpu",
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # a shell that starts the suite in the background has Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:  # wait until training has begun
        if "Epoch 2/" in line or "training" in line:
            break
    time.sleep(3)
    for _ in range(3):  # Python loses a Ctrl-C that comes in a destructor
        if process.returncode is None:
            process.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=20)
    assert process.returncode not in (None, 0)
    assert list(tmp_path.iterdir()) == []


def test_help_and_version_are_quick(capsys):
    for flag in ("--help", "--version"):
        with pytest.raises(SystemExit) as end:
            main([flag])
        assert end.value.code == 0
    assert "asgdadam" in capsys.readouterr().out

import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.tl._compare_optimizers import summarise


@pytest.fixture(scope="module")
def compared(toy_source):
    mdata = toy_source[toy_source.obs_names[:300]].copy()
    runs = mm.tl.compare_optimizers(
        mdata,
        ("adam", "asgdadam"),
        lr_grid=(1e-3, 1e-2),
        seeds=(0, 1),
        label_key="cell_type",
        batch_key="donor",
        max_epochs=2,
        accelerator="cpu",
        progress_bar=False,
    )
    return mdata, runs


def test_every_optimizer_has_the_same_trials(compared):
    _, runs = compared
    assert len(runs) == 8
    assert (runs.groupby("optimizer").size() == 4).all()
    assert (runs["status"] == "ok").all()


def test_every_score_is_there_and_beside_its_baseline(compared):
    _, runs = compared
    scores = ["accuracy", "precision", "recall", "f1"]
    scores += [f"{s}_{m}" for m in ("rna", "atac", "prot") for s in ("r2", "rmse", "mse", "mae", "pearson")]
    for score in scores:
        assert np.isfinite(runs[score]).all(), score
        assert np.isfinite(runs[f"baseline_{score}"]).all(), score
    assert runs["accuracy"].between(0, 1).all()
    np.testing.assert_allclose(runs["rmse_prot"] ** 2, runs["mse_prot"], rtol=1e-6)


def test_runs_of_a_seed_share_cells_and_baselines(compared):
    _, runs = compared
    baselines = [c for c in runs if c.startswith("baseline_")]
    assert (runs.groupby("seed")[baselines].nunique() <= 1).all(axis=None)
    assert runs["baseline_accuracy"].nunique() == 2


def test_slots_survive_a_file(compared, tmp_path):
    mdata, runs = compared
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "compared.h5mu")
        slot = mudata.read_h5mu(tmp_path / "compared.h5mu").uns["optimizer_comparison"]
    pd.testing.assert_frame_equal(slot["runs"].reset_index(drop=True), runs, check_dtype=False)
    assert set(slot) == {"runs", "curves", "summary", "params", "versions"}
    assert len(slot["curves"]) == 8 * 2


def test_a_run_that_diverges_is_a_row(toy_source):
    mdata = toy_source[toy_source.obs_names[:200]].copy()
    runs = mm.tl.compare_optimizers(
        mdata, ("sgd",), lr_grid=(1e38,), seeds=(0,), max_epochs=2, accelerator="cpu", progress_bar=False
    )
    status = runs.set_index("optimizer")["status"]
    assert status["sgd"] == "diverged"
    summary = mdata.uns["optimizer_comparison"]["summary"].set_index("optimizer")
    assert np.isinf(summary.loc["sgd", "elbo"])


def made_up(**elbo):
    """Runs at one learning rate; a list of bounds, one per seed, for each optimizer."""
    return pd.DataFrame(
        [
            {"optimizer": name, "lr": 1e-3, "seed": seed, "status": "ok", "elbo": value}
            for name, values in elbo.items()
            for seed, value in enumerate(values)
        ]
    )


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([9.0, 9.1, 8.9, 9.0], "better"),
        ([11.0, 11.1, 10.9, 11.0], "worse"),
        ([9.0, 11.0, 9.5, 10.6], "tie"),
        ([10.0, 10.0, 10.0, 10.0], "tie"),
    ],
)
def test_verdicts_are_paired_and_need_two_standard_errors(values, verdict):
    summary = summarise(made_up(adam=[10.0, 10.0, 10.0, 10.0], other=values)).set_index("optimizer")
    assert summary.loc["other", "verdict"] == verdict
    assert summary.loc["adam", "verdict"] == "reference"
    assert summary.loc["other", "difference"] == pytest.approx(np.mean(values) - 10)


def test_pairing_removes_what_seeds_share():
    # seeds differ by far more than the optimizers do
    summary = summarise(made_up(adam=[10.0, 50.0, 90.0], other=[9.0, 49.1, 88.9])).set_index("optimizer")
    assert summary.loc["other", "verdict"] == "better"


def test_one_seed_gives_no_verdict():
    summary = summarise(made_up(adam=[10.0], other=[1.0])).set_index("optimizer")
    assert summary.loc["other", "verdict"] == "one seed"
    assert np.isnan(summary.loc["other", "difference_se"])


def test_an_optimizer_that_always_diverges_is_no_tie():
    runs = made_up(adam=[10.0, 11.0, 12.0], other=[0.0, 0.0, 0.0])
    runs.loc[runs["optimizer"] == "other", "status"] = "diverged"
    summary = summarise(runs).set_index("optimizer")
    assert summary.loc["other", "verdict"] == "diverged"
    assert summary.loc["adam", "verdict"] == "reference"


def test_best_rate_and_regret():
    runs = pd.concat(
        [made_up(adam=[10.0, 12.0], other=[11.0, 13.0]), made_up(adam=[20.0, 22.0], other=[10.0, 12.0]).assign(lr=1e-2)]
    )
    summary = summarise(runs).set_index("optimizer")
    assert summary["lr"].to_dict() == {"adam": 1e-3, "other": 1e-2}
    assert summary.loc["adam", "regret"] == pytest.approx(5)
    assert summary.loc["adam", "worst_regret"] == pytest.approx(10)
    assert summary.loc["other", "worst_regret"] == pytest.approx(1)
    assert summary.loc["other", "verdict"] == "tie"


def test_refuses_an_empty_grid(toy_source):
    with pytest.raises(ValueError, match="lr_grid"):
        mm.tl.compare_optimizers(toy_source, lr_grid=())


def test_refuses_an_unknown_optimizer(toy_source):
    with pytest.raises(ValueError, match="asgdadam"):
        mm.tl.compare_optimizers(toy_source.copy(), ("adamm",), progress_bar=False)

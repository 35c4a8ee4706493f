import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.models import TriVI
from mmopt.models.mosaic import read_mosaic
from mmopt.optim import available_rivals
from mmopt.tl._held_out import baseline_scores, held_out_scores
from mmopt.tl._optimizer_summary import summarise, with_target


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


def test_curves_have_every_evaluation_and_its_cost(compared):
    mdata, runs = compared
    curves = mdata.uns["optimizer_comparison"]["curves"]
    for _, one in curves.groupby(["optimizer", "lr", "seed"]):
        # 240 cells to train on, two batches of at most 128
        assert list(one["step"]) == [2, 4]
        assert 0 < one["seconds"].iloc[0] < one["seconds"].iloc[1]
    last = curves[curves["epoch"] == 1].set_index(["optimizer", "lr", "seed"])["elbo_validation"]
    assert last.to_dict() == runs.set_index(["optimizer", "lr", "seed"])["elbo"].to_dict()
    assert (runs["n_steps"] == 4).all()


def test_tuned_adam_reaches_its_own_final_bound(compared):
    mdata, runs = compared
    summary = mdata.uns["optimizer_comparison"]["summary"].set_index("optimizer")
    tuned = runs[(runs["optimizer"] == "adam") & (runs["lr"] == summary.loc["adam", "lr"])]
    assert (tuned["steps_to_target"] <= tuned["n_steps"]).all()
    assert summary.loc["adam", "n_reached"] == 2
    assert (
        (runs["seconds_to_target"] <= runs["seconds"])
        .where(np.isfinite(runs["seconds_to_target"]), True)
        .all()
    )


def test_settings_are_equal_and_written_down(compared):
    mdata, runs = compared
    params = mdata.uns["optimizer_comparison"]["params"]
    assert params["optimizers"]["adam"] == params["optimizers"]["asgdadam"]
    assert params["optimizers"]["adam"] == "{'eps': 1e-08, 'weight_decay': 0.0, 'fused': True}"
    assert set(runs["implementation"]) == {"fused"}
    np.testing.assert_array_equal(params["lr_grid"]["adam"], [1e-3, 1e-2])
    assert params["reference"] == "adam"


def test_an_optimizer_may_have_its_own_grid_and_arguments(toy_source):
    mdata = toy_source[toy_source.obs_names[:150]].copy()
    runs = mm.tl.compare_optimizers(
        mdata,
        ("padam", "sgd"),
        lr_grid={"padam": (0.1,), "sgd": (1e-6,)},
        seeds=(0,),
        optimizer_kwargs={"sgd": {"foreach": False}, "padam": {"partial": 0.125}},
        max_epochs=1,
        accelerator="cpu",
        progress_bar=False,
    )
    assert dict(zip(runs["optimizer"], runs["lr"], strict=True)) == {"padam": 0.1, "sgd": 1e-6}
    assert set(runs["implementation"]) == {"own"}
    comparison = mdata.uns["optimizer_comparison"]
    assert comparison["params"]["reference"] == "padam"
    assert "0.125" in comparison["params"]["optimizers"]["padam"]
    assert list(comparison["summary"]["verdict"]) == ["reference", "one seed"]


@pytest.mark.parametrize("name", ["adabelief", "adan", "lion", "prodigy", "radam", "schedulefree", "soap"])
def test_rivals(toy_source, name):
    if name not in available_rivals():
        pytest.skip(f"{name} needs the package pytorch-optimizer")
    mdata = toy_source[toy_source.obs_names[:150]].copy()
    runs = mm.tl.compare_optimizers(
        mdata,
        (name, "adam"),
        lr_grid=(1e-3,),
        seeds=(0,),
        max_epochs=2,
        accelerator="cpu",
        progress_bar=False,
    )
    assert (runs["status"] == "ok").all()
    assert runs["elbo"].nunique() == 2
    assert runs["lr"][0] == (1.0 if name == "prodigy" else 1e-3)


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
        ([9.0, 9.9, 9.5, 9.7], "tie"),  # 2.5 standard errors, where four seeds need 3.2
        ([10.0, 10.0, 10.0, 10.0], "tie"),
        ([9.999999, 9.999999, 9.999999, 9.999999], "tie"),  # rounding
    ],
)
def test_verdicts_are_paired_and_need_an_interval_without_0(values, verdict):
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
        [
            made_up(adam=[10.0, 12.0], other=[11.0, 13.0]),
            made_up(adam=[20.0, 22.0], other=[10.0, 12.0]).assign(lr=1e-2),
        ]
    )
    summary = summarise(runs).set_index("optimizer")
    assert summary["lr"].to_dict() == {"adam": 1e-3, "other": 1e-2}
    assert summary.loc["adam", "regret"] == pytest.approx(5)
    assert summary.loc["adam", "worst_regret"] == pytest.approx(10)
    assert summary.loc["other", "worst_regret"] == pytest.approx(1)
    assert summary.loc["other", "verdict"] == "tie"


def test_steps_to_the_target_count_to_the_first_evaluation_below_it():
    runs = made_up(adam=[10.0, 10.0], other=[9.0, 12.0])
    path = {
        ("adam", 0): [30.0, 20.0, 10.0],
        ("adam", 1): [30.0, 9.0, 10.0],
        ("other", 0): [20.0, 9.5, 9.0],
        ("other", 1): [20.0, 13.0, 12.0],
    }
    curves = pd.concat(
        pd.DataFrame({"elbo_validation": v, "step": [5, 10, 15], "seconds": [0.5, 1.0, 1.5]}).assign(
            optimizer=name, lr=1e-3, seed=seed
        )
        for (name, seed), v in path.items()
    )
    found = with_target(runs, curves, "adam").set_index(["optimizer", "seed"])
    assert found["steps_to_target"].to_dict() == {
        ("adam", 0): 15,
        ("adam", 1): 10,
        ("other", 0): 10,
        ("other", 1): np.inf,
    }
    assert found.loc[("other", 0), "seconds_to_target"] == 1.0
    summary = summarise(found.reset_index()).set_index("optimizer")
    assert summary["n_reached"].to_dict() == {"adam": 2, "other": 1}
    assert summary["steps_to_target"].to_dict() == {"adam": 12.5, "other": np.inf}


def test_a_reference_that_diverged_sets_no_target():
    runs = made_up(adam=[np.nan, 10.0], other=[9.0, 9.0])
    runs.loc[0, "status"] = "diverged"
    curves = runs.rename(columns={"elbo": "elbo_validation"}).assign(step=5, seconds=0.5).drop(index=0)
    found = with_target(runs, curves, "adam").set_index(["optimizer", "seed"])["steps_to_target"]
    assert np.isnan(found[("adam", 0)]) and np.isnan(found[("other", 0)])
    assert found[("adam", 1)] == found[("other", 1)] == 5


def test_trials_and_edges_are_counted():
    runs = pd.concat(
        [made_up(adam=[10.0, 12.0]).assign(lr=lr) for lr in (1e-4, 1e-3, 1e-2)], ignore_index=True
    )
    runs["elbo"] += runs["lr"] * 100
    runs.loc[5, "status"] = "diverged"
    row = summarise(runs).iloc[0]
    assert (row["lr"], row["n_trials"], row["n_diverged"], row["at_edge"]) == (1e-4, 6, 1, True)
    runs["elbo"] += (runs["lr"] != 1e-3) * 10
    assert not summarise(runs).iloc[0]["at_edge"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ((), "lr_grid"),
        ({"adam": (1e-3,), "sgd": (1e-3, 1e-2)}, "as many learning rates"),
        ({"adam": (1e-3,)}, "as many learning rates"),
        ({"lion": (1e-3,)}, r"rates for \['lion'\], which are not among"),
    ],
)
def test_refuses_uneven_grids(toy_source, grid, message):
    with pytest.raises(ValueError, match=message):
        mm.tl.compare_optimizers(toy_source, ("adam", "sgd"), lr_grid=grid)


def test_names_are_taken_in_any_case_and_nothing_is_done_twice(toy_source):
    mdata = toy_source[toy_source.obs_names[:150]].copy()
    runs = mm.tl.compare_optimizers(
        mdata,
        ("SGD", "Adam", "adam"),
        lr_grid={"sgd": (1e-3, 1e-3), "ADAM": (1e-2,)},
        seeds=np.array([0, 1, 0]),
        reference="Adam",
        optimizer_kwargs={"Adam": {"betas": (0.8, 0.99)}},
        max_epochs=1,
        accelerator="cpu",
        progress_bar=False,
    )
    found = runs[["optimizer", "lr", "seed"]].to_numpy().tolist()
    assert found == [["sgd", 1e-3, 0], ["adam", 1e-2, 0], ["sgd", 1e-3, 1], ["adam", 1e-2, 1]]
    params = mdata.uns["optimizer_comparison"]["params"]
    assert params["reference"] == "adam"
    assert "(0.8, 0.99)" in params["optimizers"]["adam"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"optimizer_kwargs": {"padam": {"partial": 0.1}}},
            r"arguments for \['padam'\], which are not among",
        ),
        ({"optimizer_kwargs": {"Adam": {}, "adam": {}}}, "for one optimizer under two names"),
        ({"optimizer_kwargs": {"asgdadam": {"alpha_min": 1.0, "alpha_max": 0.1}}}, "alpha_max=0.1"),
        ({"lr_grid": (1e-3, 0.0)}, "lr=0.0"),
        ({"train_size": 1.0}, "train_size=1.0"),
        ({"train_size": 1.3}, "train_size=1.3"),
        ({"train_size": 0.999}, "train_size=0.999"),
        ({"train_size": 0.001}, "train_size=0.001"),
    ],
)
def test_what_would_fail_later_is_refused_before_anything_is_trained(
    toy_source, kwargs, message, monkeypatch
):
    monkeypatch.setattr(TriVI, "train", None)
    mdata = toy_source[toy_source.obs_names[:150]].copy()
    with pytest.raises(ValueError, match=message):
        mm.tl.compare_optimizers(mdata, ("adam", "asgdadam"), progress_bar=False, **kwargs)


def test_refuses_what_it_sets_itself(toy_source):
    with pytest.raises(TypeError, match=r"\['early_stopping'\] cannot be given"):
        mm.tl.compare_optimizers(toy_source.copy(), early_stopping=True)


def test_refuses_more_than_one_network(toy_source):
    with pytest.raises(ValueError, match="compared on one network"):
        mm.tl.compare_optimizers(toy_source.copy(), "adam", model_kwargs={"n_networks": 2})


def test_one_rate_and_one_seed_need_no_list(toy_source):
    mdata = toy_source[toy_source.obs_names[:200]].copy()
    runs = mm.tl.compare_optimizers(
        mdata, "adam", lr_grid=1e-3, seeds=2, max_epochs=1, accelerator="cpu", progress_bar=False
    )
    assert runs[["lr", "seed"]].to_numpy().tolist() == [[1e-3, 2]]


def test_refuses_an_unknown_optimizer(toy_source):
    with pytest.raises(ValueError, match="asgdadam"):
        mm.tl.compare_optimizers(toy_source.copy(), ("adamm",), progress_bar=False)


def test_the_last_iterate_is_judged_too(toy_source):
    mdata = toy_source[toy_source.obs_names[:150]].copy()

    def compare(**kwargs):
        runs = mm.tl.compare_optimizers(
            mdata, ("adam",), lr_grid=(1e-2,), seeds=(0,), max_epochs=4, accelerator="cpu", progress_bar=False, **kwargs
        )  # fmt: skip
        return runs, mdata.uns["optimizer_comparison"]["summary"].iloc[0]

    averaged, summary = compare()
    plain, _ = compare(plan_kwargs={"averaging": None})
    # averaging changes what is judged, not the run; without it, both columns are the same thing
    np.testing.assert_allclose(averaged["elbo_iterate"], plain["elbo"], rtol=1e-6)
    np.testing.assert_allclose(plain["elbo_iterate"], plain["elbo"], rtol=1e-6)
    assert (averaged["elbo"] != averaged["elbo_iterate"]).all()
    assert summary["verdict_iterate"] == "reference"


def test_iterates_have_a_verdict_of_their_own():
    frame = made_up(adam=[1.0, 2.0, 3.0], other=[0.0, 1.0, 2.1])
    frame["elbo_iterate"] = -frame["elbo"]
    summary = summarise(frame).set_index("optimizer")
    assert summary.loc["other", ["verdict", "verdict_iterate"]].tolist() == ["better", "worse"]


def test_proteins_outside_a_panel_are_not_scored(toy_source):
    """What a batch did not measure is stored as zeros; neither model nor baseline may gain or lose by them."""
    mdata = toy_source[toy_source.obs_names[:300]].copy()
    prot, donor = mdata["prot"], mdata.obs["donor"].loc[mdata["prot"].obs_names].to_numpy()
    x = prot.X.toarray()
    x[np.ix_(donor == np.unique(donor)[0], np.arange(x.shape[1]) < x.shape[1] // 2)] = 0
    prot.X = sp.csr_matrix(x)
    TriVI.setup_mudata(mdata, batch_key="donor")
    model = TriVI(mdata)
    model.train(2, accelerator="cpu", progress_bar=False)
    mosaic = read_mosaic(model.adata_manager)
    held_out = np.arange(0, 300, 5)
    scored = baseline_scores(model, mosaic, held_out, None, 0), held_out_scores(model, mosaic, held_out, None)
    assert not model.module.measured_prot.all()
    model.module.measured_prot.fill_(True)
    fooled = baseline_scores(model, mosaic, held_out, None, 0), held_out_scores(model, mosaic, held_out, None)
    # zeros of absent proteins are easy for a baseline that learns which donor has them
    assert fooled[0]["baseline_pearson_prot"] > scored[0]["baseline_pearson_prot"] + 0.05
    assert fooled[1]["mse_prot"] > 1.2 * scored[1]["mse_prot"]

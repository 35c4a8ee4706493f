import random

import mudata
import numpy as np
import pytest
import torch

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.models import RecordParameters
from mmopt.models.frozen import frozen_loss


@pytest.fixture(scope="module")
def seen(fitted):
    mdata, model = fitted
    mdata = mdata.copy()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    mm.tl.landscape(mdata, model, n_points=5, n_cells=100, progress_bar=False)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert not model.module.training
    return mdata, model


def test_the_centre_is_the_fit(seen):
    mdata, model = seen
    slot = mdata.uns["landscape"]
    parameters, loss = frozen_loss(model, mdata, n_cells=100)
    with torch.no_grad():
        at_fit = loss(parameters)
    assert slot["x"][2] == slot["y"][2] == 0
    assert slot["loss"][2, 2] == float(at_fit["loss"])
    for part in ("rna", "atac", "prot", "kl"):
        assert slot[f"loss_{part}"][2, 2] == float(at_fit[part])


def test_the_parts_sum_to_the_loss_everywhere(seen):
    slot = seen[0].uns["landscape"]
    parts = sum(slot[f"loss_{part}"] for part in ("rna", "atac", "prot", "kl"))
    np.testing.assert_allclose(parts, slot["loss"], rtol=1e-4)
    assert slot["loss"].min() < slot["loss"].max()


def test_two_calls_agree_bit_for_bit(seen):
    mdata, model = seen
    first = mdata.uns["landscape"]["loss"].copy()
    mm.tl.landscape(mdata, model, n_points=5, n_cells=100, key_added="again", progress_bar=False)
    np.testing.assert_array_equal(mdata.uns["again"]["loss"], first)


def test_hessian_directions_curve_as_their_eigenvalues_say(seen):
    mdata, model = seen
    mm.tl.landscape(
        mdata,
        model,
        directions="hessian",
        span=0.02,
        n_points=3,
        n_cells=60,
        key_added="sharp",
        progress_bar=False,
    )
    loss = mdata.uns["sharp"]["loss"]
    # at the ends of a unit span the quadratic rises by a twentieth of the loss, whatever the eigenvalue
    expected = 0.02**2 * 2 * 0.05 * loss[1, 1]
    for line in (loss[1], loss[:, 1]):
        assert line[0] - 2 * line[1] + line[2] == pytest.approx(expected, rel=0.2)
    first, second = mdata.uns["sharp"]["hessian_eigenvalues"]
    assert first >= second


SMALL = {"n_points": 5, "n_cells": 60, "progress_bar": False}
PARTS = ("rna", "atac", "prot", "kl")


@pytest.fixture(scope="module")
def runs(toy_source):
    """Two fits from the same start by different optimizers, the first recorded."""
    mdata = toy_source[toy_source.obs_names[:300]].copy()
    recorder = RecordParameters()
    train = {
        "batch_key": "donor",
        "n_networks": 1,
        "max_epochs": 6,
        "accelerator": "cpu",
        "progress_bar": False,
    }
    model = mm.tl.integrate(mdata, **train, callbacks=[recorder])
    other = mm.tl.integrate(mdata, **train, optimizer="adam", lr=1e-2)
    return mdata, model, other, recorder


def at(model, mdata, parameters=None):
    """Loss of the model, or of other parameters in it."""
    fit, loss = frozen_loss(model, mdata, n_cells=60)
    with torch.no_grad():
        return {key: float(value) for key, value in loss(parameters or fit).items()}


def test_lines_are_a_band_through_the_fit(runs):
    mdata, model, *_ = runs
    mm.tl.landscape(mdata, model, n_dimensions=1, n_repeats=3, key_added="lines", **SMALL)
    slot, fit = mdata.uns["lines"], at(model, mdata)
    assert "y" not in slot
    assert slot["x"][2] == 0
    for key, value in fit.items():
        found = slot["loss" if key == "loss" else f"loss_{key}"]
        assert found.shape == (3, 5)
        np.testing.assert_array_equal(found[:, 2], value)
    assert len(np.unique(slot["loss"][:, 0])) == 3
    assert slot["params"]["n_forwards"] == 15
    assert slot["params"]["n_held_out"] == len(model.validation_indices) < 60


def test_biases_and_dispersions_stay_on_random_lines(runs, monkeypatch):
    mdata, model, *_ = runs
    moved = []
    slices = mm.curvature.slice_1d
    monkeypatch.setattr(
        "mmopt.curvature.slice_1d",
        lambda loss, fit, lines, *a, **k: moved.extend(lines) or slices(loss, fit, lines, *a, **k),
    )
    mm.tl.landscape(mdata, model, n_dimensions=1, n_repeats=2, key_added="lines", **SMALL)
    fit, (line, _) = dict(model.module.named_parameters()), moved
    fixed = {name for name, direction in line.items() if not direction.any()}
    assert {"decoders.prot.log_background", "decoders.prot.log_theta", "decoders.rna.log_theta"} <= fixed
    assert all("weight" not in name or fit[name].ndim == 1 for name in fixed)
    unit = "encoders.atac.weight"  # peaks × hidden units
    torch.testing.assert_close(line[unit].norm(dim=0), fit[unit].detach().norm(dim=0))


def test_a_line_and_a_plane_share_their_first_direction(runs):
    mdata, model, *_ = runs
    mm.tl.landscape(mdata, model, n_dimensions=1, n_repeats=1, key_added="line", **SMALL)
    mm.tl.landscape(mdata, model, key_added="plane", **SMALL)
    np.testing.assert_array_equal(mdata.uns["line"]["loss"][0], mdata.uns["plane"]["loss"][2])


def test_the_run_of_one_network_is_no_run_of_two(runs):
    mdata, _, _, recorder = runs
    pair = mm.tl.integrate(mdata.copy(), n_networks=2, max_epochs=1, accelerator="cpu", progress_bar=False)
    with pytest.raises(ValueError, match=r"2 networks.*n_networks=1, callbacks=\[recorder\]"):
        mm.tl.landscape(mdata, pair, directions="trajectory", trajectory=recorder, **SMALL)


@pytest.mark.parametrize("n_dimensions", [1, 2])
def test_the_trajectory_lies_in_its_plane_and_ends_at_the_fit(runs, n_dimensions):
    mdata, model, _, recorder = runs
    how = {"directions": "trajectory", "trajectory": recorder, "n_dimensions": n_dimensions}
    mm.tl.landscape(mdata, model, **how, key_added="run", **SMALL)
    slot = mdata.uns["run"]
    run = slot["trajectory"]
    assert run.shape == (len(recorder.snapshots) + 1, n_dimensions)
    np.testing.assert_array_equal(run[-1], 0)
    for name, coordinates in zip("xy", run.T, strict=False):
        assert slot[name].min() < coordinates.min() and coordinates.max() < slot[name].max()
    here = tuple(int(np.flatnonzero(slot[name] == 0)[0]) for name in ("x", "y")[:n_dimensions])
    assert slot["loss"][here[::-1] if n_dimensions == 2 else (0, *here)] == at(model, mdata)["loss"]
    variance, null = slot["explained_variance"], slot["null_explained_variance"]
    assert variance.shape == null.shape == (n_dimensions,)
    assert 0.2 < null[0] < 1
    # the start is where the path begins, in units of the parameters
    fit = dict(model.module.named_parameters())
    start = recorder.snapshots[0]
    away = sum(float((start[n] - p).detach().square().sum()) for n, p in fit.items()) ** 0.5
    assert 0.5 * away < np.linalg.norm(run[0]) <= 1.0001 * away


def test_the_path_joins_two_fits(runs):
    mdata, model, other, _ = runs
    mm.tl.landscape(mdata, model, other=other, key_added="path", **SMALL)
    slot = mdata.uns["path"]
    ends = at(model, mdata), at(other, mdata)
    for end, place in zip(ends, (0, -1), strict=True):
        for key, value in end.items():
            assert slot["loss" if key == "loss" else f"loss_{key}"][place] == value
    loss = slot["loss"]
    assert slot["barrier"]["loss"] == loss.max() - max(loss[0], loss[-1])
    assert set(slot["barrier"]) == set(slot["excess"]) == {"loss", *PARTS}
    assert slot["directions"] == "path"
    middle = {
        n: (p + dict(other.module.named_parameters())[n]).detach() / 2
        for n, p in model.module.named_parameters()
    }
    assert loss[2] == pytest.approx(at(model, mdata, middle)["loss"], rel=1e-6)


def test_every_kind_survives_a_file_and_can_be_drawn(runs, tmp_path):
    mdata, model, other, recorder = runs
    kinds = {
        "a": {"n_dimensions": 1},
        "b": {"directions": "trajectory", "trajectory": recorder},
        "c": {"other": other},
        "d": {"directions": "hessian", "n_dimensions": 1},
    }
    for key, kind in kinds.items():
        mm.tl.landscape(mdata, model, **kind, key_added=key, **SMALL)
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "fit.h5mu")
        again = mudata.read_h5mu(tmp_path / "fit.h5mu")
    for key in kinds:
        slot, found = mdata.uns[key], again.uns[key]
        assert set(slot) == set(found)
        for name, value in slot.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, found[name])
        mm.pl.landscape(again, key=key, show=False)


def test_nothing_is_left_behind(runs):
    mdata, model, other, recorder = runs
    module = model.module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    for kind in (
        {},
        {"directions": "trajectory", "trajectory": recorder},
        {"directions": "hessian", "n_dimensions": 1},
        {"other": other},
    ):
        mm.tl.landscape(mdata, model, **kind, key_added="again", **SMALL)
    assert module.training and all(p.grad is None for p in module.parameters())
    module.eval()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == states


@pytest.mark.cuda
def test_on_a_gpu(runs):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mdata, model, other, recorder = runs
    for name, kind in {
        "random": {},
        "run": {"directions": "trajectory", "trajectory": recorder},
        "path": {"other": other},
    }.items():
        mm.tl.landscape(mdata, model, **kind, key_added=f"{name}_cpu", **SMALL)
        model.to_device("cuda:0")
        try:
            mm.tl.landscape(mdata, model, **kind, key_added=f"{name}_gpu", **SMALL)
        finally:
            model.to_device("cpu")
        np.testing.assert_allclose(
            mdata.uns[f"{name}_gpu"]["loss"], mdata.uns[f"{name}_cpu"]["loss"], rtol=1e-4
        )


def test_a_fit_of_other_data_is_refused(runs, fitted):
    mdata, model, *_ = runs
    with pytest.raises(ValueError, match="made with different data"):
        mm.tl.landscape(mdata, model, other=fitted[1])


def test_a_run_of_another_architecture_is_refused(runs):
    mdata, model, _, recorder = runs
    run = [{"w": torch.zeros(1)}, *recorder.snapshots]
    with pytest.raises(ValueError, match="different architectures"):
        mm.tl.landscape(mdata, model, directions="trajectory", trajectory=run)


def test_what_does_not_go_together(runs):
    mdata, model, other, recorder = runs
    with pytest.raises(ValueError, match="RecordParameters"):
        mm.tl.landscape(mdata, model, directions="trajectory")
    with pytest.raises(ValueError, match="go together"):
        mm.tl.landscape(mdata, model, trajectory=recorder)
    with pytest.raises(ValueError, match="no directions='hessian'"):
        mm.tl.landscape(mdata, model, other=other, directions="hessian")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"directions": "up"}, "random"),
        ({"n_points": 2}, "n_points"),
        ({"span": 0}, "span"),
        ({"span": np.inf}, "span"),
        ({"n_dimensions": 3}, "n_dimensions"),
        ({"n_repeats": 0}, "n_repeats"),
    ],
)
def test_refusals(fitted, kwargs, message):
    mdata, model = fitted
    with pytest.raises(ValueError, match=message):
        mm.tl.landscape(mdata, model, **kwargs)

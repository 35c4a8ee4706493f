from functools import partial

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from torch.autograd.functional import hessian

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.models import TriVI
from mmopt.models.frozen import frozen_loss

PARTS = ["rna", "atac", "prot", "kl"]
SETTINGS = {"k": 3, "n_probes": 40, "n_cells": 50, "n_noise": 2, "smallest": True, "progress_bar": False}


@pytest.fixture(scope="module")
def small(toy_source):
    """A model of some 600 parameters, of which the whole Hessian can be written down."""
    mdata = toy_source[toy_source.obs_names[:200]].copy()
    with override_pull_on_update():
        mdata = mudata.MuData({m: mdata[m][:, :8].copy() for m in ("rna", "atac", "prot")})
        for m in mdata.mod:
            mdata.mod[m] = mdata[m][np.asarray(mdata[m].X.sum(1)).ravel() > 0].copy()
        mdata.update()
    TriVI.setup_mudata(mdata)
    model = TriVI(mdata, n_latent=2, n_hidden=4, atac_rank=2)
    model.train(20, lr=1e-2, accelerator="cpu", progress_bar=False)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    rng = torch.get_rng_state()
    mm.tl.curvature(mdata, model, **SETTINGS)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert not any(p.grad is not None for p in model.module.parameters())
    return mdata, model, mdata.uns["curvature"]


@pytest.fixture(scope="module")
def dense(small):
    """Whole Hessian of the loss and of each of its parts."""
    mdata, model, _ = small
    parameters, loss = frozen_loss(model, mdata, n_cells=50)
    sizes = [p.numel() for p in parameters.values()]

    def of(part, vector):
        pieces = vector.split(sizes)
        return loss({n: v.view(p.shape) for v, (n, p) in zip(pieces, parameters.items(), strict=True)})[part]

    flat = torch.cat([p.reshape(-1) for p in parameters.values()])
    return {p: hessian(partial(of, p), flat, vectorize=True).double().numpy() for p in ["loss", *PARTS]}


def test_the_spectrum_is_that_of_the_dense_hessian(small, dense):
    slot = small[2]
    exact = np.linalg.eigvalsh(dense["loss"])
    assert slot["params"]["n_parameters"] == len(exact)
    np.testing.assert_allclose(slot["eigenvalues"]["eigenvalue"], exact[::-1][:3], rtol=1e-3)
    assert slot["smallest_eigenvalue"] == pytest.approx(exact[0], rel=1e-3)
    assert (slot["eigenvalues"]["residual"] < 1e-2 * exact[-1]).all()


def test_the_parts_sum_to_the_whole_and_are_those_of_the_dense_hessian(small, dense):
    slot = small[2]
    spectrum, trace = slot["eigenvalues"], slot["trace"].set_index("part")
    np.testing.assert_allclose(spectrum[PARTS].sum(axis=1), spectrum["eigenvalue"], rtol=1e-3)
    top = np.linalg.eigh(dense["loss"])[1][:, -1]
    for part in PARTS:
        assert spectrum[part][0] == pytest.approx(
            top @ dense[part] @ top, abs=5e-3 * spectrum["eigenvalue"][0]
        )
    assert trace["trace"][PARTS].sum() == pytest.approx(trace["trace"]["loss"], rel=1e-4)
    for part in ["loss", *PARTS]:
        exact = np.trace(dense[part])
        assert abs(trace["trace"][part] - exact) < 4 * trace["standard_error"][part] + 1e-3 * abs(exact)


def test_sharpness_is_the_rise_after_one_step(small):
    mdata, model, slot = small
    parameters, loss = frozen_loss(model, mdata, n_cells=50)
    start = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    at_fit = loss(start)["loss"]
    gradient = dict(zip(start, torch.autograd.grad(at_fit, list(start.values())), strict=True))
    length = torch.stack([g.norm() for g in gradient.values()]).norm()
    found = slot["sharpness"].set_index(["adaptive", "rho"])
    for rho in (0.01, 0.05, 0.1):
        moved = loss({name: p + rho * gradient[name] / length for name, p in parameters.items()})["loss"]
        assert found.loc[(0, rho), "loss"] == pytest.approx((moved - at_fit).item(), rel=1e-3, abs=1e-4)
    assert slot["loss"]["loss"] == at_fit.item()
    np.testing.assert_allclose(found[PARTS].sum(axis=1), found["loss"], atol=1e-3)
    assert (found["loss"] > 0).all()


def test_another_draw_of_the_noise_changes_the_sharpest_eigenvalue(small):
    noise = small[2]["noise"]
    assert noise["lambda_max"][0] == small[2]["eigenvalues"]["eigenvalue"][0]
    assert 0 < abs(noise["lambda_max"][1] / noise["lambda_max"][0] - 1) < 0.5


def test_the_work_is_what_was_asked_for(small):
    slot = small[2]
    mdata, model, _ = small
    mm.tl.curvature(
        mdata,
        model,
        **{**SETTINGS, "n_probes": 10, "n_noise": 1, "smallest": False},
        split=False,
        rho=np.float32(0.05),
        key_added="cheap",
    )
    cheap = mdata.uns["cheap"]
    assert list(cheap["eigenvalues"]) == ["eigenvalue", "residual"]
    assert list(cheap["trace"]["part"]) == ["loss"]
    assert "smallest_eigenvalue" not in cheap
    # loss at the fit; one graph each for eigenvalues and trace; two forwards for each sharpness
    assert (cheap["n_forwards"], cheap["n_gradients"]) == (1 + 2 + 4, 2)
    assert 10 + 3 < cheap["n_hvps"] < slot["n_hvps"] - 4 * (40 + 3)


def test_two_calls_agree_bit_for_bit(small):
    mdata, model, slot = small
    mm.tl.curvature(mdata, model, **SETTINGS, key_added="again")
    again = mdata.uns["again"]
    for table in ("eigenvalues", "noise", "trace", "sharpness"):
        pd.testing.assert_frame_equal(slot[table], again[table], check_exact=True)
    assert slot["smallest_eigenvalue"] == again["smallest_eigenvalue"]


def test_slots_survive_a_file(small, tmp_path):
    mdata, _, slot = small
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "fit.h5mu")
        again = mudata.read_h5mu(tmp_path / "fit.h5mu").uns["curvature"]
    assert set(again) == set(slot)
    for table in ("eigenvalues", "noise", "trace", "sharpness"):
        pd.testing.assert_frame_equal(again[table].reset_index(drop=True), slot[table], check_dtype=False)
    assert again["loss"] == slot["loss"]


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"n_probes": 1}, {"rho": 0}, {"rho": np.nan}, {"rho": ()}, {"n_cells": 0}, {"n_noise": 0}],
)
def test_refusals(small, wrong):
    mdata, model, _ = small
    with pytest.raises(ValueError, match="at least 1, n_probes at least 2 and every rho positive"):
        mm.tl.curvature(mdata, model, **wrong)


def test_more_eigenvalues_than_parameters(small):
    mdata, model, slot = small
    with pytest.raises(ValueError, match=f"k must be between 1 and {slot['params']['n_parameters'] - 1}"):
        mm.tl.curvature(mdata, model, k=10_000, progress_bar=False)


@pytest.mark.cuda
def test_on_a_gpu(small):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mdata, model, slot = small
    model.to_device("cuda:0")
    try:
        mm.tl.curvature(mdata, model, **SETTINGS, key_added="gpu")
    finally:
        model.to_device("cpu")
    np.testing.assert_allclose(
        mdata.uns["gpu"]["eigenvalues"]["eigenvalue"], slot["eigenvalues"]["eigenvalue"], rtol=1e-3
    )


def test_one_bar_for_all(small, monkeypatch, capsys):
    mdata, model, _ = small
    bars = []
    monkeypatch.setattr(
        "mmopt.tl._curvature.progress",
        lambda steps, *names: bars.append([names, [*steps]]) or iter(bars[-1][1]),
    )
    mm.tl.curvature(mdata.copy(), model, **SETTINGS | {"k": 1, "n_probes": 2, "progress_bar": True})
    assert len(bars) == 1
    assert bars[0][0] == ("curvature", 8, True)  # the top for two draws of noise, five traces, the smallest
    assert not capsys.readouterr().err


def test_the_model_in_the_place_of_the_data(small):
    mdata, model, _ = small
    for call in (mm.tl.curvature, mm.tl.landscape):
        with pytest.raises(TypeError, match=r"in this order: `\(mdata, model\)`, not TriVI and MuData"):
            call(model, mdata)

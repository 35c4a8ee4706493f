"""What all plots of slots have in common."""

import subprocess
import sys
from itertools import combinations, product

import matplotlib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update

matplotlib.use("agg")
PLOTS = {
    "loss_curves": {},
    "modality_weights": {"groupby": "cell_type"},
    "optimizer_comparison": {},
}
each_plot = pytest.mark.parametrize("name", PLOTS)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def mdata():
    """A mosaic with every slot that these plots read, as large as they come."""
    rng = np.random.default_rng(0)
    n_obs, n_epochs = 3000, 40
    cells = pd.DataFrame(index=[f"cell{i}" for i in range(n_obs)])
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(np.ones((n_obs, 1), np.float32), obs=cells)})
    types = ["CD4+ T activated", "Plasmacytoid dendritic", "NK", "B", "Monocyte", "Early lymphoid"]
    mdata.obs["cell_type"] = rng.choice(types, n_obs)
    weights = rng.gamma(5, size=(n_obs, 3)) * (rng.random((n_obs, 3)) < 0.7)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    for modality, column in zip(("rna", "atac", "prot"), weights.T, strict=True):
        mdata.obs[f"mmopt_weight_{modality}"] = column

    scale = {"elbo": 12345, "nll_rna": 11000, "nll_atac": 1200, "nll_prot": 145, "kl_local": 8}
    falling = 1 + 0.2 * np.exp(-np.arange(n_epochs) / 5)
    history = {f"{c}_{s}": v * falling for s in ("train", "validation") for c, v in scale.items()}
    steps = {"step": np.arange(20000), "loss": 1.0, "rate": np.geomspace(1e-5, 1e-2, 20000)}
    mdata.uns["mmopt"] = {
        "params": {"optimizer": "asgdamsgrad", "optimizer_alpha_min": 1e-4, "optimizer_alpha_max": 1e-2},
        "history": pd.DataFrame({"epoch": np.arange(n_epochs)} | history),
        "steps": pd.DataFrame(steps),
    }

    names = ["adam", "amsgrad", "padam", "sgd", "asgdadam", "asgdamsgrad"]
    curves = [
        pd.DataFrame({"epoch": np.arange(n_epochs), "elbo_validation": 900 * falling + seed + 3 * i}).assign(
            optimizer=name, lr=lr, seed=seed
        )
        for seed, lr, (i, name) in product(range(3), (1e-4, 1e-3, 1e-2), enumerate(names))
    ]
    runs = pd.DataFrame([curve.iloc[-1] for curve in curves]).rename(columns={"elbo_validation": "elbo"})
    summary = {"optimizer": names, "lr": 1e-3, "n_seeds": 3, "elbo": 900.0}
    summary |= {
        "difference": [0, -12.34, 0.01, 123.4, 3, 0],
        "difference_se": [0, 0.617, 1, 61.7, 0.1, 1],
        "verdict": ["reference", "better", "tie", "tie", "worse", "tie"],
    }
    mdata.uns["optimizer_comparison"] = {
        "runs": runs.assign(status="ok").reset_index(drop=True),
        "curves": pd.concat(curves, ignore_index=True),
        "summary": pd.DataFrame(summary),
    }
    return mdata


@each_plot
def test_what_comes_back(mdata, name, monkeypatch):
    plot, kwargs = getattr(mm.pl, name), PLOTS[name]
    axes = plot(mdata, **kwargs, show=False)
    assert axes.ndim == 1
    assert all(isinstance(ax, Axes) for ax in axes)
    assert isinstance(plot(mdata, **kwargs, return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert plot(mdata, **kwargs, show=True) is None
    assert shown == [1]


@each_plot
def test_nothing_is_left_behind(mdata, name):
    slots = {key: repr(value) for key, value in mdata.uns.items()}
    columns = mdata.obs.copy()
    before = matplotlib.rcParams.copy()
    axes = getattr(mm.pl, name)(mdata, **PLOTS[name], show=False)
    assert matplotlib.rcParams == before
    plt.close(axes[0].figure)
    assert not plt.get_fignums()
    assert {key: repr(value) for key, value in mdata.uns.items()} == slots
    pd.testing.assert_frame_equal(mdata.obs, columns)


@each_plot
@pytest.mark.parametrize("width", [3.5, 7])
def test_no_text_overlaps_or_leaves_the_figure(mdata, name, width, monkeypatch):
    fig = getattr(mm.pl, name)(mdata, **PLOTS[name], width=width, return_fig=True)
    fig.canvas.draw()
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (drawn.append(self), draw(self, renderer)))
    fig.canvas.draw()
    boxes = {text: text.get_window_extent() for text in drawn if text.get_visible() and text.get_text()}
    assert len(boxes) > 20
    for text, box in boxes.items():
        assert text.get_fontsize() >= 6
        assert fig.bbox.x0 <= box.x0 < box.x1 <= fig.bbox.x1, text
        assert fig.bbox.y0 <= box.y0 < box.y1 <= fig.bbox.y1, text
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)


def test_a_file_read_again_is_enough_and_torch_is_not_imported(mdata, tmp_path):
    path = tmp_path / "fit.h5mu"
    with override_pull_on_update():
        mdata.write_h5mu(path)
    script = f"""
import sys, warnings
import matplotlib
matplotlib.use("agg")
import mudata
import mmopt as mm
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    mdata = mudata.read_h5mu({str(path)!r})
for name, kwargs in {PLOTS!r}.items():
    fig = getattr(mm.pl, name)(mdata, **kwargs, return_fig=True)
    fig.savefig({str(tmp_path)!r} + f"/{{name}}.png")
print(sorted({{"torch", "scvi", "lightning", "mmopt.models", "mmopt.tl"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert {p.name for p in tmp_path.glob("*.png")} == {f"{name}.png" for name in PLOTS}

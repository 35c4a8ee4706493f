"""Each plot looks as it did: one picture of each, of tables written out here.

``python tests/pl/test_pictures.py`` makes the pictures anew after a change that was wanted; look at them before a commit.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.testing.compare import compare_images
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update

matplotlib.use("agg")
BASELINES = Path(__file__).parent / "pictures"
DPI, TOLERANCE = 60, 6.0  # grey levels, root mean square: other versions of FreeType move edges of letters
PLOTS = {
    "landscape": {},
    "loss_curves": {},
    "modality_weights": {"groupby": "cell_type"},
    "optimizer_comparison": {},
    "perturbation": {},
    "screen": {},
}


def tables() -> MuData:
    """Slots as the tools write them, from formulas."""
    cells = pd.DataFrame(index=[f"cell{i}" for i in range(60)])
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(np.ones((60, 1), np.float32), obs=cells)})
    turn = np.arange(60)
    mdata.obs["cell_type"] = np.array(["B", "NK", "T"])[turn % 3]
    shares = np.stack([3 + turn % 3, 2 + turn % 2, np.where(turn < 40, 2, 0)], 1).astype(float)
    for name, share in zip(("rna", "atac", "prot"), (shares / shares.sum(1, keepdims=True)).T, strict=True):
        mdata.obs[f"mmopt_weight_{name}"] = share

    epoch = np.arange(30)
    falling = 1 + 0.2 * np.exp(-epoch / 5)
    scale = {"elbo": 900, "nll_rna": 500, "nll_atac": 300, "nll_prot": 90, "kl_local": 10}
    history = {
        f"{c}_{s}": v * falling + d for s, d in (("train", 0), ("validation", 4)) for c, v in scale.items()
    }
    steps = pd.DataFrame({"step": np.arange(300), "loss": 1.0, "rate": np.geomspace(1e-4, 2e-2, 300)})
    bounds = {"optimizer": "asgdadam", "optimizer_alpha_min": 1e-4, "optimizer_alpha_max": 2e-2}
    mdata.uns["mmopt"] = {
        "params": bounds,
        "history": pd.DataFrame({"epoch": epoch} | history),
        "steps": steps,
    }

    runs = [(o, lr, s) for o in ("adam", "asgdadam") for lr in (1e-4, 1e-3, 1e-2) for s in (0, 1)]
    level = {("adam", 1e-4): 40, ("adam", 1e-3): 5, ("adam", 1e-2): 9}
    curves = [
        pd.DataFrame({"epoch": epoch, "elbo_validation": 700 * falling + level.get((o, lr), 3) + s}).assign(
            optimizer=o, lr=lr, seed=s
        )
        for o, lr, s in runs
    ]
    ends = pd.DataFrame([c.iloc[-1] for c in curves]).rename(columns={"elbo_validation": "elbo"})
    summary = {"optimizer": ["adam", "asgdadam"], "lr": 1e-3, "n_seeds": 2, "elbo": [705.0, 703.0]}
    summary |= {
        "difference": [0, -2.0],
        "difference_se": [0, 0.5],
        "verdict": ["reference", "better"],
    }
    mdata.uns["optimizer_comparison"] = {
        "runs": ends.assign(status="ok").reset_index(drop=True),
        "curves": pd.concat(curves, ignore_index=True),
        "summary": pd.DataFrame(summary),
    }

    x = np.linspace(-1, 1, 9)
    mdata.uns["landscape"] = {
        "directions": "random",
        "x": x,
        "y": x,
        "loss": 500 + 80 * (x**2)[None] + 30 * (x**2)[:, None] + 20 * np.outer(x, x),
    }

    features = [f"GENE{i}" for i in range(8)]
    rows = []
    for k, name in enumerate(("GATA1_knockout", "SPI1_knockout", "KLF1_knockout")):
        delta = np.sin(np.arange(8) + k)
        rows.append(
            pd.DataFrame(
                {"perturbation": name, "modality": "rna", "feature": features, "group": "all", "delta": delta}
            ).assign(q05=delta - 0.4, q95=delta + 0.4, sd=0.25, null95=0.5, direct=np.arange(8) == k)
        )
    ranking = pd.DataFrame({"group": "all", "perturbation": [r["perturbation"][0] for r in rows]})
    mdata.uns["screen"] = {"effects": pd.concat(rows, ignore_index=True), "ranking": ranking}
    groups = pd.DataFrame({"group": ["all"], "n_cells": [60]})
    mdata.uns["perturb"] = {
        "GATA1_knockout": {"effects": rows[0].drop(columns="perturbation"), "groups": groups}
    }
    return mdata


@pytest.fixture(scope="module")
def mdata():
    return tables()


def draw(name: str, mdata: MuData, path: Path) -> None:
    """Draw under matplotlib's own settings, whatever other packages made of them when they were imported."""
    with plt.rc_context():
        matplotlib.rcdefaults()
        fig = getattr(mm.pl, name)(mdata, **PLOTS[name], return_fig=True)
        fig.savefig(path, dpi=DPI)
        plt.close(fig)


@pytest.mark.skipif(
    tuple(int(n) for n in matplotlib.__version__.split(".")[:2]) < (3, 11),
    reason="matplotlib before 3.11 draws letters with another FreeType",
)
@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_looks_as_it_did(name, mdata, tmp_path):
    draw(name, mdata, tmp_path / f"{name}.png")
    assert compare_images(BASELINES / f"{name}.png", tmp_path / f"{name}.png", TOLERANCE) is None


def test_a_changed_plot_would_be_seen(mdata, tmp_path):
    other = mdata.copy()
    other.uns["landscape"]["loss"] = other.uns["landscape"]["loss"][::-1]
    draw("landscape", other, tmp_path / "changed.png")
    assert compare_images(BASELINES / "landscape.png", tmp_path / "changed.png", TOLERANCE) is not None


if __name__ == "__main__":
    data = tables()
    BASELINES.mkdir(exist_ok=True)
    for plot in sys.argv[1:] or PLOTS:
        draw(plot, data, BASELINES / f"{plot}.png")

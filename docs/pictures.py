"""Make the pictures of ``landscape.md`` anew: ``python docs/pictures.py``. Takes a few minutes; everything is seeded."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import mudata

import mmopt as mm
from mmopt.models.trajectory import RecordParameters

FOLDER = Path(__file__).parent / "_static"
PARTS = ["loss", "rna", "atac", "prot", "kl"]


def compute() -> mudata.MuData:
    """Every kind of landscape of a fit of the toy."""
    mdata, recorder = mm.datasets.toy(), RecordParameters()
    train = {"batch_key": "donor", "accelerator": "cpu"}
    model = mm.tl.integrate(mdata, callbacks=[recorder], **train)
    few = {"n_cells": 128}
    mm.tl.landscape(mdata, model, n_points=25, key_added="plane", **few)
    run = {"directions": "trajectory", "trajectory": recorder}
    mm.tl.landscape(mdata, model, **run, key_added="run", **few)
    mm.tl.landscape(mdata, model, n_dimensions=1, key_added="lines", **few)
    mm.tl.landscape(mdata, model, directions="hessian", key_added="sharp", **few)
    other = mm.tl.integrate(mdata, optimizer="adam", key_added="X_adam", **train)
    mm.tl.landscape(mdata, model, other=other, key_added="path", **few)
    return mdata


def draw(mdata: mudata.MuData) -> None:
    """Write the pictures at the width of a journal column, the surface at that of a page."""
    mpl.use("agg")
    for name, kind in {
        "plane": {"key": "plane"},
        "lines": {"key": "lines", "modality": PARTS},
        "run": {"key": "run"},
        "sharp": {"key": "sharp"},
        "path": {"key": "path"},
    }.items():
        mm.pl.landscape(mdata, **kind, return_fig=True).savefig(FOLDER / f"landscape_{name}.png", dpi=200)
    fig = plt.figure(figsize=(7, 6))
    ax = fig.add_axes((0, 0.03, 0.97, 0.9), projection="3d")
    mm.pl.landscape(mdata, key="plane", kind="surface", ax=ax)
    fig.savefig(FOLDER / "landscape_surface.png", dpi=150)


if __name__ == "__main__":
    draw(compute())

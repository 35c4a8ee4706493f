"""Make the pictures of the pages anew: ``python docs/pictures.py``. Takes a few minutes; everything is seeded."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import mudata
import numpy as np
import scanpy as sc
from PIL import Image

import mmopt as mm
from mmopt.models import RecordParameters
from mmopt.pl._figure import COLUMN, PALETTE, style

FOLDER = Path(__file__).parent / "_static"
PARTS = ["loss", "rna", "atac", "prot", "kl"]
TRAIN = {"batch_key": "donor", "n_networks": 1, "accelerator": "cpu", "progress_bar": False}


def landscapes() -> mudata.MuData:
    """Every kind of landscape of a fit of the toy, which is the picture of the fit too."""
    mdata, recorder = mm.datasets.toy(), RecordParameters()
    model = mm.tl.integrate(mdata, callbacks=[recorder], **TRAIN)
    few = {"n_cells": 128, "progress_bar": False}
    mm.tl.landscape(mdata, model, n_points=25, key_added="plane", **few)
    run = {"directions": "trajectory", "trajectory": recorder}
    mm.tl.landscape(mdata, model, **run, key_added="run", **few)
    mm.tl.landscape(mdata, model, n_dimensions=1, key_added="lines", **few)
    mm.tl.landscape(mdata, model, directions="hessian", key_added="sharp", **few)
    other = mm.tl.integrate(mdata, optimizer="adam", key_added="X_adam", **TRAIN)
    mm.tl.landscape(mdata, model, other=other, key_added="path", **few)
    perturbations(mdata, model)
    return mdata


def perturbations(mdata: mudata.MuData, model: "mm.models.TriVI") -> None:
    """A knock-out, a screen and a reprogramming, on nine tenths of the true network."""
    edges = mdata.uns["truth"]["edges"].rename(columns={"sign": "weight"})
    kept = np.random.default_rng(0).random(len(edges)) < 0.9
    mm.tl.regulons(mdata, prior=edges.loc[kept, ["source", "target", "weight"]])
    mm.tl.perturb(mdata, "GATA1", model=model, groupby="cell_type")
    mm.tl.screen(mdata, progress_bar=False)
    mm.tl.reprogram(mdata, "monocyte", "erythrocyte", groupby="cell_type", max_factors=3)


def twins(mdata: mudata.MuData) -> None:
    """The time course as a twin, with GATA1 off for four days."""
    few = {"progress_bar": False}
    mm.tl.twin(mdata, time_key="time", units="days", n_steps=600, **few)
    schedule = [("GATA1", "knockout", 2, 6)]
    mm.tl.simulate(mdata, start={"time": 0}, interventions=schedule, terminal_key="cell_type", **few)
    keep(mm.pl.fates(mdata, return_fig=True), "fates")
    features = ["GATA1", "KLF1", "GFI1", "prot:GYPA_ADT"]
    keep(mm.pl.dynamics(mdata, features, return_fig=True), "dynamics")
    keep(mm.pl.trajectories(mdata, return_fig=True), "trajectories")
    keep(mm.pl.quasi_potential(mdata, return_fig=True), "quasi_potential", bbox_inches="tight")


def comparison() -> mudata.MuData:
    """Three optimizers on a small simulation."""
    mdata = mm.datasets.simulate_trimodal(
        400, n_genes=120, n_peaks=200, n_proteins=10, n_donors=2, random_state=3
    )
    grid = {"lr_grid": (1e-4, 1e-3, 1e-2), "seeds": (0, 1, 2), "max_epochs": 60}
    mm.tl.compare_optimizers(
        mdata, ("adam", "sgd", "asgdadam"), batch_key="donor", progress_bar=False, **grid
    )
    return mdata


def embedding(mdata: mudata.MuData) -> plt.Figure:
    """The fit as a UMAP by cell type."""
    sc.pp.neighbors(mdata, use_rep="X_mmopt")
    sc.tl.umap(mdata, random_state=0)
    with style():
        fig, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
        names = mdata.obs["cell_type"].astype("category")
        for color, name in zip(PALETTE, names.cat.categories, strict=True):
            ax.scatter(*mdata.obsm["X_umap"][names == name].T, s=3, color=color, label=name, linewidths=0)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2.5, handletextpad=0.1)
        ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2", title="Cells by all three modalities")
    return fig


def imputation() -> plt.Figure:
    """A protein of cells from which it was hidden, predicted from RNA."""
    mdata = mm.datasets.toy()
    measured = mdata["prot"].obs_names
    hidden = measured[np.random.default_rng(0).random(len(measured)) < 0.15]
    truth = mdata["prot"][hidden].X.toarray()
    kept = mdata["prot"][measured.difference(hidden, sort=False)].copy()
    visible = mudata.MuData({"rna": mdata["rna"], "atac": mdata["atac"], "prot": kept})
    visible.obs = mdata.obs.loc[visible.obs_names].copy()
    model = mm.tl.integrate(visible, **TRAIN)
    cells = visible.obs_names.get_indexer(hidden)
    found = model.get_predictive_interval("prot", given="rna", level=0.9, indices=cells)
    j = int(np.log1p(truth).std(0).argmax())
    order = np.argsort(found.mean[:, j])
    mean, low, high = (np.log1p(v[order, j]) for v in found)
    with style():
        fig, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
        x = np.arange(len(order))
        ax.fill_between(x, low, high, color=PALETTE[5], alpha=0.35, linewidth=0, label="90 % interval")
        ax.plot(x, mean, color=PALETTE[0], label="expected from RNA")
        ax.scatter(
            x, np.log1p(truth[order, j]), s=4, color=PALETTE[1], linewidths=0, label="measured, hidden"
        )
        ax.set(xlabel="Hidden cells, by expected count", ylabel=f"log1p counts of {kept.var_names[j]}")
        ax.legend()
    return fig


def keep(fig: plt.Figure, name: str, dpi: int = 200, **kwargs) -> None:
    """Save in 200 colours, which is half the size and no difference to the eye."""
    fig.savefig(FOLDER / f"{name}.png", dpi=dpi, **kwargs)
    image = Image.open(FOLDER / f"{name}.png").convert("RGB")
    image.quantize(200, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    mpl.use("agg")
    mdata = landscapes()
    for name, kind in {
        "plane": {"key": "plane"},
        "lines": {"key": "lines", "modality": PARTS},
        "run": {"key": "run"},
        "sharp": {"key": "sharp"},
        "path": {"key": "path"},
    }.items():
        keep(mm.pl.landscape(mdata, **kind, return_fig=True), f"landscape_{name}")
    fig = plt.figure(figsize=(7, 6))
    ax = fig.add_axes((0, 0.03, 0.97, 0.9), projection="3d")
    mm.pl.landscape(mdata, key="plane", kind="surface", ax=ax)
    keep(fig, "landscape_surface", 150)
    keep(mm.pl.loss_curves(mdata, return_fig=True), "loss_curves")
    keep(mm.pl.modality_weights(mdata, "cell_type", return_fig=True), "modality_weights")
    keep(mm.pl.perturbation(mdata, "GATA1_knockout", group="MEP", return_fig=True), "perturbation")
    keep(mm.pl.screen(mdata, return_fig=True), "screen")
    twins(mdata)
    keep(mm.pl.optimizer_comparison(comparison(), return_fig=True), "optimizer_comparison")
    keep(mm.pl.reprogram(mdata, return_fig=True), "reprogram")
    keep(embedding(mdata), "embedding")
    keep(mm.pl.perturbation_embedding(mdata, "GATA1_knockout", return_fig=True), "perturbation_embedding")
    keep(imputation(), "imputation")


if __name__ == "__main__":
    main()

"""The report of the main job, in Markdown."""

import argparse
from typing import TYPE_CHECKING

from mmopt import _keys

if TYPE_CHECKING:
    import pandas as pd
    from mudata import MuData

REPORT = "report.md"
OUTPUTS = {
    "metrics.csv": "one row per optimizer: held-out bound, label transfer, imputation, and the baselines beside them",
    "optimizer_comparison.csv": "one row per run",
    "loss_curves.png": "training and held-out loss per modality, and the learning rate",
    "landscape.png": "the loss of {n_cells} cells, {n_held_out} of them held out, on a random plane through the fit",
    "embedding.png": "UMAP of the joint embedding",
    "final_model.pt": "the model; read it with `mm.models.TriVI.load(path, mdata)`. It is in the safetensors format, "
    "not a pickle, so `torch.load` does not read it",
    "embedding.h5mu": "the data with the embedding and everything the run has found out",
}


def report(
    a: argparse.Namespace,
    mdata: "MuData",
    batch: str | None,
    label: str | None,
    remarks: list[str],
    n_compared: int,
    seconds: float,
) -> str:
    """Say what was done, on what, what came out and where it is."""
    fit, comparison = mdata.uns[_keys.fit_slot()], mdata.uns[_keys.OPTIMIZER_COMPARISON]
    params, history, summary = fit["params"], fit["history"], comparison["summary"]
    n_networks = params["n_networks"]
    last = history.groupby("network").last().mean() if n_networks > 1 else history.iloc[-1]
    features = [f"{n} {m} features ({params['modalities'][m]})" for m, n in params["n_features"].items()]
    having = [f"{k} {n}" for k, n in combinations(mdata).value_counts().items()]
    about = [
        f"Data: {a.file or 'the simulated toy data'}, {mdata.n_obs} cells. Modelled: {', '.join(features)}.",
        f"Cells by the modalities they have: {', '.join(having)}. Batch corrected for: {_batch(mdata, batch, remarks)}. "
        f"Labels, used for scoring only: {label or 'none'}.",
        f"Model: TriVI, {params['n_latent']} latent dimensions in all, {n_networks} network{'s' * (n_networks > 1)}, "
        f"{params['n_epochs']} epochs{' each' * (n_networks > 1)} in batches of {params['batch_size']} cells, "
        f"{params['optimizer']} from lr {params['lr']}, seed {params['random_state']}, "
        f"{params['n_train']} cells trained on, {params['n_validation']} held out.",
    ]
    if "elbo_validation" in last:
        mean = ", mean of the networks" * (n_networks > 1)
        about.append(f"Held-out negative evidence lower bound: {last['elbo_validation']:.2f} per cell{mean}.")
    compared = "all cells" if n_compared == mdata.n_obs else f"a random {n_compared} of the cells"
    first = ("optimizer", "lr", "elbo", "elbo_se", "difference", "difference_se", "verdict", "accuracy", "f1")
    starts = ("pearson_", "baseline_accuracy", "baseline_pearson_")
    shown = [c for c in first if c in summary] + [c for s in starts for c in summary if c.startswith(s)]
    optimizers = [
        f"Compared on one network, on {compared}, a fifth of them held out; lower `elbo` is better, `difference` is to "
        f"{comparison['params']['reference']}. Columns `baseline_…` are PCA, neighbours and ridge regression on the same "
        "cells: what a figure has to beat.",
        _markdown(summary[shown]),
    ]
    if len(a.seeds or [a.seed]) == 1:
        optimizers.append(
            "One seed has no standard error, so no optimizer is called better: run with `--seeds 0 1 2 3 4`."
        )
    numbers = mdata.uns[_keys.LANDSCAPE]["params"]
    files = "\n".join(f"- `{name}`: {text.format(**numbers)}." for name, text in OUTPUTS.items())
    versions = ", ".join(f"{k} {v}" for k, v in fit["versions"].items())
    sections = {
        "# mmopt report": about,
        "## Optimizers": optimizers,
        "## Files": [files],
        "## Versions": [f"{versions}. {seconds:.0f} s."],
    }
    return "\n\n".join(text for title, texts in sections.items() for text in (title, *texts)) + "\n"


def _batch(mdata: "MuData", batch: str | None, remarks: list[str]) -> str:
    """Say what is corrected for, or why nothing is."""
    from mmopt._batches import batch_codes

    if batch and len(batch_codes(mdata, batch)[1]) > 1:
        return "; ".join([batch, *remarks])
    return "; ".join(["none", *([f"all cells are of one {batch!r}"] if batch else remarks)])


def combinations(mdata: "MuData") -> "pd.Series":
    """Name the modalities each cell has, e.g. ``rna+prot``."""
    import pandas as pd

    from mmopt._checks import presence

    used = mdata.uns[_keys.fit_slot()]["params"]["modalities"]
    rows = presence(mdata, used)
    return pd.Series(
        ["+".join(m for m, has in zip(used, row, strict=True) if has) for row in rows], mdata.obs_names
    )


def _markdown(table: "pd.DataFrame") -> str:
    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [
        list(table),
        ["---"] * table.shape[1],
        *([cell(v) for v in row] for row in table.itertuples(index=False)),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)

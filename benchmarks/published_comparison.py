"""The published comparison of optimizers, and beside it what a fair protocol gives on the same runs.

    python benchmarks/published_comparison.py [--data FOLDER] [--seeds 0 1 2] [--epochs 50] [--lr-grid 1e-4 1e-3 1e-2]

Adam, AMSGrad, Padam, SGD with momentum, ASGDAdam and ASGDAMSGrad train TriVI under the published parameter table (rate
1e-3, betas 0.9 and 0.999, eps 1e-8, switch interval 10, bounds 1e-4 and 1e-2, batches of 128, 50 epochs), and the two
ASGD optimizers also with the rule as it was published, which ignores the rate. The published table has one rate for
all; the fair protocol adds a grid of rates, pairs the seeds, gives standard errors and sets cheap baselines beside the
scores. Data: the simulated toy, and the real mosaic where its folder is given (or MMOPT_DATA names it).

Writes metrics.csv (the published view, a row per optimizer), fair_protocol.csv, runs.csv and curves.csv to --out.
"""

import argparse
import datetime
import os
import time
import warnings
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from machine import machine

import mmopt as mm
from mmopt._compat import override_pull_on_update, versions
from mmopt._files import atomic_path
from mmopt.tl._optimizer_summary import summarise, with_target

OPTIMIZERS = ("adam", "amsgrad", "padam", "sgd", "asgdadam", "asgdamsgrad")
ASGD = ("asgdadam", "asgdamsgrad")
PUBLISHED_RATE = 1e-3
BETAS = {"betas": (0.9, 0.999)}
BAND = {"switch_interval": 10, "alpha_min": 1e-4, "alpha_max": 1e-2}
BATCH_SIZE = 128
MOSAIC = "trimodal_mosaic_tea_bmmc.h5mu"
LABELS = ("accuracy", "precision", "recall", "f1")
IMPUTATION = ("r2", "rmse", "mse", "mae")
FAIR = (
    *("optimizer", "lr", "at_edge", "elbo", "elbo_se", "difference", "difference_se", "verdict"),
    *("n_reached", "steps_to_target", "regret", "worst_regret", "accuracy", "baseline_accuracy"),
)


def data_sets(folder: Path | None, n_cells: int | None) -> dict[str, tuple[mudata.MuData, dict[str, str]]]:
    """Data, and the columns that hold batch and label, by name."""
    found = {"toy": (mm.datasets.toy(), {"batch_key": "donor", "label_key": "cell_type"})}
    if folder is not None:
        with override_pull_on_update():
            mosaic = mudata.read_h5mu(folder / MOSAIC)
        # the fine types are named differently by the two assays
        found["mosaic"] = mosaic, {"batch_key": "batch", "label_key": "l1_cell_type"}
    for name, (mdata, columns) in found.items():
        chosen = np.sort(np.random.default_rng(0).permutation(mdata.n_obs)[:n_cells])
        with override_pull_on_update():
            found[name] = mdata[mdata.obs_names[chosen]].copy(), columns
    return found


def compare(
    mdata: mudata.MuData, columns: dict[str, str], seed: int, a: argparse.Namespace
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves of all optimizers for one seed, the published rule under names of its own."""
    common = {"seeds": [seed], "max_epochs": a.epochs, "batch_size": BATCH_SIZE, "eps": 1e-8, **columns}
    settings = {name: BETAS | BAND if name in ASGD else {} if name == "sgd" else BETAS for name in OPTIMIZERS}
    rates = sorted({PUBLISHED_RATE, *a.lr_grid})
    tables = []
    for names, grid, rule in (
        (OPTIMIZERS, rates, {}),
        (ASGD, [PUBLISHED_RATE], {"switch_rule": "published"}),
    ):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*published", category=UserWarning)
            mm.tl.compare_optimizers(
                mdata,
                names,
                lr_grid=grid,
                optimizer_kwargs={name: settings[name] | rule for name in names},
                accelerator="cpu",
                progress_bar=not a.quiet,
                **common,
            )
        slot = mdata.uns["optimizer_comparison"]
        label = " (published rule)" if rule else ""
        tables.append([slot[k].assign(optimizer=slot[k]["optimizer"] + label) for k in ("runs", "curves")])
    runs, curves = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    return runs, curves


def all_seeds(parts: list[tuple[pd.DataFrame, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Tables of all seeds that are done."""
    runs, curves = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    # the tuned rate, and with it the target, belongs to all seeds and all optimizers
    runs = with_target(runs.drop(columns=["steps_to_target", "seconds_to_target"]), curves, "adam")
    fair = summarise(runs, "adam").astype({"at_edge": object})
    # the published rule ignores the rate: it has none to tune, and its regret is that of one trial
    fair.loc[fair["optimizer"].str.contains("published"), ["lr", "at_edge", "regret", "worst_regret"]] = (
        np.nan
    )
    return {"metrics": published_view(runs), "fair_protocol": fair, "runs": runs, "curves": curves}


def published_view(runs: pd.DataFrame) -> pd.DataFrame:
    """Means and standard deviations over the seeds at the one published rate; imputation averaged over modalities."""
    at_rate = runs[runs["lr"] == PUBLISHED_RATE]

    def scores(prefix: str) -> pd.DataFrame:
        table = at_rate[[prefix + name for name in LABELS]].set_axis(LABELS, axis=1)
        for name in IMPUTATION:
            table[name] = at_rate.filter(regex=f"^{prefix}{name}_(rna|atac|prot)$").mean(axis=1)
        return table

    cheap = scores("baseline_")[at_rate["optimizer"] == "adam"].assign(
        optimizer="baseline: PCA, neighbours, ridge"
    )
    table = pd.concat([scores("").assign(optimizer=at_rate["optimizer"]), cheap])
    grouped = table.groupby("optimizer", sort=False)
    means, sds = grouped.mean(), grouped.std().add_suffix("_sd")
    return means.join(sds)[[c for name in means for c in (name, f"{name}_sd")]].reset_index()


def markdown(table: pd.DataFrame) -> str:
    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [
        list(table),
        ["---"] * table.shape[1],
        *([cell(v) for v in r] for r in table.itertuples(index=False)),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, default=os.environ.get("MMOPT_DATA"), help=f"folder with {MOSAIC}")
    p.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--epochs", type=int, default=50)
    p.add_argument("--lr-grid", type=float, nargs="+", default=[1e-4, 1e-3, 1e-2])
    p.add_argument("--cells", type=int, help="a random part of each data set; all cells if not given")
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    done: dict[str, list[pd.DataFrame]] = {}
    for name, (mdata, columns) in data_sets(a.data and Path(a.data), a.cells).items():
        parts = []
        for seed in a.seeds:
            parts.append(compare(mdata, columns, seed, a))
            tables = all_seeds(parts)
            for kind, table in tables.items():  # after each seed: what is done is kept if the rest fails
                with atomic_path(a.out / f"{kind}.csv") as file:
                    own = table.assign(data=name)[["data", *table]]
                    pd.concat([*done.get(kind, []), own]).to_csv(file, index=False, float_format="%.6g")
        for kind, table in tables.items():
            done.setdefault(kind, []).append(table.assign(data=name)[["data", *table]])
        n_steps = int(tables["runs"]["n_steps"].max())
        print(f"\n## {name}, {mdata.n_obs} cells, {n_steps} steps\n\nUnder the published table:\n")
        print(markdown(tables["metrics"][["optimizer", *LABELS, *IMPUTATION]]))
        print("\nUnder the fair protocol (held-out negative bound per cell; each at its own best rate):\n")
        print(
            markdown(tables["fair_protocol"][[c for c in FAIR if c in tables["fair_protocol"]]]), flush=True
        )
    print(
        f"\n{datetime.date.today()}; {os.cpu_count()} × {machine()}; {time.process_time() - start:.0f} s of CPU time."
    )
    print(", ".join(f"{package} {version}" for package, version in versions().items()))


if __name__ == "__main__":
    main()

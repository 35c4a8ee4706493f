"""The main job as one command: ``python -m mmopt [FILE.h5mu] --out results``."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmopt import __version__

if TYPE_CHECKING:
    import pandas as pd
    from mudata import MuData

# looked for, in this order, where the user names no column
LABELS = ("cell_type", "celltype", "l2_cell_type", "cell_type2", "perturbation")
BATCHES = ("batch", "donor", "sample", "bio_rep")
EXACT_NEIGHBOURS = 50_000
DEFAULT_OPTIMIZERS = "adam,amsgrad,padam,sgd,asgdadam,asgdamsgrad"
OUTPUTS = {
    "metrics.csv": "one row per optimizer: held-out bound, label transfer, imputation, and the baselines beside them",
    "optimizer_comparison.csv": "one row per run",
    "loss_curves.png": "training and held-out loss per modality, and the learning rate",
    "landscape.png": "the held-out loss on a random plane through the fit",
    "embedding.png": "UMAP of the joint embedding",
    "final_model.pt": "the model; read it with `mm.models.TriVI.load(path, mdata)`. It is in the safetensors format, "
    "not a pickle, so `torch.load` does not read it",
    "embedding.h5mu": "the data with the embedding and everything the run has found out",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser, with the defaults of the method's published parameter table."""
    p = argparse.ArgumentParser(
        prog="mmopt",
        description="Integrate RNA, ATAC and surface protein, compare optimizers, and show the loss landscape.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("file", nargs="?", help="MuData with raw counts (.h5mu); simulated toy data if not given")
    p.add_argument("--out", default="results", help="folder for the results")
    p.add_argument("--version", action="version", version=f"mmopt {__version__}")
    data = p.add_argument_group("data")
    for m, usual in (("rna", "rna, gex"), ("atac", "atac, peaks"), ("prot", "prot, protein, adt, cite")):
        data.add_argument(
            f"--{m}", help=f"name of this modality; found by its usual names ({usual}) if not given"
        )
    data.add_argument("--layer", help='layer with the raw counts; layers["counts"] or X if not given')
    data.add_argument(
        "--batch-key", default="auto", help=f"'none', or a column; auto: the first of {', '.join(BATCHES)}"
    )
    data.add_argument("--label-key", default="auto", help="as --batch-key; used to score, never to train")
    data.add_argument("--n-top-genes", type=int, default=2000, help="highly variable genes to model")
    data.add_argument("--n-top-peaks", type=int, default=20_000, help="variable peaks to model")
    fit = p.add_argument_group("fit")
    fit.add_argument("--optimizer", default="asgdadam")
    fit.add_argument("--lr", type=float, default=1e-3)
    fit.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.999), metavar=("BETA1", "BETA2"))
    fit.add_argument("--eps", type=float, default=1e-8)
    fit.add_argument("--switch-rule", default="agreement", help="of the ASGD optimizers")
    fit.add_argument("--switch-interval", type=int, default=10, help="steps between decisions on the rate")
    fit.add_argument("--alpha-min", type=float, default=1e-4, help="lower bound of the base rate")
    fit.add_argument(
        "--alpha-max",
        type=float,
        default=1e-2,
        help="upper bound of the base rate, as published; the library's own is 0.02",
    )
    fit.add_argument("--batch-size", type=int, default=128)
    fit.add_argument("--epochs", type=int, default=50)
    fit.add_argument("--n-latent", type=int, default=20)
    fit.add_argument("--accelerator", default="auto")
    fit.add_argument("--seed", type=int, default=0)
    trust = p.add_argument_group("comparison and landscape")
    trust.add_argument("--optimizers", default=DEFAULT_OPTIMIZERS, help="to compare, separated by commas")
    trust.add_argument(
        "--lr-grid", type=float, nargs="+", help="learning rates to compare; --lr if not given"
    )
    trust.add_argument("--seeds", type=int, nargs="+", help="seeds to compare; --seed if not given")
    trust.add_argument(
        "--comparison-cells", type=int, default=3000, help="compare on a random part of larger data"
    )
    trust.add_argument("--landscape-points", type=int, default=21, help="along each axis")
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 on bad input, 130 when interrupted."""
    arguments = parser().parse_args(argv)
    try:
        run(arguments)
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"mmopt: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmopt: interrupted; files that are there are complete", file=sys.stderr)
        return 130
    return 0


def run(a: argparse.Namespace) -> None:
    """Do the main job and write its files."""
    start = time.perf_counter()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    import matplotlib as mpl

    mpl.use("agg")
    from mmopt import pl, pp, tl
    from mmopt._files import atomic_path

    mdata = _read(a.file)
    names = {m: getattr(a, m) for m in ("rna", "atac", "prot")}
    batch, label = _column(mdata, a.batch_key, BATCHES), _column(mdata, a.label_key, LABELS)
    pp.prepare(
        mdata, **names, layer=a.layer, batch_key=batch, n_top_genes=a.n_top_genes, n_top_peaks=a.n_top_peaks
    )
    adam = {"betas": list(a.betas), "eps": a.eps}
    asgd = adam | {
        "switch_rule": a.switch_rule,
        "switch_interval": a.switch_interval,
        "alpha_min": a.alpha_min,
        "alpha_max": a.alpha_max,
    }

    def settings(name: str) -> dict:
        return asgd if "asgd" in name.lower() else adam

    common = {**names, "batch_key": batch, "batch_size": a.batch_size, "accelerator": a.accelerator}
    common["progress_bar"] = not a.quiet
    _say(a, f"training on {mdata.n_obs} cells")
    model = tl.integrate(
        mdata,
        **common,
        n_latent=a.n_latent,
        optimizer=a.optimizer,
        lr=a.lr,
        optimizer_kwargs=settings(a.optimizer),
        max_epochs=a.epochs,
        early_stopping=False,
        random_state=a.seed,
    )
    with atomic_path(out / "final_model.pt") as path:
        model.save(path)
    _say(a, "loss landscape")
    tl.landscape(mdata, model, n_points=a.landscape_points, random_state=a.seed, progress_bar=not a.quiet)
    optimizers = a.optimizers.split(",")
    part = _part(mdata, a.comparison_cells, a.seed)
    _say(a, f"comparing {len(optimizers)} optimizers on {part.n_obs} cells")
    runs = tl.compare_optimizers(
        part,
        optimizers,
        **common,
        lr_grid=a.lr_grid or [a.lr],
        seeds=a.seeds or [a.seed],
        optimizer_kwargs={name: settings(name) for name in optimizers},
        label_key=label,
        max_epochs=a.epochs,
        model_kwargs={"n_latent": a.n_latent},
    )
    comparison = part.uns["optimizer_comparison"]
    mdata.uns["optimizer_comparison"] = comparison
    for name, table in (("optimizer_comparison.csv", runs), ("metrics.csv", comparison["summary"])):
        with atomic_path(out / name) as path:
            table.to_csv(path, index=False)
    figures = {
        "loss_curves.png": pl.loss_curves(mdata, show=False, return_fig=True),
        "landscape.png": pl.landscape(mdata, show=False, return_fig=True),
        "embedding.png": _umap(mdata, [key for key in (label, batch) if key], a.seed),
    }
    for name, figure in figures.items():
        with atomic_path(out / name) as path:
            figure.savefig(path, dpi=200, bbox_inches="tight")
    with atomic_path(out / "embedding.h5mu") as path:
        _write(mdata, path)
    with atomic_path(out / "report.md") as path:
        path.write_text(
            _report(a, mdata, batch, label, part.n_obs, time.perf_counter() - start), encoding="utf-8"
        )
    _say(a, f"done in {time.perf_counter() - start:.0f} s; see {out / 'report.md'}")


def _say(a: argparse.Namespace, text: str) -> None:
    if not a.quiet:
        print(f"mmopt: {text}", file=sys.stderr, flush=True)


def _read(file: str | None) -> "MuData":
    from mmopt._compat import override_pull_on_update

    if file is None:
        from mmopt import datasets

        return datasets.toy()
    import mudata

    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if Path(file).suffix == ".h5ad":
        wrapped = f'mudata.MuData({{"rna": anndata.read_h5ad("{file}")}}).write("{Path(file).stem}.h5mu")'
        raise ValueError(f"{file} is an AnnData (.h5ad), and a MuData is needed: wrap it, `{wrapped}`")
    try:
        with override_pull_on_update():
            return mudata.read_h5mu(file)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is no readable .h5mu file: {error}") from error


def _write(mdata: "MuData", path: Path) -> None:
    from mmopt._compat import override_pull_on_update

    with override_pull_on_update():
        mdata.write_h5mu(path)


def _column(mdata: "MuData", asked: str, usual: tuple[str, ...]) -> str | None:
    """Return the column asked for, or the first of the usual ones that tells groups of cells apart."""
    from mmopt._checks import obs_column

    if asked != "auto":
        return None if asked == "none" else asked
    for name in usual:
        try:
            column = obs_column(mdata, name)
        except (KeyError, ValueError):
            continue
        if column.notna().all() and 1 < column.nunique() <= mdata.n_obs / 4:
            return name
    return None


def _part(mdata: "MuData", n_cells: int, seed: int) -> "MuData":
    import numpy as np

    from mmopt._compat import override_pull_on_update

    chosen = np.sort(np.random.default_rng(seed).permutation(mdata.n_obs)[:n_cells])
    with override_pull_on_update():
        return mdata[mdata.obs_names[chosen]].copy()


def _umap(mdata: "MuData", colours: list[str], seed: int):
    import scanpy as sc
    from anndata import AnnData

    from mmopt._checks import obs_column

    cells = AnnData(obs=mdata.obs[[]].copy(), obsm={"X_mmopt": mdata.obsm["X_mmopt"]})
    for key in colours:
        cells.obs[key] = obs_column(mdata, key).astype(str).astype("category").to_numpy()
    cells.obs["modalities"] = _combinations(mdata).to_numpy()
    # exact neighbours are quick up to here; beyond, approximate ones are worth the minute their compilation takes
    transformer = "sklearn" if cells.n_obs <= EXACT_NEIGHBOURS else None
    sc.pp.neighbors(cells, use_rep="X_mmopt", random_state=seed, transformer=transformer)
    sc.tl.umap(cells, random_state=seed)
    return sc.pl.umap(
        cells, color=[*colours, "modalities"], ncols=1, frameon=False, show=False, return_fig=True
    )


def _combinations(mdata: "MuData") -> "pd.Series":
    """Name the modalities each cell has, e.g. ``rna+prot``."""
    import pandas as pd

    from mmopt._checks import presence

    used = mdata.uns["mmopt"]["params"]["modalities"]
    rows = presence(mdata, used)
    return pd.Series(
        ["+".join(m for m, has in zip(used, row, strict=True) if has) for row in rows], mdata.obs_names
    )


def _report(
    a: argparse.Namespace,
    mdata: "MuData",
    batch: str | None,
    label: str | None,
    n_compared: int,
    seconds: float,
) -> str:
    fit, comparison = mdata.uns["mmopt"], mdata.uns["optimizer_comparison"]
    params, history = fit["params"], fit["history"]
    n_networks = params["n_networks"]
    last = history.groupby("network").last().mean() if n_networks > 1 else history.iloc[-1]
    summary, single = comparison["summary"], len(a.seeds or [a.seed]) == 1
    reference = comparison["params"]["reference"]
    shown = [
        c
        for c in (
            "optimizer",
            "lr",
            "elbo",
            "elbo_se",
            "difference",
            "difference_se",
            "verdict",
            "accuracy",
            "f1",
        )
        if c in summary
    ]
    shown += [c for c in summary if c.startswith("pearson_")]
    shown += [c for c in summary if c == "baseline_accuracy" or c.startswith("baseline_pearson_")]
    compared = "all cells" if n_compared == mdata.n_obs else f"a random {n_compared} of the cells"
    lines = [
        "# mmopt report",
        "",
        f"Data: {a.file or 'the simulated toy data'}, {mdata.n_obs} cells. Modelled: "
        + ", ".join(f"{n} {m} features ({params['modalities'][m]})" for m, n in params["n_features"].items())
        + ".",
        "",
        "Cells by the modalities they have: "
        + ", ".join(f"{k} {n}" for k, n in _combinations(mdata).value_counts().items())
        + f". Batch corrected for: {batch or 'none'}. Labels, used for scoring only: {label or 'none'}.",
        "",
        f"Model: TriVI, {params['n_latent']} latent dimensions in all, {n_networks} network{'s' * (n_networks > 1)}, "
        f"{params['n_epochs']} epochs{' each' * (n_networks > 1)} in batches of {params['batch_size']} cells, "
        f"{params['optimizer']} from lr {params['lr']}, seed {params['random_state']}, "
        f"{params['n_train']} cells trained on, {params['n_validation']} held out.",
        "",
    ]
    if "elbo_validation" in last:
        mean = ", mean of the networks" * (n_networks > 1)
        lines += [
            f"Held-out negative evidence lower bound: {last['elbo_validation']:.2f} per cell{mean}.",
            "",
        ]
    lines += [
        "## Optimizers",
        "",
        f"Compared on one network, on {compared}, a fifth of them held out; lower `elbo` is better, `difference` is to "
        f"{reference}. Columns "
        "`baseline_…` are PCA, neighbours and ridge regression on the same cells: what a figure has to beat.",
        "",
        _markdown(summary[shown]),
        "",
    ]
    if single:
        lines += [
            "One seed has no standard error, so no optimizer is called better: run with `--seeds 0 1 2 3 4`.",
            "",
        ]
    lines += ["## Files", ""]
    lines += [f"- `{name}`: {text}." for name, text in OUTPUTS.items()]
    lines += [
        "",
        "## Versions",
        "",
        ", ".join(f"{k} {v}" for k, v in fit["versions"].items()) + f". {seconds:.0f} s.",
        "",
    ]
    return "\n".join(lines)


def _markdown(table: "pd.DataFrame") -> str:
    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [
        list(table),
        ["---"] * table.shape[1],
        *([cell(v) for v in row] for row in table.itertuples(index=False)),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())

"""The main job as one command: ``python -m mmopt [FILE.h5mu] --out results``."""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmopt import __version__, _keys
from mmopt._report import OUTPUTS, REPORT, combinations, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mudata import MuData

# looked for, in this order, where the user names no column
LABELS = ("cell_type", "celltype", "l2_cell_type", "cell_type2", "perturbation")
BATCHES = ("batch", "donor", "sample", "bio_rep")
EXACT_NEIGHBOURS = 50_000
LEAST_CELLS, LEAST_POINTS = 100, 3  # of a comparison, and along an axis of the landscape
DEFAULT_OPTIMIZERS = "adam,amsgrad,padam,sgd,asgdadam,asgdamsgrad"


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
        with _ended_as_interrupted():
            run(arguments)
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"mmopt: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmopt: interrupted; files that are there are complete", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Clean up when a scheduler or a container asks the process to end, as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(a: argparse.Namespace) -> None:
    """Do the main job and write its files, all at the end."""
    start = time.perf_counter()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    import matplotlib as mpl

    mpl.use("agg")
    from mmopt import pp, tl
    from mmopt._files import atomic_files

    _check(a, out)
    mdata = _read(a.file)
    names = {m: getattr(a, m) for m in ("rna", "atac", "prot")}
    remarks: list[str] = []
    batch = _column(mdata, a.batch_key, BATCHES, remarks)
    label = _column(mdata, a.label_key, LABELS)
    for remark in remarks:
        print(f"mmopt: {remark}", file=sys.stderr)
    pp.prepare(
        mdata, **names, layer=a.layer, batch_key=batch, n_top_genes=a.n_top_genes, n_top_peaks=a.n_top_peaks
    )
    common = {**names, "batch_key": batch, "batch_size": a.batch_size, "accelerator": a.accelerator}
    common["progress_bar"] = not a.quiet
    # the comparison comes first, because it refuses what cannot be used before it trains anything
    optimizers = [name.strip() for name in a.optimizers.split(",")]
    part = _part(mdata, a.comparison_cells, a.seed)
    _say(a, f"comparing {len(optimizers)} optimizers on {part.n_obs} cells")
    runs = tl.compare_optimizers(
        part,
        optimizers,
        **common,
        lr_grid=a.lr_grid or [a.lr],
        seeds=a.seeds or [a.seed],
        optimizer_kwargs={name: _settings(a, name) for name in optimizers},
        label_key=label,
        max_epochs=a.epochs,
        model_kwargs={"n_latent": a.n_latent},
    )
    mdata.uns[_keys.OPTIMIZER_COMPARISON] = part.uns[_keys.OPTIMIZER_COMPARISON]
    _say(a, f"training on {mdata.n_obs} cells")
    model = tl.integrate(
        mdata,
        **common,
        n_latent=a.n_latent,
        optimizer=a.optimizer,
        lr=a.lr,
        optimizer_kwargs=_settings(a, a.optimizer),
        max_epochs=a.epochs,
        early_stopping=False,
        random_state=a.seed,
    )
    # at once, so that nothing that fails later loses what took hours; without report.md a run is not complete
    with atomic_files(out) as folder:
        model.save(folder / "final_model.pt")
        runs.to_csv(folder / "optimizer_comparison.csv", index=False)
        mdata.uns[_keys.OPTIMIZER_COMPARISON]["summary"].to_csv(folder / "metrics.csv", index=False)
        first = {file.name for file in folder.iterdir()}
    for name in {*OUTPUTS, REPORT} - first:
        (out / name).unlink(missing_ok=True)  # of an earlier run
    _say(a, "loss landscape")
    tl.landscape(mdata, model, n_points=a.landscape_points, random_state=a.seed, progress_bar=not a.quiet)
    with atomic_files(out) as folder:
        for name, figure in _figures(mdata, label, batch, a.seed).items():
            figure.savefig(folder / name, dpi=200, bbox_inches="tight")
        _write(mdata, folder / "embedding.h5mu")
        text = report(a, mdata, batch, label, remarks, part.n_obs, time.perf_counter() - start)
        (folder / REPORT).write_text(text, encoding="utf-8")
    _say(a, f"done in {time.perf_counter() - start:.0f} s; see {out / REPORT}")


def _check(a: argparse.Namespace, out: Path) -> None:
    """Refuse what the tools would refuse only after hours, or not in one line."""
    from mmopt import optim
    from mmopt.models.devices import find_device

    if a.landscape_points < LEAST_POINTS or a.comparison_cells < LEAST_CELLS:
        raise ValueError(
            f"--landscape-points must be at least {LEAST_POINTS} and --comparison-cells at least {LEAST_CELLS}; got "
            f"{a.landscape_points} and {a.comparison_cells}"
        )
    if not os.access(out, os.W_OK):
        raise PermissionError(f"the folder {out} cannot be written to")
    find_device(a.accelerator)
    optim.creator(a.optimizer, lr=a.lr, **_settings(a, a.optimizer))


def _settings(a: argparse.Namespace, optimizer: str) -> dict:
    """Arguments of an optimizer; those of all ASGD optimizers are the same."""
    settings = {"betas": list(a.betas), "eps": a.eps}
    if "asgd" in optimizer.lower():
        for name in ("switch_rule", "switch_interval", "alpha_min", "alpha_max"):
            settings[name] = getattr(a, name)
    return settings


def _say(a: argparse.Namespace, text: str) -> None:
    if not a.quiet:
        print(f"mmopt: {text}", file=sys.stderr, flush=True)


def _read(file: str | None) -> "MuData":
    from mmopt._compat import override_pull_on_update

    if file is None:
        from mmopt import datasets

        return datasets.toy()
    import mudata

    if Path(file).is_dir():
        raise ValueError(
            f'{file} is a folder, and a file is needed; a zarr store is converted with `mudata.read_zarr("{file}")'
            f'.write_h5mu("{Path(file).stem}.h5mu")`'
        )
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


def _column(
    mdata: "MuData", asked: str, usual: tuple[str, ...], remarks: list[str] | None = None
) -> str | None:
    """Return the column asked for, or the first of the usual ones that tells groups of cells apart.

    With ``remarks``, which then say so, one with missing values is passed over.
    """
    from mmopt._checks import obs_column

    if asked != "auto":
        return None if asked == "none" else asked
    for name in usual:
        try:
            known = obs_column(mdata, name).dropna()
        except (KeyError, ValueError):
            continue
        if not 1 < known.nunique() <= len(known) / 4:
            continue
        if remarks is None or len(known) == mdata.n_obs:
            return name
        remarks.append(
            f"column {name!r} is not used as the batch: {mdata.n_obs - len(known)} cells have no value; fill it in, or "
            "leave these cells out"
        )
    return None


def _part(mdata: "MuData", n_cells: int, seed: int) -> "MuData":
    import numpy as np

    from mmopt._compat import override_pull_on_update

    chosen = np.sort(np.random.default_rng(seed).permutation(mdata.n_obs)[:n_cells])
    with override_pull_on_update():
        return mdata[mdata.obs_names[chosen]].copy()


def _figures(mdata: "MuData", label: str | None, batch: str | None, seed: int) -> dict[str, "Figure"]:
    from mmopt import pl

    return {
        "loss_curves.png": pl.loss_curves(mdata, show=False, return_fig=True),
        "landscape.png": pl.landscape(mdata, show=False, return_fig=True),
        "embedding.png": _umap(mdata, [key for key in (label, batch) if key], seed),
    }


def _umap(mdata: "MuData", colours: list[str], seed: int) -> "Figure":
    import scanpy as sc
    from anndata import AnnData

    from mmopt._checks import obs_column

    cells = AnnData(obs=mdata.obs[[]].copy(), obsm={_keys.EMBEDDING: mdata.obsm[_keys.EMBEDDING]})
    for key in colours:
        cells.obs[key] = obs_column(mdata, key).astype(str).astype("category").to_numpy()
    cells.obs["modalities"] = combinations(mdata).to_numpy()
    # exact neighbours are quick up to here; beyond, approximate ones are worth the minute their compilation takes
    transformer = "sklearn" if cells.n_obs <= EXACT_NEIGHBOURS else None
    sc.pp.neighbors(cells, use_rep=_keys.EMBEDDING, random_state=seed, transformer=transformer)
    sc.tl.umap(cells, random_state=seed)
    return sc.pl.umap(
        cells, color=[*colours, "modalities"], ncols=1, frameon=False, show=False, return_fig=True
    )


if __name__ == "__main__":
    sys.exit(main())

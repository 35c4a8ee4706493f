"""Training from a file on disk: memory, time per cell and throughput beside training in memory, at growing size.

    python benchmarks/scale.py [--cells 10000 100000] [--genes 2000] [--peaks 100000] [--per-cell 1000]
    python benchmarks/scale.py --epochs 20000 100000        # whole epochs, validation included; a section of its own

For every size a .h5mu of random sparse counts is written, piece by piece. In a process of its own each, the file is
then opened backed (or read into memory, where that fits ``--memory`` GB), the model is set up (all counts are checked)
and made (two passes over the data), and trained for a fixed number of steps of 128 cells. CPU seconds per cell, and
peak resident memory of the process. Writes scale.md beside this file; the data files are deleted.

With ``--epochs`` one process trains two models, one on the file and one on the same counts in memory, in turns, as
``TriVI.train`` does it by default (batches, a tenth held out and evaluated each epoch). The file is dropped from the
cache of the system before each epoch. This replaces the section of that name in scale.md, and no other.
"""

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

HERE = Path(__file__).resolve().parent
PIECE = 10_000  # cells written at a time
SECTION = "## Whole epochs"


def write(path: Path, n_cells: int, sizes: dict[str, tuple[int, int]]) -> None:
    """Write random counts of ``sizes`` (features, values per cell), without ever holding more than a piece."""
    import h5py
    import numpy as np
    import scipy.sparse as sp
    from anndata import AnnData
    from mudata import MuData, write_h5mu

    names = [f"c{i}" for i in range(n_cells)]
    modalities = {}
    for name, (n_features, _) in sizes.items():
        modalities[name] = AnnData(sp.csr_matrix((n_cells, n_features), dtype=np.float32))
        modalities[name].obs_names = names
        modalities[name].var_names = [f"{name}{i}" for i in range(n_features)]
    write_h5mu(path, MuData(modalities))
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        for name, (n_features, per_cell) in sizes.items():
            group = file[f"mod/{name}/X"]
            for part in ("data", "indices", "indptr"):
                del group[part]
            n_values = n_cells * per_cell
            data = group.create_dataset("data", (n_values,), "float32")
            indices = group.create_dataset("indices", (n_values,), "int32")
            group["indptr"] = np.arange(0, n_values + 1, per_cell)
            stride = n_features / per_cell
            for start in range(0, n_cells, PIECE):
                rows = min(PIECE, n_cells - start)
                # one feature of every few neighbours: sorted and without repeats by construction
                where = np.floor((np.arange(per_cell) + rng.random((rows, per_cell))) * stride)
                here = slice(start * per_cell, (start + rows) * per_cell)
                indices[here] = where.astype(np.int32).ravel()
                data[here] = 1 + rng.poisson(0.5, rows * per_cell).astype(np.float32)


def measure(path: Path, backed: bool, steps: int) -> dict[str, float]:
    """Set up, make and train a model; seconds and memory."""
    import lightning.pytorch as lightning
    import mudata
    import torch

    from mmopt.models import TriVI

    torch.set_num_threads(1)
    marks: dict[int, float] = {}

    class Clock(lightning.Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
            marks[trainer.global_step] = time.process_time()

    start = time.process_time()
    mdata = mudata.read_h5mu(path, backed=backed)
    opened = time.process_time()
    TriVI.setup_mudata(mdata)
    set_up = time.process_time()
    model = TriVI(mdata)
    made = time.process_time()
    model.train(
        1,
        batch_size=128,
        accelerator="cpu",
        progress_bar=False,
        early_stopping=False,
        limit_train_batches=steps,
        limit_val_batches=0,
        callbacks=[Clock()],
    )
    last = max(marks)
    first = last // 10  # the start-up is left out
    per_step = (marks[last] - marks[first]) / (last - first)
    return {
        "open": opened - start,
        "set up": set_up - opened,
        "make": made - set_up,
        "per step": per_step,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def epochs(path: Path, turns: int, n: int) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Wall and CPU seconds of the epochs after the first of each turn, training alone and with validation."""
    import lightning.pytorch as lightning
    import mudata
    import torch

    from mmopt.models import TriVI

    torch.set_num_threads(1)

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    class Clock(lightning.Callback):
        def __init__(self) -> None:
            self.found: dict[str, list[tuple[float, float]]] = {"training": [], "whole": []}

        def _note(self, part: str) -> None:
            self.found[part].append(tuple(b - a for a, b in zip(self.start, now(), strict=True)))

        def on_train_epoch_start(self, *_: object) -> None:
            with path.open(
                "rb"
            ) as file:  # what is read again comes from the disk, not from the system's cache
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.start = now()

        def on_validation_start(self, trainer: lightning.Trainer, *_: object) -> None:
            if not trainer.sanity_checking:
                self._note("training")

        def on_train_epoch_end(self, *_: object) -> None:
            self._note("whole")

    models = {}
    for where in ("disk", "memory"):
        mdata = mudata.read_h5mu(path, backed=where == "disk")
        TriVI.setup_mudata(mdata)
        models[where] = TriVI(mdata)
    times: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for turn in range(turns):
        for where in ("disk", "memory") if turn % 2 == 0 else ("memory", "disk"):
            clock = Clock()
            models[where].train(
                n + 1, accelerator="cpu", progress_bar=False, early_stopping=False, callbacks=[clock]
            )
            for part, found in clock.found.items():
                print(where, turn, part, found, file=sys.stderr, flush=True)
                times.setdefault(where, {}).setdefault(part, []).extend(found[1:])
                times[where].setdefault(f"{part}, first", []).append(found[0])
    return times


def section(rows: list[list[str]], where: str, a: argparse.Namespace) -> str:
    header = [
        "cells",
        "counts in",
        "training (CPU)",
        "whole (CPU)",
        "of the rate in memory",
        "whole (wall)",
        "of the rate in memory",
        "first (CPU)",
    ]
    body = "\n".join("| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *rows])
    return f"""{SECTION}

{datetime.date.today()}; {where}.

The same counts. An epoch as `train` does it by default: batches of 128 cells, and a tenth of the cells held out and \
evaluated. Microseconds per cell, median of {a.turns} turns of {a.per_turn} epoch{"s" * (a.per_turn > 1)} (smallest-largest); "first" is the first epoch of each turn, with the \
start-up, and with what is kept from then on. One process trains both, in turns; the file is dropped from the cache of the \
system before each epoch.

{body}
"""


def per_cell(times: list[tuple[float, float]], clock: int, n_cells: int) -> str:
    values = [1e6 * t[clock] / n_cells for t in times]
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def measured_epochs(a: argparse.Namespace, sizes: dict[str, tuple[int, int]]) -> None:
    """Replace the section of scale.md, or add it."""
    rows = []
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for n_cells in a.epochs:
            path = Path(folder) / f"{n_cells}.h5mu"
            write(path, n_cells, sizes)
            found = epochs(path, a.turns, a.per_turn)
            path.unlink()
            for where in found:
                row = [f"{n_cells:,}", where, per_cell(found[where]["training"], 1, n_cells)]
                for clock in (1, 0):
                    mine, theirs = (
                        statistics.median(t[clock] for t in found[w]["whole"]) for w in (where, "memory")
                    )
                    row += [
                        per_cell(found[where]["whole"], clock, n_cells),
                        f"{100 * theirs / mine:.0f} %",
                    ]
                rows.append([*row, per_cell(found[where]["whole, first"], 1, n_cells)])
                print(rows[-1], flush=True)
    page = a.out / "scale.md"
    kept = page.read_text().split(f"\n{SECTION}")[0] if page.exists() else "# Size\n"
    page.write_text(f"{kept}\n{section(rows, machine('torch', 'anndata', 'mudata', 'h5py'), a)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--peaks", type=int, default=100_000)
    parser.add_argument("--per-cell", type=int, default=1000, help="accessible peaks of a cell")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--memory", type=float, default=2.0, help="GB of counts that may be read into memory")
    parser.add_argument("--folder", type=Path, help="for the data files; a temporary one if not given")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--measure", nargs=3, metavar=("FILE", "BACKED", "STEPS"), help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, nargs="+", help="cells; whole epochs instead of the table")
    parser.add_argument("--turns", type=int, default=3, help="turns of each model")
    parser.add_argument("--per-turn", type=int, default=1, help="epochs of a turn, after its first")
    a = parser.parse_args()
    if a.measure:
        print(json.dumps(measure(Path(a.measure[0]), a.measure[1] == "1", int(a.measure[2]))))
        return

    sizes = {"rna": (a.genes, a.genes // 10), "atac": (a.peaks, a.per_cell)}
    if a.epochs:
        measured_epochs(a, sizes)
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for n_cells in a.cells:
            path = Path(folder) / f"{n_cells}.h5mu"
            write(path, n_cells, sizes)
            gigabytes = path.stat().st_size / 1e9
            found = {}
            for backed in (True, False) if gigabytes <= a.memory else (True,):
                command = [sys.executable, __file__, "--measure", str(path), str(int(backed)), str(a.steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[backed] = json.loads(done.stdout.splitlines()[-1])
            path.unlink()
            for backed, f in found.items():
                share = found[False]["per step"] / f["per step"] if False in found else None
                rows.append(
                    [
                        f"{n_cells:,}",
                        f"{gigabytes:.2f}",
                        "disk" if backed else "memory",
                        *(f"{1e6 * f[k] / n_cells:.0f}" for k in ("set up", "make")),
                        f"{1e6 * f['per step'] / 128:.0f}",
                        f"{100 * share:.0f} %" if share else "-",
                        f"{f['peak']:.2f}",
                    ]
                )
                print(rows[-1], flush=True)
    header = [
        "cells",
        "file (GB)",
        "counts in",
        "set up",
        "make",
        "train",
        "of the rate in memory",
        "peak memory (GB)",
    ]
    body = "\n".join("| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *rows])
    where = machine("torch", "anndata", "mudata", "h5py")
    text = f"""# Size

{datetime.date.today()}; {where}.

{a.genes:,} genes ({a.genes // 10} detected per cell) and {a.peaks:,} peaks ({a.per_cell:,} accessible per cell), random \
counts; {a.steps} steps of 128 cells. CPU microseconds per cell: "set up" checks every count, "make" takes the model's \
starting values from two passes over the data, "train" is per cell trained on (no validation, which reads most of the \
file again). Peak memory is that of the whole process, libraries included.

{body}
"""
    page = a.out / "scale.md"
    _, other, rest = page.read_text().partition(f"\n{SECTION}") if page.exists() else ("", "", "")
    page.write_text(text + other + rest)
    print(text)


if __name__ == "__main__":
    main()

"""Training from a file on disk: memory, time per cell and throughput beside training in memory, at growing size.

    python benchmarks/scale.py [--cells 10000 100000] [--genes 2000] [--peaks 100000] [--per-cell 1000]

For every size a .h5mu of random sparse counts is written, piece by piece. In a process of its own each, the file is
then opened backed (or read into memory, where that fits ``--memory`` GB), the model is set up (all counts are checked)
and made (two passes over the data), and trained for a fixed number of steps of 128 cells. CPU seconds per cell, and
peak resident memory of the process. Writes scale.md beside this file; the data files are deleted.
"""

import argparse
import datetime
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

HERE = Path(__file__).resolve().parent
PIECE = 10_000  # cells written at a time


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
    a = parser.parse_args()
    if a.measure:
        print(json.dumps(measure(Path(a.measure[0]), a.measure[1] == "1", int(a.measure[2]))))
        return

    sizes = {"rna": (a.genes, a.genes // 10), "atac": (a.peaks, a.per_cell)}
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
starting values from two passes over the data, "train" is per cell trained on, without validation. Peak memory is that of the whole process, libraries included.

{body}
"""
    page = a.out / "scale.md"
    # what whole_epochs.py has written stays
    _, mark, rest = page.read_text().partition("\n## ") if page.exists() else ("", "", "")
    page.write_text(text + mark + rest)
    print(text)


if __name__ == "__main__":
    main()

"""Whole epochs, validation included, of a model that reads its counts from disk and of one that has them in memory.

    python benchmarks/whole_epochs.py [20000 100000] [--turns 2]

Counts as in scale.py. One process trains both models in turns as ``TriVI.train`` does it by default: batches of 128 cells,
a tenth held out and evaluated each epoch; two epochs a turn, of which the first, with the start-up, is told apart. The file
is dropped from the cache of the system before each epoch. One thread. Every epoch is a row of whole_epochs.csv, from which
the section of scale.md is made (without numbers of cells that is all that is done).
"""

import argparse
import csv
import datetime
import os
import tempfile
import time
from pathlib import Path

import pandas as pd
from machine import machine
from scale import write

HERE = Path(__file__).resolve().parent
SIZES = {"rna": (2000, 200), "atac": (100_000, 1000)}
COLUMNS = ["cells", "counts_in", "turn", "epoch", "part", "wall_s", "cpu_s"]
SECTION = "\n## Whole epochs\n"


def measure(n_cells: int, turns: int, out: Path, folder: Path | None) -> None:
    """Add the epochs to the table."""
    import lightning.pytorch as lightning
    import mudata
    import torch

    from mmopt.models import TriVI

    torch.set_num_threads(1)

    class Clock(lightning.Callback):
        def __init__(self, where: str, turn: int) -> None:
            self.where, self.turn, self.epoch = where, turn, -1

        def on_train_epoch_start(self, *_: object) -> None:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.epoch += 1
            self.start = time.perf_counter(), time.process_time()

        def _note(self, part: str) -> None:
            wall, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
            row = [n_cells, self.where, self.turn, self.epoch, part, f"{wall:.3f}", f"{cpu:.3f}"]
            print(*row, flush=True)
            add(out / "whole_epochs.csv", row)

        def on_validation_start(self, trainer: lightning.Trainer, *_: object) -> None:
            if not trainer.sanity_checking:
                self._note("training")

        def on_train_epoch_end(self, *_: object) -> None:
            self._note("whole")

    with tempfile.TemporaryDirectory(dir=folder) as kept:
        path = Path(kept) / "counts.h5mu"
        write(path, n_cells, SIZES)
        models = {}
        for where in ("disk", "memory"):
            mdata = mudata.read_h5mu(path, backed=where == "disk")
            TriVI.setup_mudata(mdata)
            models[where] = TriVI(mdata)
        for turn in range(turns):
            for where in list(models)[:: 1 if turn % 2 == 0 else -1]:
                models[where].train(
                    2,
                    accelerator="cpu",
                    progress_bar=False,
                    early_stopping=False,
                    callbacks=[Clock(where, turn)],
                )


def add(path: Path, row: list) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow([*COLUMNS, "date", "machine"])
        writer.writerow([*row, datetime.date.today(), machine("torch", "anndata", "mudata", "h5py")])


def section(table: pd.DataFrame) -> str:
    rows = []
    for n_cells, mine in table.groupby("cells"):
        median = mine[mine["epoch"] > 0].groupby(["counts_in", "part"])[["wall_s", "cpu_s"]].median()
        for where in ("disk", "memory"):
            row = [f"{n_cells:,}", where]
            for part, clock in (("training", "cpu_s"), ("whole", "cpu_s"), ("whole", "wall_s")):
                chosen = mine[(mine["counts_in"] == where) & (mine["part"] == part) & (mine["epoch"] > 0)]
                values = 1e6 * chosen[clock] / n_cells
                row += [
                    f"{values.median():.0f} ({values.min():.0f}-{values.max():.0f})",
                    f"{100 * median.loc[('memory', part), clock] / median.loc[(where, part), clock]:.0f} %",
                ]
            first = mine[(mine["counts_in"] == where) & (mine["part"] == "whole") & (mine["epoch"] == 0)]
            rows.append([*row, f"{1e6 * first['cpu_s'].median() / n_cells:.0f}"])
    share = "of the rate in memory"
    header = ["cells", "counts in", "training", share, "whole", share, "whole, wall", share, "first"]
    body = "\n".join("| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *rows])
    told = ", ".join(
        f"{n} at {size:,} cells"
        for size, n in table[table["epoch"] > 0].groupby("cells")["turn"].nunique().items()
    )
    return f"""{SECTION}
{table["date"].iloc[-1]}; {table["machine"].iloc[-1]}.

The same counts, and epochs as `train` does them by default, on a tenth of the cells held out and evaluated: CPU \
microseconds per cell, median (smallest-largest) over turns of the two models in one process ({told}). "First" is the first \
epoch of a turn, with the start-up. The file is dropped from the cache of the system before each epoch; what else ran on the \
machine moves the clock by more than the disk does.

{body}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", type=int, nargs="*")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for the data files; a temporary one if not given")
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    for n_cells in a.cells:
        measure(n_cells, a.turns, a.out, a.folder)
    page = a.out / "scale.md"
    page.write_text(page.read_text().partition(SECTION)[0] + section(pd.read_csv(a.out / "whole_epochs.csv")))


if __name__ == "__main__":
    main()

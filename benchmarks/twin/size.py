"""Time and peak memory of the whole way from a course to a simulated intervention; writes ``size.csv``.

    python size.py OUT [2000] [200000]

A course of the myeloid network as RNA, ATAC and protein counts (2,000 genes, 10,000 peaks, 50 proteins, two donors, five
times; about 900, 1,400 and 50 of them are detected in a cell), every cell simulated, none repeated. The prior lacks a
fifth of the true edges and has 30 % false ones. Embedding: ``tl.integrate`` as it is by default, for 200,000 cells one
epoch of it. Then ``tl.regulons``, ``tl.twin`` and ``tl.simulate``, left alone and with GATA1 knocked out for good, all of
them as they are by default. Every step is a process of its own, forked from this one, which imports little: it reads what
the one before wrote, and its peak is that of the process, counts and libraries included. Seconds are those of the call,
without reading and writing.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import append

SIZES = {"n_genes": 2000, "n_peaks": 10_000, "n_proteins": 50}
DEPTH = {"rna": 3000, "atac": 1500, "prot": 1500}
FEW_EPOCHS = 20_000  # cells from which on one epoch has to do
QUIET = {"progress_bar": False}
ALONE = {"start": {"time": 0}, "terminal_key": "cell_type"}


def course(_, n_cells: int):
    import mmopt as mm

    return mm.datasets.simulate_trimodal(n_cells, n_donors=2, depth=DEPTH, random_state=11, **SIZES)


def embedding(mdata, n_cells: int) -> None:
    import mmopt as mm

    epochs = 1 if n_cells > FEW_EPOCHS else None
    mm.tl.integrate(mdata, batch_key="donor", max_epochs=epochs, accelerator="cpu", **QUIET)


def regulons(mdata, _) -> None:
    from fates import noisy_prior

    import mmopt as mm

    mm.tl.regulons(mdata, prior=noisy_prior(mdata, mm.datasets.krumsiek2011().regulators))


def twin(mdata, _) -> None:
    import mmopt as mm

    mm.tl.twin(mdata, time_key="time", units="days", accelerator="cpu", **QUIET)


def alone(mdata, _) -> None:
    import mmopt as mm

    mm.tl.simulate(mdata, **ALONE, **QUIET)


def knockout(mdata, _) -> None:
    import mmopt as mm

    mm.tl.simulate(mdata, interventions=[("GATA1", "knockout")], **ALONE, **QUIET)


STEPS = {
    "course": course,
    "tl.integrate": embedding,
    "tl.regulons": regulons,
    "tl.twin": twin,
    "tl.simulate": alone,
    "tl.simulate, knock-out": knockout,
}


def gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def do(what: Callable, path: Path, n_cells: int, pipe) -> None:
    """One step, in a process of its own."""
    warnings.simplefilter("ignore")
    import mudata

    import mmopt as mm  # what is only imported once is no part of the first step's time
    from mmopt.models import TriVI  # noqa: F401

    mdata = mudata.read_h5mu(path) if path.exists() else None
    read = gigabytes()
    wall, cpu = time.perf_counter(), time.process_time()
    made = what(mdata, n_cells)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row = {"wall_s": wall, "cpu_s": cpu, "peak_gb": gigabytes(), "read_gb": read}
    (mdata if made is None else made).write_h5mu(path)
    pipe.send(row | {"version": mm.__version__})


def main(out: Path, sizes: list[int]) -> None:
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for n_cells in sizes:
            path = Path(folder) / f"{n_cells}.h5mu"
            for name, what in STEPS.items():
                ours, theirs = fork.Pipe()
                process = fork.Process(target=do, args=(what, path, n_cells, theirs))
                process.start()
                theirs.close()
                row = ours.recv()
                process.join()
                threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
                row = {"cells": n_cells, "step": name} | row | {"threads": threads}
                append(out / "size.csv", row, "torch", "scvi-tools", "pot")
                print(row, flush=True)
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(n) for n in sys.argv[2:]] or [2000, 200_000])

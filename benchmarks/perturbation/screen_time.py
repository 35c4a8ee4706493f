"""How long a screen takes: 300 perturbations of 2,000 cells × 600 genes × 1,500 peaks × 20 proteins; writes ``screen_time.csv``.

``python screen_time.py``: the network is fitted once and given. Each of three runs is a process of its own, which reads the file,
screens knock-outs, over-expressions, pairs, closed peaks and blocked proteins, and says its wall and processor seconds and the most
memory it ever had; then a search for one or two interventions between two cell types (:func:`mmopt.tl.reprogram`).
"""

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import combinations
from pathlib import Path

import mudata
import numpy as np
import pandas as pd

import mmopt as mm

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import append

KEPT = Path(__file__).with_suffix(".csv")
N_CELLS, N_GENES, N_PEAKS, N_PROTEINS = 2000, 600, 1500, 20
N_PERTURBATIONS, RUNS = 300, 3


def data():
    """Simulated cells with a network in which proteins regulate too."""
    network = mm.datasets.random_network(20, 5, branching=2, random_state=21)
    mdata = mm.datasets.simulate_trimodal(
        N_CELLS,
        network=network,
        n_genes=N_GENES,
        n_peaks=N_PEAKS,
        n_proteins=N_PROTEINS,
        n_donors=2,
        times=(0, 2, 4, 6, 9, 12),
        random_state=21,
    )
    edges = mdata.uns["truth"]["edges"].rename(columns={"sign": "weight"})[["source", "target", "weight"]]
    rng = np.random.default_rng(21)
    signals = pd.DataFrame(
        {
            "source": np.repeat([f"prot:{p}" for p in mdata["prot"].var_names], 3),
            "target": rng.choice(mdata["rna"].var_names, 3 * N_PROTEINS),
            "weight": 1,
        }
    )
    mm.tl.regulons(mdata, prior=pd.concat([edges, signals]).drop_duplicates(["source", "target"]))
    return mdata


def perturbations(mdata) -> list:
    """All regulators both ways, all proteins, as many peaks, and pairs of regulators for the rest."""
    edges, links = mdata.uns["regulons"]["edges"], mdata.uns["regulons"]["links"]
    genes = sorted(set(edges.loc[edges["source_modality"] == "rna", "source"].astype(str)))
    proteins = sorted(set(edges.loc[edges["source_modality"] == "prot", "source"].astype(str)))
    single = [(g, mode) for mode in ("knockout", "overexpress") for g in genes]
    single += [(f"prot:{p}", "block") for p in proteins]
    single += [(p, "block") for p in sorted(set(links["peak"].astype(str)))[:100]]
    pairs = [[(a, "knockout"), (b, "knockout")] for a, b in combinations(genes, 2)]
    return [*single, *pairs[: N_PERTURBATIONS - len(single)]]


def measured(what: str, run: int, n: int, call) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    row = {"what": what, "run": run, "n": n, "cells": N_CELLS, "genes": N_GENES, "peaks": N_PEAKS}
    row |= {"proteins": N_PROTEINS, "wall_seconds": time.perf_counter() - wall}
    row |= {"cpu_seconds": time.process_time() - cpu}
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    append(KEPT, row, "numpy", "scipy")
    print(row, flush=True)


def one_run(path: Path, run: int) -> None:
    mdata = mudata.read_h5mu(path)
    asked = perturbations(mdata)
    measured("screen", run, len(asked), lambda: mm.tl.screen(mdata, asked, progress_bar=False))
    done = mdata.uns["screen"]
    assert done["effects"]["perturbation"].nunique() == N_PERTURBATIONS, done["skipped"]
    ends = [s for s in sorted(mdata.obs["cell_type"].astype(str).unique()) if s.startswith("fate")][:2]
    ranked = lambda: mm.tl.reprogram(mdata, *ends, groupby="cell_type", max_factors=2)  # noqa: E731
    edges = mdata.uns["regulons"]["edges"]
    measured("reprogram", run, edges.loc[edges["source_modality"] == "rna", "source"].nunique(), ranked)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        one_run(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        KEPT.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.h5mu"
            data().write_h5mu(path)
            for number in range(RUNS):
                subprocess.run([sys.executable, __file__, str(path), str(number)], check=True)

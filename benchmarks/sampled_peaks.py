"""What a sample of the peaks in every training step costs in held-out likelihood: ``python sampled_peaks.py [--seeds 0 1 2]``.

The same model, cells, held-out cells and seed, trained once as it is (3,000 of the peaks and the cell's own fragments in a step) and
once with all peaks in every step. Held-out likelihoods are full ones in both. Appends to sampled_peaks.csv and writes sampled_peaks.md.
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from machine import append
from many_peaks import simulate

from mmopt.models import TriVI

HERE = Path(__file__).resolve().parent
RUNS, TABLE = HERE / "sampled_peaks.csv", HERE / "sampled_peaks.md"
# cells, regulators, fates, peaks
SIZE = (2000, 30, 6, 20_000)
TERMS = {"elbo": "bound", "nll_rna": "rna", "nll_atac": "atac", "nll_prot": "prot"}


def fitted(mdata, seed: int, peaks_per_step: int | None) -> dict[str, float]:
    TriVI.setup_mudata(mdata, batch_key="donor")
    model = TriVI(mdata, peaks_per_step=peaks_per_step, random_state=seed)
    start = time.process_time()
    model.train(random_state=seed, progress_bar=False, accelerator="cpu", devices=1)
    seconds = time.process_time() - start
    best = int(model.history["elbo_validation"].iloc[:, 0].argmin())
    found = {name: float(model.history[f"{term}_validation"].iloc[best, 0]) for term, name in TERMS.items()}
    return found | {"epochs": len(model.history["elbo_validation"]), "CPU s": seconds}


def write_table() -> None:
    runs = pd.read_csv(RUNS)
    names = list(TERMS.values())
    cells, peaks = runs[["cells", "peaks"]].iloc[0]
    sampled, full = (runs[runs["sampled"] == s].set_index("seed") for s in (True, False))
    apart = 100 * (sampled[names] / full[names] - 1)
    lines = [
        "# Sampled peaks",
        "",
        f"{runs['date'].max()}; {runs['machine'].iloc[-1]}. Made by sampled_peaks.py: {cells:,} simulated cells × {peaks:,} peaks.",
        "Held-out negative log-likelihood with sampled peaks, less that with all peaks in every step, in per cent of it; lower is better.",
        "CPU time is that of whole fits of the default length, with validation on all peaks after every epoch.",
        "",
        "| seed | " + " | ".join(names) + " | CPU time, share of all peaks' |",
        "|---" * (len(names) + 2) + "|",
    ]
    for seed, row in apart.iterrows():
        share = sampled.loc[seed, "CPU s"] / full.loc[seed, "CPU s"]
        lines.append(f"| {seed} | " + " | ".join(f"{x:+.2f}" for x in row) + f" | {share:.2f} |")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    a = p.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for seed in a.seeds:
        mdata = simulate(*SIZE, seed)
        n_cells, n_peaks = mdata.n_obs, mdata["atac"].n_vars
        for peaks_per_step in (None, n_peaks):
            row = {"seed": seed, "cells": n_cells, "peaks": n_peaks, "sampled": peaks_per_step is None}
            row |= fitted(mdata, seed, peaks_per_step)
            append(RUNS, row, "torch", "scvi-tools")
            print(row, flush=True)
    write_table()


if __name__ == "__main__":
    main()

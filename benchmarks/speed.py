"""CPU time of an epoch of TriVI beside MULTIVI's, in one process, and where a step of TriVI spends it.

    python benchmarks/speed.py [--peaks 20000 100000] [--cells 5000 5000] [--repeats 3]

Random counts of the densities of real data (RNA 10 %, ATAC 4.4 %, protein 80 %), batches of 128 cells, one thread,
process CPU time. The two models take turns; the first epoch of each turn (start-up) is left out. Both hold out a tenth
of the cells and evaluate it once an epoch, which is counted in "whole" and not in "training". Writes speed.md and
speed.csv beside this file.
"""

import argparse
import csv
import datetime
import logging
import os
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from machine import machine
from mudata import MuData

from mmopt import optim
from mmopt.models import TriVI
from mmopt.models.data import MosaicSplitter

HERE = Path(__file__).resolve().parent
DENSITIES = {"rna": 0.10, "atac": 0.044, "prot": 0.80}
OPTIONS = {"accelerator": "cpu", "devices": 1, "early_stopping": False, "batch_size": 128}


def draw(n_cells: int, sizes: dict[str, int], seed: int = 0) -> MuData:
    """Draw counts without structure."""
    rng = np.random.default_rng(seed)
    obs_names = [f"c{i}" for i in range(n_cells)]
    modalities = {}
    for name, n in sizes.items():
        lengths = np.maximum(rng.binomial(n, DENSITIES[name], n_cells), 1)
        indices = np.concatenate([np.sort(rng.choice(n, k, replace=False)) for k in lengths])
        values = 1 + rng.poisson(20 if name == "prot" else 0.5, len(indices))
        x = sp.csr_matrix((values.astype(np.float32), indices, np.r_[0, lengths.cumsum()]), (n_cells, n))
        modalities[name] = AnnData(x)
        modalities[name].obs_names = obs_names
        modalities[name].var_names = [f"{name}{i}" for i in range(n)]
        modalities[name].obs["batch"] = np.where(np.arange(n_cells) % 2, "a", "b")
    mdata = MuData(modalities)
    mdata.obs["batch"] = modalities["rna"].obs["batch"]
    return mdata


class Clock(lightning.Callback):
    """CPU seconds of the training part and of the whole of each epoch."""

    def __init__(self) -> None:
        self.training: list[float] = []
        self.whole: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.process_time()

    def on_validation_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.training.append(time.process_time() - self.start)

    def on_train_epoch_end(self, *_: Any) -> None:
        self.whole.append(time.process_time() - self.start)


def multivi(mdata: MuData) -> Callable[[Clock, int], None]:
    mdata = MuData({m: a.copy() for m, a in mdata.mod.items()})
    mdata.mod["prot"].X = mdata.mod["prot"].X.toarray()
    mdata.obs["batch"] = mdata.mod["rna"].obs["batch"]
    layers = {"rna_layer": "rna", "atac_layer": "atac", "protein_layer": "prot"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=layers)
    n_genes, n_peaks = mdata["rna"].n_vars, mdata["atac"].n_vars
    model = scvi.model.MULTIVI(mdata, n_genes=n_genes, n_regions=n_peaks)

    def train(clock: Clock, epochs: int) -> None:
        model.train(
            epochs, callbacks=[clock], check_val_every_n_epoch=1, enable_progress_bar=False, **OPTIONS
        )

    return train


def trivi(mdata: MuData, **kwargs: Any) -> Callable[[Clock, int], None]:
    TriVI.setup_mudata(mdata, batch_key="batch")
    model = TriVI(mdata, **kwargs)

    def train(clock: Clock, epochs: int) -> None:
        model.train(epochs, callbacks=[clock], progress_bar=False, **OPTIONS)

    return train


def race(mdata: MuData, repeats: int, epochs: int) -> dict[str, dict[str, list[float]]]:
    """CPU seconds of epochs of each model, ``epochs`` of each turn."""
    n_peaks = mdata["atac"].n_vars
    runners = {
        "MULTIVI": multivi(mdata),
        "TriVI": trivi(mdata),
        "TriVI, all peaks in every step": trivi(mdata, peaks_per_step=n_peaks),
    }
    found = {name: {"training": [], "whole": []} for name in runners}
    for _ in range(repeats):
        for name, train in runners.items():
            clock = Clock()
            train(clock, epochs + 1)
            found[name]["training"] += clock.training[1:]
            found[name]["whole"] += clock.whole[1:]
            print(name, clock.whole, flush=True)
    return found


def parts(mdata: MuData, steps: int = 40) -> dict[str, float]:
    """Median CPU milliseconds of the parts of a step."""
    TriVI.setup_mudata(mdata, batch_key="batch")
    model = TriVI(mdata)
    module = model.module.train()
    module.keep_projections(mdata["atac"].n_obs)
    splitter = MosaicSplitter(model.adata_manager, batch_size=OPTIONS["batch_size"])
    optimizer = optim.creator("asgdadam", lr=1e-3)(list(module.parameters()))
    spent: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        start = time.process_time()
        yield
        spent[part].append(1e3 * (time.process_time() - start))

    loader = splitter.train_dataloader()
    for epoch in range(-(-steps // len(loader))):
        loader.sampler.set_epoch(epoch)
        batches = iter(loader)
        for _ in range(len(loader)):
            with timed("loader"):
                batch = next(batches)
            with timed("forward"):
                *_, out = module(batch, loss_kwargs={"kl_weight": 1.0})
            with timed("backward"):
                out.loss.backward()
            with timed("norm of the gradient"):
                torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])
            with timed("optimizer"):
                optimizer.step()
            optimizer.zero_grad()
            z = module.inference(batch)["z"].detach()
            one_hot = torch.eye(2)[batch["batch"]]
            for m in module.modalities:  # each alone, forward and backward
                with timed(f"of these: {m} encoder"):
                    beside = (batch["atac_at"],) if m == "atac" else ()
                    sum(t.sum() for t in module.encoders[m](batch[m], *beside)).backward()
                with timed(f"of these: {m} decoder and likelihood"):
                    decoder = module.decoders[m]
                    state = decoder.lean(z.requires_grad_(), one_hot)
                    decoder.lean_log_likelihood(state, batch[m]).sum().backward()
            optimizer.zero_grad()
    return {part: statistics.median(v[len(v) // 4 :]) for part, v in spent.items()}


def matmul_gflops(rows: int, inner: int, columns: int) -> float:
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    times = []
    for _ in range(11):
        start = time.process_time()
        a @ b
        times.append(time.process_time() - start)
    return 2e-9 * rows * inner * columns / statistics.median(times)


def operations(mdata: MuData, n_hidden: int = 128) -> float:
    """Multiply-adds of the matrix products of a step, forward and backward, as GFLOP."""
    model = TriVI(mdata)
    n, one_in = OPTIONS["batch_size"], model.module.decoders["atac"].one_in
    rank = model.module.decoders["atac"].head.in_features
    dense = 2 * mdata["rna"].n_vars * n_hidden + 3 * mdata["rna"].n_vars * n_hidden
    dense += 5 * mdata["prot"].n_vars * n_hidden + 3 * rank * mdata["atac"].n_vars // one_in
    stored = DENSITIES["atac"] * mdata["atac"].n_vars * 2 * rank
    return 2e-9 * n * (dense + stored)


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cells", type=int, nargs="+", default=[5000, 5000], help="one number for each of --peaks"
    )
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--peaks", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--proteins", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    where = machine("torch", "scvi-tools", "lightning")
    text = [
        f"# CPU time of training\n\n{datetime.date.today()}; {where}; load {os.getloadavg()[0]:.1f}.\n\n{__doc__.split(chr(10) * 2, 2)[2]}"
    ]
    raw, rows, shares = [], [], {}
    for n_peaks, n_cells in zip(arguments.peaks, arguments.cells, strict=True):
        sizes = {"rna": arguments.genes, "atac": n_peaks, "prot": arguments.proteins}
        mdata = draw(n_cells, sizes)
        found = race(mdata, arguments.repeats, arguments.epochs)
        for name, times in found.items():
            raw += [[n_peaks, name, kind, f"{t:.4f}"] for kind, values in times.items() for t in values]
            row = [f"{n_peaks:,}", f"{n_cells:,}", name]
            for kind in ("training", "whole"):
                mine, theirs = (statistics.median(found[k][kind]) for k in (name, "MULTIVI"))
                spread = f"{min(times[kind]):.2f}-{max(times[kind]):.2f}"
                row.append(f"{mine:.2f} ({spread}), {theirs / mine:.1f} ×")
            rows.append(row)
        limit = matmul_gflops(2048, 2048, 2048)
        needed = operations(mdata)
        shares[n_peaks] = parts(mdata) | {
            "matrix products of a step at the machine's limit": 1e3 * needed / limit
        }
        text_limit = f"{limit:.0f} GFLOP/s (square), {matmul_gflops(128, 32, n_peaks):.0f} (128 × 32 × peaks)"
        shares[n_peaks]["limit"] = text_limit
    text.append(
        f"Cells × {arguments.genes:,} genes × peaks × {arguments.proteins} proteins: seconds per "
        "epoch, median (smallest-largest), and how many times MULTIVI takes as long.\n\n"
        + table(["peaks", "cells", "model", "training", "whole"], rows)
    )
    text.append("## Where a step of TriVI goes (CPU milliseconds, median)\n")
    names = list(next(iter(shares.values())))
    body = [
        [part, *(v if isinstance(v := s[part], str) else f"{v:.2f}" for s in shares.values())]
        for part in names
    ]
    text.append(table(["part", *(f"{n:,} peaks" for n in shares)], body))
    (arguments.out / "speed.md").write_text("\n".join(text))
    with (arguments.out / "speed.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["peaks", "model", "part", "cpu_seconds"], *raw])
    print("\n".join(text))


if __name__ == "__main__":
    main()

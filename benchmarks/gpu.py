"""Cells per second and peak memory of TriVI on a GPU beside MULTIVI, same data, same machine, same run.

    python benchmarks/gpu.py [--peaks 20000 200000] [--cells 50000] [--batch-sizes 128 1024]
    python benchmarks/gpu.py --smoke        # tiny, on a CPU: that the script works; no figures

Wall seconds of the training part of an epoch, the device waited for at both ends; the first epoch of each turn (start-up)
is left out, and the models take turns. The share of the ceiling is the time the device would need to move what a step
of TriVI cannot do without (weights, gradients and both moments read and written once by the optimizer; the sparse
counts and their rows of weights; three passes over the dense cells × features matrices) at the measured rate of a
copy, over the time it took. Writes gpu.md beside this file.
"""

import argparse
import datetime
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import scvi
import torch
from mudata import MuData
from speed import DENSITIES, draw, table

from mmopt.models import TriVI

HERE = Path(__file__).resolve().parent


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock(lightning.Callback):
    """Wall seconds of the training part of each epoch."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.steps = device, [], []

    def on_train_epoch_start(self, *_: Any) -> None:
        wait(self.device)
        self.start, self.n = time.perf_counter(), 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.n += 1

    def on_train_epoch_end(self, *_: Any) -> None:
        wait(self.device)
        self.seconds.append(time.perf_counter() - self.start)
        self.steps.append(self.n)


def multivi(mdata: MuData) -> Callable[..., None]:
    mdata = MuData({m: a.copy() for m, a in mdata.mod.items()})
    mdata.mod["prot"].X = mdata.mod["prot"].X.toarray()
    mdata.obs["batch"] = mdata.mod["rna"].obs["batch"]
    layers = {"rna_layer": "rna", "atac_layer": "atac", "protein_layer": "prot"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=layers)
    model = scvi.model.MULTIVI(mdata, n_genes=mdata["rna"].n_vars, n_regions=mdata["atac"].n_vars)
    return lambda epochs, **kwargs: model.train(epochs, enable_progress_bar=False, **kwargs)


def trivi(mdata: MuData, **training: Any) -> tuple[Callable[..., None], TriVI]:
    TriVI.setup_mudata(mdata, batch_key="batch")
    model = TriVI(mdata)
    # all cells are trained on and none evaluated, as in MULTIVI's turn
    return lambda epochs, **kwargs: model.train(epochs, progress_bar=False, **training, **kwargs), model


def copy_rate(device: torch.device, n_values: int) -> float:
    """Bytes moved per second by a copy (read and write)."""
    source = torch.ones(n_values, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        times.append(time.perf_counter() - start)
    return 8 * n_values / statistics.median(times)


def least_bytes(model: TriVI, batch_size: int) -> float:
    """What a step cannot do without moving, in bytes."""
    module = model.module
    sizes = {m: len(module.encoders[m].mean) for m in module.modalities}
    parameters = sum(p.numel() for p in module.parameters())
    atac = module.encoders["atac"]
    stored = batch_size * DENSITIES["atac"] * sizes["atac"]
    dense = batch_size * (
        2 * sizes["rna"] + 4 * sizes["prot"] + sizes["atac"] // module.decoders["atac"].one_in
    )
    return 4 * (8 * parameters + stored * (2 + 4 * (module.n_components or atac.weight.shape[1])) + 3 * dense)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--peaks", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--proteins", type=int, default=100)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs of each turn")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if a.smoke:
        a.cells, a.genes, a.peaks, a.proteins, a.batch_sizes, a.epochs, a.repeats = (
            300,
            60,
            [90],
            8,
            [64],
            1,
            1,
        )
    elif not torch.cuda.is_available():
        parser.error("no GPU was found; --smoke tries the script without one")
    device = torch.device("cpu" if a.smoke else "cuda")
    common = {"accelerator": "cpu" if a.smoke else "gpu", "devices": 1, "early_stopping": False}

    rate = copy_rate(device, 2**18 if a.smoke else 2**28)
    rows = []
    for n_peaks in a.peaks:
        mdata = draw(a.cells, {"rna": a.genes, "atac": n_peaks, "prot": a.proteins})
        plain, model = trivi(mdata)
        runners: dict[str, Callable[..., None]] = {"MULTIVI": multivi(mdata), "TriVI": plain}
        if device.type == "cuda":
            runners["TriVI, bf16-mixed"] = trivi(mdata, precision="bf16-mixed")[0]
        for batch_size in a.batch_sizes:
            speeds: dict[str, list[float]] = {name: [] for name in runners}
            memory, seconds_per_step = {}, {}
            for _ in range(a.repeats):
                for name, train in runners.items():
                    clock = Clock(device)
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats(device)
                    train(a.epochs + 1, batch_size=batch_size, train_size=1.0, callbacks=[clock], **common)
                    speeds[name] += [a.cells / s for s in clock.seconds[1:]]
                    seconds_per_step[name] = clock.seconds[-1] / clock.steps[-1]
                    if device.type == "cuda":
                        memory[name] = torch.cuda.max_memory_allocated(device) / 2**30
            reference = statistics.median(speeds["MULTIVI"])
            for name, found in speeds.items():
                least = least_bytes(model, batch_size) / rate
                rows.append(
                    [
                        f"{n_peaks:,}",
                        str(batch_size),
                        name,
                        f"{statistics.median(found):,.0f} ({min(found):,.0f}-{max(found):,.0f})",
                        f"{statistics.median(found) / reference:.1f} ×",
                        f"{memory[name]:.2f}" if memory else "-",
                        f"{100 * least / seconds_per_step[name]:.0f} %" if name != "MULTIVI" else "-",
                    ]
                )
                print(rows[-1], flush=True)
    name = "CPU (smoke test: no figures)" if a.smoke else torch.cuda.get_device_name(device)
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "scvi-tools", "lightning"))
    header = [
        "peaks",
        "batch",
        "model",
        "cells per second",
        "of MULTIVI",
        "peak memory (GB)",
        "of the ceiling",
    ]
    text = f"""# Training on a GPU

{datetime.date.today()}; {name}, copies at {rate / 1e9:,.0f} GB/s; Python {platform.python_version()}, {packages}.

{a.cells:,} cells × {a.genes:,} genes × peaks × {a.proteins} proteins, random counts; median (smallest-largest).

{table(header, rows)}"""
    (a.out / "gpu.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

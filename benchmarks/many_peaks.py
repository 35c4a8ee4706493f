"""How a model with many peaks should read them: by a first layer that is learned, or by fixed components of the data.

    python benchmarks/many_peaks.py run [--data small diverse wide] [--seeds 0 1]
    python benchmarks/many_peaks.py table

Simulated cells of three donors. What is compared: a learned projection to 32 dimensions before the first hidden layer (as
the model had it at first), 32 components of the TF-IDF, and the rank of the head that gives the peaks back. Scores, all of
held-out cells: negative bound; negative log-likelihood of the modalities from all of them; of RNA from ATAC alone. ``run``
appends to many_peaks.csv, ``table`` writes many_peaks.md from it. What each costs is in speed.md: loads differed here.
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from machine import append
from torch import nn

import mmopt as mm
from mmopt.models import TriVI, module
from mmopt.models.encoders import AtacEncoder, Trunk

HERE = Path(__file__).resolve().parent
RUNS, TABLE = HERE / "many_peaks.csv", HERE / "many_peaks.md"
# true of the rows there are; to be taken out when they are made anew
OLD_NETWORKS = (
    "The networks are as `random_network` drew them until 2026-11-28: where a branch was switched off by its children, its sibling came on late, and half "
    "of the cells ended with two fates' programmes on (four of these six are such networks). All methods got the same cells."
)
# cells, regulators, fates, peaks
DATA = {"small": (1500, 30, 6, 10_000), "diverse": (4000, 60, 14, 10_000), "wide": (1000, 30, 6, 30_000)}
VARIANTS = [("learned", 32), ("components", 32), ("components", 24), ("components", 16)]
SCORES = ["bound", "rna", "atac", "prot", "rna from atac"]


class LearnedProjection(AtacEncoder):
    """What the components replace: a learned layer to 32 dimensions before the first hidden one."""

    def __init__(self, n_features: int, n_hidden: int, n_latent: int, dropout_rate: float):
        super().__init__(n_features, 32, n_latent, dropout_rate)
        self.trunk = nn.Sequential(nn.Linear(32, n_hidden), Trunk(n_hidden, n_latent, dropout_rate))


def simulate(n_cells: int, n_regulators: int, n_fates: int, n_peaks: int, seed: int):
    network = mm.datasets.random_network(n_regulators, n_fates, random_state=seed)
    return mm.datasets.simulate_trimodal(
        n_cells,
        network=network,
        n_genes=1000,
        n_peaks=n_peaks,
        n_proteins=40,
        n_donors=3,
        depth={"rna": 2000, "atac": 0.4 * n_peaks},
        random_state=seed,
    )


def fitted(mdata, encoder: str, rank: int, seed: int) -> TriVI:
    as_it_is = module.PROJECTED_ABOVE, module.ENCODERS["atac"]
    if encoder == "learned":
        module.PROJECTED_ABOVE, module.ENCODERS["atac"] = 10**9, LearnedProjection
    try:
        TriVI.setup_mudata(mdata, batch_key="donor")
        model = TriVI(mdata, atac_rank=rank, random_state=seed)
    finally:
        module.PROJECTED_ABOVE, module.ENCODERS["atac"] = as_it_is
    model.train(random_state=seed, progress_bar=False, accelerator="cpu", devices=1)
    return model


@torch.no_grad()
def scores(model: TriVI) -> dict[str, float]:
    best = int(model.history["elbo_validation"].iloc[:, 0].argmin())
    found = {"bound": float(model.history["elbo_validation"].iloc[best, 0])}
    for m in model.modalities:
        found[m] = float(model.history[f"nll_{m}_validation"].iloc[best, 0])
    net, total = model.module.eval(), 0.0
    for batch in model._make_data_loader(adata=model.adata, indices=model.validation_indices, batch_size=256):
        noise = torch.zeros(len(batch["batch"]), net.n_latent)
        posterior = net.inference(batch, given=("atac",), noise=noise)
        out = net.loss(batch, posterior, net.generative(posterior["z"], batch))
        total += float(out.reconstruction_loss["nll_rna"].sum())
    return found | {"rna from atac": total / len(model.validation_indices)}


def write_table() -> None:
    runs = pd.read_csv(RUNS)
    lines = [
        "# Many peaks",
        "",
        f"{runs['date'].max()}; {runs['machine'].iloc[-1]}. Made by many_peaks.py, which says what is compared. Lower is "
        "better; differences to the learned projection, mean over the seeds (each a network of its own), and their range.",
        "",
        OLD_NETWORKS,
    ]
    for name, some in runs.groupby("data", sort=False):
        n_cells, n_regulators, n_fates, n_peaks = DATA[name]
        lines += [
            "",
            f"## {n_cells:,} cells × {n_peaks:,} peaks, {n_regulators} regulators, {n_fates} fates",
            "",
        ]
        lines += ["| peaks read by | rank of the head | " + " | ".join(SCORES) + " | seeds |"]
        lines += ["|---" * (len(SCORES) + 3) + "|"]
        base = some[some["encoder"] == "learned"].set_index("seed")[SCORES]
        for encoder, rank in VARIANTS:
            mine = some[(some["encoder"] == encoder) & (some["rank"] == rank)].set_index("seed")[SCORES]
            if mine.empty:
                continue
            apart = mine if encoder == "learned" else mine - base.loc[mine.index]
            sign = "" if encoder == "learned" else "+"
            cells = [
                f"{apart[s].mean():{sign}.1f} ({apart[s].min():{sign}.1f} to {apart[s].max():{sign}.1f})"
                for s in SCORES
            ]
            lines.append(f"| {encoder} | {rank} | " + " | ".join(cells) + f" | {len(mine)} |")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["run", "table"])
    p.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    a = p.parse_args()
    if a.what == "table":
        write_table()
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in a.data:
        for seed in a.seeds:
            mdata = simulate(*DATA[name], seed)
            for encoder, rank in VARIANTS:
                start = time.process_time()
                model = fitted(mdata, encoder, rank, seed)
                row = {"data": name, "seed": seed, "encoder": encoder, "rank": rank}
                row |= {"CPU s": time.process_time() - start, **scores(model)}
                append(RUNS, row, "torch", "scvi-tools")
                print(row, flush=True)


if __name__ == "__main__":
    main()

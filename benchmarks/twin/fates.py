"""Fates after knock-out and over-expression of one regulator or two on simulated networks, beside no change; writes ``fates.csv``.

``python fates.py OUT r12 r16 ...``; networks and priors are drawn here, so anyone can repeat it.
"""

import sys
import time
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

import mmopt as mm

NETWORKS = {
    "r12": (12, 3, 2, 1),
    "r16": (16, 4, 2, 2),
    "r20": (20, 5, 5, 3),
    "r14": (14, 4, 2, 7),
    "r18": (18, 4, 4, 9),
    "r15": (15, 3, 2, 12),
    "myeloid": None,
}
TIMES = (0, 2, 4, 6, 9, 12)
LEARNED_FROM = 2000
N_DOUBLES = 12
SHOWN = ["tv", "tv_no_change", "tv_wild_type", "largest_wild_type", "moved", "coverage", "width"]


def course(name: str):
    """One time course of 2,000 cells, and a prior with a fifth of the edges missing and 30 % false ones."""
    spec = NETWORKS[name]
    if spec is None:
        network, seed = mm.datasets.krumsiek2011(), 11
    else:
        network, seed = (
            mm.datasets.random_network(*spec[:2], branching=spec[2], random_state=spec[3]),
            spec[3],
        )
    mdata = mm.datasets.simulate_trimodal(
        LEARNED_FROM,
        network=network,
        n_genes=300,
        n_peaks=700,
        n_proteins=20,
        n_donors=2,
        times=TIMES,
        random_state=seed,
    )
    return mdata, network, noisy_prior(mdata, network.regulators)


def noisy_prior(mdata, regulators: list[str]) -> pd.DataFrame:
    """True edges of a simulated course without a fifth of them, and 30 % false ones."""
    rng = np.random.default_rng(5)
    edges = mdata.uns["truth"]["edges"].rename(columns={"sign": "weight"})[["source", "target", "weight"]]
    true = edges[rng.random(len(edges)) > 0.2]
    genes = mdata["rna"].var_names
    sources = [*regulators, *(g for g in genes if g.startswith("DECOY"))]
    n = int(0.3 * len(edges))
    false = pd.DataFrame(
        {
            "source": rng.choice(sources, n),
            "target": rng.choice(genes, n),
            "weight": rng.choice([-1.0, 1.0], n),
        }
    )
    return pd.concat([true, false]).drop_duplicates(["source", "target"])


def embedded(mdata) -> None:
    """Principal components of every modality side by side, so that no model is part of the measurement."""
    from sklearn.decomposition import PCA

    from mmopt.grn.pooling import log_ratio, per_ten_thousand

    parts = []
    for name in ("rna", "atac", "prot"):
        counts = mdata[name].X.toarray().astype(float)
        logged = log_ratio(counts) if name == "prot" else np.log1p(per_ten_thousand(counts))
        part = PCA(10, random_state=0).fit_transform(logged)
        parts.append(part / np.sqrt((part**2).sum(1).mean()))
    mdata.obsm["X_pca"] = np.hstack(parts)


def run(name: str, time_key: str | None = None) -> pd.DataFrame:
    """One row per intervention; with ``time_key`` the network is fitted to the pace of the course too."""
    mdata, network, prior = course(name)
    embedded(mdata)
    begin = time.process_time()
    mm.tl.regulons(mdata, prior=prior, use_rep="X_pca", time_key=time_key)
    mm.tl.twin(mdata, time_key="time", use_rep="X_pca", units="days", progress_bar=False)
    mm.tl.simulate(mdata, start={"time": 0}, terminal_key="cell_type", progress_bar=False)
    wild = mdata.uns["simulate"]["fate"].set_index("label")["p"]
    print(f"{name}: to the first simulation {time.process_time() - begin:.0f} s of CPU time", flush=True)
    rows = []
    for steps in [*singles(network.regulators), *doubles(network.regulators)]:
        try:
            rows.append({"network": name, **scored(mdata, steps)})
        except ValueError as error:
            print(name, steps, str(error)[:90])
    fate = mdata.uns["simulate"]["fate"]
    return pd.DataFrame(rows).assign(
        flow_gap=0.5 * float(np.abs(fate["flow"] - fate["wild_type"]).sum()), wild=wild.sum()
    )


def singles(regulators: list[str]) -> list[list[tuple[str, str]]]:
    return [[(gene, mode)] for gene in regulators for mode in ("knockout", "overexpress")]


def doubles(regulators: list[str]) -> list[list[tuple[str, str]]]:
    """A dozen pairs drawn at random: both knocked out, both over-expressed, one of each, in turn."""
    pairs = list(combinations(regulators, 2))
    drawn = np.random.default_rng(17).permutation(len(pairs))[:N_DOUBLES]
    modes = [("knockout", "knockout"), ("overexpress", "overexpress"), ("knockout", "overexpress")]
    return [list(zip(pairs[k], modes[i % 3], strict=True)) for i, k in enumerate(drawn)]


def scored(mdata, steps: list[tuple[str, str]]) -> dict:
    """Simulate interventions that last, and compare the shares of the fates with the true ones."""
    truth = mm.datasets.truth_fates(mdata, steps).set_index("fate")
    named = [f for f in truth.index if f != "none"]
    mm.tl.simulate(
        mdata,
        start={"time": 0},
        interventions=[(gene, mode, 0, 12) for gene, mode in steps],
        terminal_key="cell_type",
        progress_bar=False,
    )
    fate = mdata.uns["simulate"]["fate"].set_index("label")

    def vector(column):
        known = fate[column].reindex(named).fillna(0.0)
        return np.append(known.to_numpy(), 1 - known.sum())

    before, after = truth.loc[[*named, "none"], ["wild_type", "perturbed"]].to_numpy().T
    inside = [
        fate.loc[f, "lo"] <= after[i] <= fate.loc[f, "hi"] for i, f in enumerate(named) if f in fate.index
    ]
    return {
        "gene": "+".join(gene for gene, _ in steps),
        "mode": "+".join(mode for _, mode in steps),
        "tv": 0.5 * np.abs(vector("p") - after).sum(),
        "tv_no_change": 0.5 * np.abs(before - after).sum(),
        "tv_no_change_as_measured": 0.5 * np.abs(vector("wild_type") - after).sum(),
        "tv_wild_type": 0.5 * np.abs(vector("wild_type") - before).sum(),
        "largest_wild_type": np.abs(vector("wild_type") - before).max(),
        "moved": mdata.uns["simulate"]["effect"]["total_variation"],
        "factor": mdata.uns["simulate"]["effect"]["factor"],
        "coverage": np.mean(inside),
        "width": float((fate["hi"] - fate["lo"]).iloc[:-1].mean()),
    }


def collect(run: Callable[[str], pd.DataFrame], show: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Run the networks that the command line names, append to the file it names, and print what is shown of each."""
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1])
    for name in sys.argv[2:] or NETWORKS:
        begin = time.process_time()
        found = run(name)
        old = pd.read_csv(out) if out.exists() else pd.DataFrame()
        pd.concat([old, found]).round(4).to_csv(out, index=False)
        spent = time.process_time() - begin
        print(f"{name}, {spent:.0f} s of CPU time\n{show(found).round(3).to_string()}", flush=True)


if __name__ == "__main__":
    collect(run, lambda found: found.groupby("mode")[SHOWN].mean())

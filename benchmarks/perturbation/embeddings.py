"""Does the answer hang on the fit in whose embedding cells are pooled? ``python embeddings.py [e f ...]`` writes ``embeddings.csv``.

The same cells and prior, knock-outs and over-expressions of ``accuracy.py`` that last, method ``"network"``; cells are pooled in
the embeddings of three fits of TriVI that differ in their seed, and in principal components. Beside the scores of each: how far
two of them lie apart on the genes that truly change, as a share of the true change, and how often the estimate with one lies
inside of the 90 % interval with the other.
"""

import sys
import warnings
from itertools import permutations
from pathlib import Path

import networks
import numpy as np
import pandas as pd
from accuracy import ALL, CHANGED, chosen, embedded, predicted, renew, scores, truth

import mmopt as mm

SEEDS = (0, 1, 2)


def fitted(mdata) -> list[str]:
    """Slots of the embeddings, principal components last."""
    embedded(mdata)
    for seed in SEEDS:
        key = f"X_seed{seed}"
        mm.tl.integrate(mdata, key_added=key, random_state=seed, progress_bar=False)
    return [*(f"X_seed{seed}" for seed in SEEDS), "X_pca"]


def apart(
    first: list[pd.DataFrame], second: list[pd.DataFrame], true: list[pd.DataFrame]
) -> dict[str, float]:
    """Distance of the first's estimates from the second's, and their share inside of the second's intervals."""
    gaps, inside = [], []
    for one, other, t in zip(first, second, true, strict=True):
        changed = t.index[(t["delta"].abs() > np.maximum(4 * t["se"], CHANGED))]
        changed = changed.difference(one.index[one["direct"].astype(bool)])
        one, other, t = (table.loc[changed] for table in (one, other, t))
        gaps.append((one["delta"] - other["delta"]).abs().sum() / max(t["delta"].abs().sum(), 1e-9))
        inside.append(one["delta"].between(other["q05"], other["q95"]).mean())
    return {"gap": np.nanmean(gaps), "inside": np.nanmean(inside)}


def run(name: str) -> pd.DataFrame:
    """One row per kind of perturbation and embedding, and one per kind and pair of embeddings."""
    setting, spec, how = ALL[name]
    mdata, prior, regulators, _ = networks.data(spec, **how)
    perturbations = [(k, genes) for k, genes in chosen(regulators, spec[-1]) if len(genes) == 1]
    true = {p: truth(mdata, *p, "chronic") for p in perturbations}
    found = {}
    for key in fitted(mdata):
        mm.tl.regulons(mdata, prior=prior, use_rep=key)
        found[key] = {p: predicted(mdata, *p, "network") for p in perturbations}
    rows = []
    for kind in ("knockout", "overexpress"):
        some = [p for p in perturbations if p[0] == kind]
        said = {key: [tables[p] for p in some] for key, tables in found.items()}
        t = [true[p] for p in some]
        row = {"network": name, "genes": setting, "kind": kind}
        rows += [row | {"embedding": key} | scores(tables, t) for key, tables in said.items()]
        rows += [
            row | {"embedding": one, "beside": other} | apart(said[one], said[other], t)
            for one, other in permutations(said, 2)
        ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    shown = ["pearson", "mae_ratio", "coverage", "gap", "inside"]
    for name in sys.argv[1:] or ALL:
        found = run(name)
        renew(Path(__file__).with_suffix(".csv"), name, found)
        print(found.groupby(["kind", "embedding"])[shown].mean().round(3).to_string(), flush=True)

"""Coverage of conformal intervals, each perturbation held out once, on simulated screens.

``python conformal.py`` writes conformal.csv: one row for each knock-out of a screen.
"""

import datetime
import sys
import warnings
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd

import mmopt as mm

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import machine

# seed of the network, regulators (all are knocked out)
SCREENS = ((1, 11), (2, 16), (3, 12))
_CONTROLS, _OTHERS, _EACH = 500, 150, 60


def screened(seed: int, n_regulators: int) -> mudata.MuData:
    """Control cells and 60 cells of each knock-out, which are no copies of the control cells; a network fitted to these."""
    settings = {
        "network": mm.datasets.random_network(n_regulators, 3, branching=2, random_state=seed),
        "n_genes": 120,
        "n_peaks": 200,
        "n_proteins": 10,
        "random_state": 0,
    }
    n = _CONTROLS + _OTHERS
    order, rng = np.random.default_rng(0).permutation(n), np.random.default_rng([0, 1])
    wild = mm.datasets.simulate_trimodal(n, **settings)
    edges = wild.uns["truth"]["edges"]
    cells = {"control": wild[np.sort(order[:_CONTROLS])].copy()}
    for gene in sorted(set(edges["source"])):
        moved = mm.datasets.simulate_trimodal(n, interventions=gene, **settings)
        cells[gene] = moved[np.sort(rng.permutation(order[_CONTROLS:])[:_EACH])].copy()
    parts = {
        name: anndata.concat({k: c[name] for k, c in cells.items()}, label="perturbation", index_unique="-")
        for name in ("rna", "atac", "prot")
    }
    mdata = mudata.MuData(parts)
    mdata.obs["perturbation"] = parts["rna"].obs["perturbation"].astype(str)
    kept = edges[np.random.default_rng(0).random(len(edges)) > 0.2].rename(columns={"sign": "weight"})
    mm.tl.regulons(cells["control"], prior=kept, n_boot=8)
    mdata.uns["regulons"] = cells["control"].uns["regulons"]
    return mdata


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = []
    for seed, n_regulators in SCREENS:
        mdata = screened(seed, n_regulators)
        mm.tl.screen(mdata, interval="conformal", progress_bar=False)
        rows.append(mdata.uns["screen"]["calibration"].assign(seed=seed, knockouts=n_regulators))
    found = pd.concat(rows).assign(date=datetime.date.today().isoformat(), machine=machine())
    found.round(4).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    means = found.groupby("seed").mean(numeric_only=True)
    print(means.round(3).to_string(index=False))

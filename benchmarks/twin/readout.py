"""RNA, chromatin and protein after an intervention, beside the simulator's truth; writes ``readout.csv``.

``python readout.py OUT r15 ...``; networks of ``fates.py``. Clamped from the first time point on; read in the cells of the last
time point (``end``) and in all cells, each at its own time (``all``).
"""

import numpy as np
import pandas as pd
from fates import TIMES, collect, course, embedded

import mmopt as mm

MOST, CHANGED = 5, 0.1
KEYS = ["modality", "feature"]


def scores(found: pd.DataFrame, truth: pd.DataFrame, direct: set) -> list[dict]:
    """One row per modality; what the intervention sets itself is left out."""
    both = found.set_index(KEYS).join(truth.set_index(KEYS)["delta"].rename("true"), how="inner")
    both = both[[name not in direct for _, name in both.index]]
    rows = []
    for modality, part in both.groupby(level=0, observed=True):
        true, delta = part["true"], part["delta"]
        changed = (true.abs() > CHANGED).to_numpy()
        inside = true.between(part["lo"], part["hi"]).to_numpy()
        moving = delta.std() > 1e-9 and true.std() > 1e-9
        rows.append(
            {
                "modality": modality,
                "n": len(part),
                "n_changed": int(changed.sum()),
                "r": np.corrcoef(delta, true)[0, 1] if moving else 0.0,
                "mae": (delta - true).abs().mean(),
                "mae_no_change": true.abs().mean(),
                "mae_changed": (delta - true).abs()[changed].mean(),
                "mae_changed_no_change": true.abs()[changed].mean(),
                "coverage": inside.mean(),
                "coverage_changed": inside[changed].mean() if changed.any() else np.nan,
                "width": (part["hi"] - part["lo"]).mean(),
                "width_changed": (part["hi"] - part["lo"])[changed].mean(),
            }
        )
    return rows


def simulated(mdata, gene: str, mode: str) -> pd.DataFrame:
    """Change at the end that the twin gives, and its 90 % interval."""
    mm.tl.simulate(
        mdata, start={"time": TIMES[0]}, interventions=[(gene, mode)], n_times=2, progress_bar=False
    )
    table = mdata.uns["simulate"]["features"]
    end = table[table["time"] == TIMES[-1]]
    arms = {arm: part.set_index(KEYS) for arm, part in end.groupby("arm", observed=True)}
    out = arms["perturbed"][["mean", "lo", "hi"]].sub(arms["wild_type"]["mean"], axis=0)
    return out.rename(columns={"mean": "delta"}).reset_index()


def perturbed(mdata, gene: str, mode: str, cells, method: str) -> tuple[pd.DataFrame, set]:
    """Effects of :func:`mmopt.tl.perturb`, and the features that were set."""
    mm.tl.perturb(mdata, gene, mode=mode, cells=cells, method=method, n_null=5, key_added="p")
    effects = mdata.uns["perturb"]["p"]["effects"]
    return effects.rename(columns={"q05": "lo", "q95": "hi"}), set(effects.loc[effects["direct"], "feature"])


def run(name: str, most: int = MOST) -> pd.DataFrame:
    """One row per intervention, cells, method and modality."""
    mdata, network, prior = course(name)
    embedded(mdata)
    mm.tl.regulons(mdata, prior=prior, use_rep="X_pca")
    mm.tl.twin(mdata, time_key="time", use_rep="X_pca", units="days", progress_bar=False)
    last = (mdata.obs["time"] == TIMES[-1]).to_numpy()
    among = {"end": last, "all": np.ones(mdata.n_obs, dtype=bool)}
    genes = list(network.regulators)
    genes = [genes[i] for i in np.unique(np.linspace(0, len(genes) - 1, min(most, len(genes))).astype(int))]
    rows = []
    for gene in genes:
        for mode in ("knockout", "overexpress"):
            for where, cells in among.items():
                truth = mm.datasets.truth_effect(mdata[cells].copy(), (gene, mode), groupby=None)
                try:
                    found = {m: perturbed(mdata, gene, mode, cells, m) for m in ("network", "twin")}
                except ValueError as error:
                    print(name, gene, mode, str(error)[:90])
                    continue
                direct = found["network"][1]
                tables = {f"perturb, {m}": table for m, (table, _) in found.items()}
                if where == "end":
                    tables["simulate"] = simulated(mdata, gene, mode)
                for method, table in tables.items():
                    said = {"network": name, "gene": gene, "mode": mode, "cells": where, "method": method}
                    rows += [said | row for row in scores(table, truth, direct)]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    shown = ["r", "mae", "mae_no_change", "coverage", "coverage_changed", "width"]
    collect(run, lambda found: found.groupby(["cells", "method", "mode", "modality"])[shown].mean())

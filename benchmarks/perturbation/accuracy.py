"""Predicted knock-outs, over-expressions and doubles beside the simulator's truth; ``python accuracy.py [e f ...]``.

RNA of all cells, each at its own time; the networks of ``REPORT``, ``CONSTANT`` and ``BACKGROUND``, on which nothing was chosen. Both methods of
:func:`mmopt.tl.perturb`, the mean of the two, and no change. ``acute``: clamped in the cell as it is, read a third of the
course later; ``chronic``: clamped from the first time point. A prediction is the same for both, as one snapshot does not know
when a clamp began (the twin means the second). Writes ``accuracy.csv`` after each network.
"""

import datetime
import sys
import warnings
from itertools import combinations
from pathlib import Path

import networks
import numpy as np
import pandas as pd

import mmopt as mm

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "twin"))
from fates import embedded
from machine import machine

HERE = Path(__file__).parent
ALL = {
    name: (setting, spec, how)
    for setting, (some, how) in networks.SETTINGS.items()
    for name, spec in some.items()
}
CHANGED, FEWEST = 0.1, 5
# kind: number of perturbations, regimes of the truth
KINDS = {
    "knockout": (8, ("acute", "chronic")),
    "overexpress": (5, ("acute", "chronic")),
    "double knockout": (6, ("chronic",)),
}


def chosen(regulators: list, seed: int) -> list[tuple[str, tuple]]:
    """Kind and genes of every perturbation."""
    rng = np.random.default_rng([seed, 7])
    some = sorted(rng.permutation(regulators)[: KINDS["knockout"][0]])
    pairs = list(combinations(some, 2))
    drawn = sorted(rng.permutation(len(pairs))[: KINDS["double knockout"][0]])
    return [
        *(("knockout", (g,)) for g in some),
        *(("overexpress", (g,)) for g in some[: KINDS["overexpress"][0]]),
        *(("double knockout", pairs[i]) for i in drawn),
    ]


def truth(mdata, kind: str, genes: tuple, regime: str) -> pd.DataFrame:
    pair = [(g, kind.split()[-1]) for g in genes]
    table = mm.datasets.truth_effect(mdata, pair, regime=regime, groupby=None)
    return table[table["modality"] == "rna"].set_index("feature")[["delta", "se"]]


def predicted(mdata, kind: str, genes: tuple, method: str) -> pd.DataFrame:
    """Effects on RNA with their limits; what the intervention sets itself is marked."""
    mm.tl.perturb(mdata, list(genes), mode=kind.split()[-1], n_null=5, method=method, key_added="p")
    effects = mdata.uns["perturb"]["p"]["effects"]
    return effects[effects["modality"] == "rna"].set_index("feature")[["delta", "q05", "q95", "direct"]]


def methods(mdata, kind: str, genes: tuple) -> dict[str, pd.DataFrame]:
    found = {method: predicted(mdata, kind, genes, method) for method in ("network", "twin")}
    first, second = found.values()
    mean = ((first[["delta"]] + second[["delta"]]) / 2).assign(q05=np.nan, q95=np.nan)
    found["mean of both"] = mean.assign(direct=first["direct"])
    return found | {"no change": found["mean of both"].assign(delta=0.0)}


def size(effects: pd.DataFrame) -> float:
    return effects.loc[~effects["direct"], "delta"].abs().mean()


def scores(found: list[pd.DataFrame], true: list[pd.DataFrame]) -> dict[str, float]:
    """Mean over perturbations of one kind that change something."""
    delta, se = (
        pd.DataFrame([t[c].to_numpy() for t in true], columns=true[0].index) for c in ("delta", "se")
    )
    of = {
        c: np.stack([m[c].reindex(delta.columns).to_numpy() for m in found])
        for c in ("delta", "q05", "q95", "direct")
    }
    limits = {} if np.isnan(of["q05"]).any() else {"low": of["q05"], "high": of["q95"]}
    table = mm.metrics.perturbation_scores(
        of["delta"],
        delta,
        changed=delta.abs() > np.maximum(4 * se, CHANGED),
        keep=~of["direct"].astype(bool),
        **limits,
    )
    live = table[table["n_changed"] >= FEWEST]
    return {"n": len(live)} | live.mean().drop(["n_changed", "pearson_vs_mean"]).to_dict()


def run(name: str) -> pd.DataFrame:
    """One row per kind of perturbation, regime and method."""
    setting, spec, how = ALL[name]
    mdata, prior, regulators, decoys = networks.data(spec, **how)
    embedded(mdata)
    mm.tl.regulons(mdata, prior=prior, use_rep="X_pca")
    mm.tl.twin(mdata, time_key="time", use_rep="X_pca", units="days", progress_bar=False)
    perturbations = chosen(regulators, spec[-1])
    found = [methods(mdata, kind, genes) for kind, genes in perturbations]
    blind = [methods(mdata, "knockout", (d,)) for d in decoys]
    rows = []
    for kind, (_, regimes) in KINDS.items():
        mine = [f for f, (k, _) in zip(found, perturbations, strict=True) if k == kind]
        for regime in regimes:
            true = [truth(mdata, k, genes, regime) for k, genes in perturbations if k == kind]
            for method in mine[0]:
                row = {"network": name, "genes": setting, "kind": kind, "regime": regime, "method": method}
                row |= scores([m[method] for m in mine], true)
                if kind == "knockout" and method != "no change":
                    of_decoys, of_others = (
                        np.median([size(m[method]) for m in some]) for some in (blind, mine)
                    )
                    row["decoys"] = of_decoys / of_others
                rows.append(row)
    return pd.DataFrame(rows)


def renew(kept: Path, name: str, found: pd.DataFrame) -> None:
    """Put the rows of a network in the place of those that are kept."""
    table = found.assign(date=str(datetime.date.today()), machine=machine("torch"))
    if kept.exists():
        before = pd.read_csv(kept)
        table = pd.concat([before[before["network"] != name], table])
    table.round(3).to_csv(kept, index=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or ALL:
        found = run(name)
        renew(HERE / "accuracy.csv", name, found)
        print(found.round(2).to_string(), flush=True)

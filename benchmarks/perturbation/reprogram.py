"""Regret of reprogramming on simulated networks: ``python reprogram.py [e f g]`` writes reprogram.csv and searches.csv.

Truth: a population of the same network is simulated again under each intervention for 12 days, and the cells of each group
that end in each fate are counted: every single, 150 pairs drawn at random, and every pair that was chosen. The best is the best of
all of these; decoys do nothing. Some ten minutes per network.
"""

import sys
import warnings
from itertools import combinations
from pathlib import Path

import networks
import numpy as np
import pandas as pd

import mmopt as mm

HERE = Path(__file__).parent
_CELLS, _PAIRS, _DAYS, _GAIN, _LEAST = 500, 150, 12.0, 0.2, 40


class Truth:
    """What each set of interventions does to the cells of each group, simulated once when it is first asked for."""

    def __init__(self, spec: tuple) -> None:
        n_regulators, n_fates, branching, _, _, seed = spec
        network = mm.datasets.random_network(n_regulators, n_fates, branching=branching, random_state=seed)
        self.cells = mm.datasets.simulate_trimodal(
            _CELLS,
            network=network,
            n_genes=n_regulators + 10,
            n_peaks=n_regulators + 10,
            n_proteins=2,
            n_decoys=2,
            times=networks.TIMES,
            random_state=seed,
        )
        counted = self.cells.obs["cell_type"].value_counts()
        self.groups = sorted(counted.index[counted >= _LEAST])
        self.reached: dict[frozenset, pd.DataFrame] = {}

    def __call__(self, chosen: frozenset) -> pd.DataFrame:
        """Share of each group's cells that end in each fate."""
        if chosen not in self.reached:
            asked = sorted(chosen) or [("TF01", "knockout")]  # its table has the cells left alone beside it
            table = mm.datasets.truth_fates(
                self.cells, asked, regime="acute", horizon=_DAYS, groupby="cell_type"
            )
            after = "perturbed" if chosen else "wild_type"
            self.reached[chosen] = table.pivot(index="group", columns="fate", values=after)
        return self.reached[chosen]


def drawn(regulators: list) -> list[frozenset]:
    """Every single, and pairs at random."""
    singles = [(r, mode) for r in regulators for mode in ("knockout", "overexpress")]
    pairs = [p for p in combinations(singles, 2) if p[0][0] != p[1][0]]
    some = sorted(np.random.default_rng(0).permutation(len(pairs))[:_PAIRS])
    return [frozenset(s) for s in [*((s,) for s in singles), *(pairs[i] for i in some)]]


def first(ranking: pd.DataFrame, regulators: list) -> frozenset:
    """First set of a ranking, without its decoys."""
    pairs = zip(ranking["factors"].iloc[0].split("+"), ranking["modes"].iloc[0].split("+"), strict=True)
    return frozenset(p for p in pairs if p[0] in regulators)


def regrets(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per task and number of factors; and the search tables of the package."""
    spec = (networks.DEVELOPMENT | networks.REPORT)[name]
    mdata, prior, regulators, _ = networks.data(spec)
    truth, sets = Truth(spec), drawn(regulators)
    for chosen in [frozenset(), *sets]:
        truth(chosen)
    mm.tl.regulons(mdata, prior=prior)
    present = set(mdata.obs["cell_type"])
    choices, searches = [], []
    for source in truth.groups:
        for target in [f for f in truth(frozenset()).columns if f in present and f != source]:
            if max(_share(truth, k, source, target, of=frozenset()) for k in sets) < _GAIN:
                continue
            ranking = mm.tl.reprogram(mdata, source, target, groupby="cell_type")
            task = {"network": name, "source": source, "target": target}
            searches.append(mdata.uns["reprogram"]["search"].assign(**task))
            for size in (1, 2):
                mine = ranking[ranking["n_factors"] <= size]
                by_marker = mine.sort_values("marker_difference", ascending=False)
                chosen = {
                    "search": first(mine, regulators),
                    "marker_difference": first(by_marker, regulators),
                }
                for each in chosen.values():
                    truth(each)
                significant = mdata.uns["reprogram"]["significant"]
                choices.append((task | {"max_factors": size}, chosen, significant))
    rows = []
    for task, chosen, significant in choices:
        ends, size = (task["source"], task["target"]), task["max_factors"]
        known = [_share(truth, k, *ends) for k in truth.reached if 0 < len(k) <= size]
        at_random = [_share(truth, k, *ends) for k in sets if len(k) <= size]
        row = task | {method: max(known) - _share(truth, k, *ends) for method, k in chosen.items()}
        rows.append(row | {"random": max(known) - np.mean(at_random), "significant": significant})
    return pd.DataFrame(rows), pd.concat(searches, ignore_index=True) if searches else pd.DataFrame()


def _share(truth: Truth, chosen: frozenset, source: str, target: str, of: frozenset | None = None) -> float:
    """Share of the source's cells that a set takes to the target, beyond that of another set."""
    share = float(truth(chosen).loc[source].get(target, 0.0))
    return share if of is None else share - _share(truth, of, source, target)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tables = [regrets(name) for name in sys.argv[1:] or ("e", "f", "g")]
    regret, searches = (pd.concat(t, ignore_index=True) for t in zip(*tables, strict=True))
    regret.round(4).to_csv(HERE / "reprogram.csv", index=False)
    searches.round(4).to_csv(HERE / "searches.csv", index=False)
    by = regret.groupby(["network", "max_factors"])[["search", "marker_difference", "random"]]
    print(by.mean().round(3).to_string())
    print(searches.groupby("method")[["regret", "best_objective"]].mean().round(4).to_string())

"""Regret of reprogramming on simulated networks: ``python reprogram.py [e f g]`` writes reprogram.csv and searches.csv.

Truth: a population of the same network is simulated again under each intervention for 12 days, and the cells of each group
that end in each fate are counted; singles are complete, of the pairs 150 are drawn. A predicted set that was not simulated is
passed over; decoys do nothing. Some ten minutes per network.
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


def truth(spec: tuple, regulators: list, n_pairs: int = _PAIRS, n_cells: int = _CELLS) -> tuple[dict, list]:
    """Share of each group's cells that reach each fate under each set, and the groups with enough cells."""
    n_regulators, n_fates, branching, _, _, seed = spec
    network = mm.datasets.random_network(n_regulators, n_fates, branching=branching, random_state=seed)
    small = mm.datasets.simulate_trimodal(
        n_cells,
        network=network,
        n_genes=n_regulators + 10,
        n_peaks=n_regulators + 10,
        n_proteins=2,
        n_decoys=2,
        times=networks.TIMES,
        random_state=seed,
    )
    counted = small.obs["cell_type"].value_counts()
    singles = [(r, mode) for r in regulators for mode in ("knockout", "overexpress")]
    pairs = [p for p in combinations(singles, 2) if p[0][0] != p[1][0]]
    drawn = sorted(np.random.default_rng(0).permutation(len(pairs))[:n_pairs])
    reached = {}
    for chosen in [*((s,) for s in singles), *(pairs[i] for i in drawn)]:
        table = mm.datasets.truth_fates(
            small, list(chosen), regime="acute", horizon=_DAYS, groupby="cell_type"
        )
        reached[frozenset(chosen)] = table.pivot(index="group", columns="fate", values="perturbed")
        if frozenset() not in reached:
            reached[frozenset()] = table.pivot(index="group", columns="fate", values="wild_type")
    return reached, sorted(counted.index[counted >= _LEAST])


def top_choice(ranking: pd.DataFrame, reached: dict, regulators: list) -> frozenset:
    """First set of a ranking whose outcome is known."""
    for factors, modes in zip(ranking["factors"], ranking["modes"], strict=True):
        pairs = zip(factors.split("+"), modes.split("+"), strict=True)
        chosen = frozenset(p for p in pairs if p[0] in regulators)
        if chosen in reached:
            return chosen
    return frozenset()


def regrets(name: str, n_pairs: int = _PAIRS, n_cells: int = _CELLS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per task and number of factors; and the search tables of the package."""
    spec = (networks.DEVELOPMENT | networks.REPORT)[name]
    mdata, prior, regulators, _ = networks.data(spec)
    reached, groups = truth(spec, regulators, n_pairs, n_cells)
    mm.tl.regulons(mdata, prior=prior)
    present = set(mdata.obs["cell_type"])
    rows, searches = [], []
    for source in groups:
        for target in [f for f in reached[frozenset()].columns if f in present and f != source]:
            value = {k: float(t.loc[source].get(target, 0.0)) for k, t in reached.items()}
            if max(value.values()) - value[frozenset()] < _GAIN:
                continue
            ranking = mm.tl.reprogram(mdata, source, target, groupby="cell_type")
            searches.append(
                mdata.uns["reprogram"]["search"].assign(network=name, source=source, target=target)
            )
            for size in (1, 2):
                known = {k: v for k, v in value.items() if 0 < len(k) <= size}
                mine = ranking[ranking["n_factors"] <= size]
                by_marker = mine.sort_values("marker_difference", ascending=False)
                best = max(known.values())
                row = {"network": name, "source": source, "target": target, "max_factors": size}
                for method, table in (("search", mine), ("marker_difference", by_marker)):
                    row[method] = best - value[top_choice(table, reached, regulators)]
                row["random"] = best - np.mean(list(known.values()))
                rows.append(row | {"significant": mdata.uns["reprogram"]["significant"]})
    return pd.DataFrame(rows), pd.concat(searches, ignore_index=True) if searches else pd.DataFrame()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tables = [regrets(name) for name in sys.argv[1:] or ("e", "f", "g")]
    regret, searches = (pd.concat(t, ignore_index=True) for t in zip(*tables, strict=True))
    regret.round(4).to_csv(HERE / "reprogram.csv", index=False)
    searches.round(4).to_csv(HERE / "searches.csv", index=False)
    by = regret.groupby(["network", "max_factors"])[["search", "marker_difference", "random"]]
    print(by.mean().round(3).to_string())
    print(searches.groupby("method")[["regret", "best_objective"]].mean().round(4).to_string())

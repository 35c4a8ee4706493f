"""Towards which states perturbed cells move, beside the simulator's truth; ``python states.py [e f ...]`` writes ``states.csv``.

The lasting knock-outs and over-expressions of ``accuracy.py`` on the networks of ``REPORT``, method ``"network"``: the table ``states``
of :func:`mmopt.tl.perturb` by cell type, and the same cells of the simulator, each read when it was sampled, with and without the
gene. Beside the fitted network the same with its targets shuffled. True labels are hard and predicted shares are not: a cell
can only leave the state it has, so that of each group it is scored where its cells go, and of all cells which states grow.
"""

import sys
import warnings
from pathlib import Path

import networks
import numpy as np
import pandas as pd
from accuracy import ALL, chosen, embedded, renew
from controls import shuffle_targets

import mmopt as mm
from mmopt.datasets.dynamics import TRANSCRIPT
from mmopt.datasets.interventions import parse
from mmopt.datasets.storage import restore

# a share of all cells that changes by more, and of the cells of a group that are lost to others
CHANGED, LOST = 0.05, 0.1


class Truth:
    """Shares of the simulator's cells in each state, all cells first, then those of each cell type."""

    def __init__(self, mdata, states: list[str]):
        self.system, self.cells = restore(mdata)
        self.states, labels = states, mdata.obs["cell_type"].astype(str).to_numpy()
        self.groups = [np.ones(len(labels), dtype=bool), *(labels == s for s in states)]
        self.before = self._shares(self.system.wild_type[0])

    def change(self, gene: str, mode: str) -> np.ndarray:
        """``(n_groups, n_states)``."""
        clamps = parse(gene, self.system.layout.genes.index, mode=mode)
        return self._shares(self.system.read([self.system.time], clamps)[0]) - self.before

    def _shares(self, snapshot) -> np.ndarray:
        there = self.system.network.stage(snapshot.levels[TRANSCRIPT])[self.cells]
        return np.array([[(there[rows] == s).mean() for s in self.states] for rows in self.groups])


def predicted(mdata, gene: str, mode: str, states: list[str]) -> dict[str, np.ndarray]:
    mm.tl.perturb(mdata, gene, mode=mode, groupby="cell_type", n_null=5, key_added="p")
    table = mdata.uns["perturb"]["p"]["states"].set_index(["group", "state"])
    shape = len(states) + 1, len(states)
    order = pd.MultiIndex.from_product([["all", *states], states])
    return {c: table.loc[order, c].to_numpy().reshape(shape) for c in ("before", "delta", "q05", "q95")}


def scores(found: list[dict[str, np.ndarray]], true: list[np.ndarray]) -> dict[str, float]:
    """Scores over the perturbations of one kind."""
    delta, q05, q95 = (np.stack([f[c][0] for f in found]) for c in ("delta", "q05", "q95"))
    everyone = np.stack([t[0] for t in true])
    changed = np.abs(everyone) > CHANGED
    hits, nearest, n_states = [], [], delta.shape[1]
    for each, truth in zip(found, true, strict=True):
        for own in range(n_states):
            if truth[own + 1, own] > -LOST:
                continue
            others = np.delete(np.arange(n_states), own)
            goal = truth[own + 1, others].argmax()
            hits.append(each["delta"][own + 1, others].argmax() == goal)
            nearest.append(each["before"][own + 1, others].argmax() == goal)
    return {
        "perturbations": len(found),
        "n_changed": int(changed.sum()),
        "sign": (np.sign(delta) == np.sign(everyone))[changed].mean(),
        "pearson": np.corrcoef(delta.ravel(), everyone.ravel())[0, 1],
        "inside": ((everyone >= q05) & (everyone <= q95))[changed].mean(),
        "n_left": len(hits),
        "goal": np.mean(hits),
        "goal_nearest": np.mean(nearest),
        "goal_chance": 1 / (n_states - 1),
    }


def run(name: str) -> pd.DataFrame:
    """One row per kind of perturbation, with the network and with shuffled targets."""
    setting, spec, how = ALL[name]
    mdata, prior, regulators, _ = networks.data(spec, **how)
    embedded(mdata)
    states = sorted(mdata.obs["cell_type"].astype(str).unique())
    truth = Truth(mdata, states)
    jobs = [(kind, genes[0]) for kind, genes in chosen(regulators, spec[-1]) if len(genes) == 1]
    true = [truth.change(gene, mode) for mode, gene in jobs]
    mm.tl.regulons(mdata, prior=prior, use_rep="X_pca")
    rows = []
    for fit in ("prior", "targets shuffled"):
        if fit != "prior":
            shuffle_targets(mdata, np.random.default_rng([spec[-1], 9]))
        found = [predicted(mdata, gene, mode, states) for mode, gene in jobs]
        for kind in dict.fromkeys(mode for mode, _ in jobs):
            mine = [i for i, (mode, _) in enumerate(jobs) if mode == kind]
            row = {"network": name, "genes": setting, "kind": kind, "fit": fit, "states": len(states)}
            rows.append(row | scores([found[i] for i in mine], [true[i] for i in mine]))
    return pd.DataFrame(rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or networks.REPORT:
        found = run(name)
        renew(Path(__file__).with_suffix(".csv"), name, found)
        print(found.round(2).to_string(), flush=True)

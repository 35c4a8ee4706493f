"""Fates after pulses, late and lasting clamps on simulated networks, beside no change; writes ``schedules.csv``.

``python schedules.py OUT r15 ...``; networks of ``fates.py``. A pulse is held for the first third of the course, a late clamp from
there to the end.
"""

import numpy as np
import pandas as pd
from fates import TIMES, collect, course, embedded

import mmopt as mm

MOST, SWITCH, APART, SAME = 6, 4, 0.05, 0.01
# the truth is read after the last time point: what lasts is held until then
WINDOWS = {"pulse": (0, SWITCH), "late": (SWITCH, np.inf), "whole": (0, np.inf)}


def shares(table: pd.DataFrame, column: str, named: list[str]) -> np.ndarray:
    """Share of each named fate, and what is left."""
    known = table[column].reindex(named).fillna(0.0).to_numpy()
    return np.append(known, 1 - known.sum())


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation."""
    return 0.5 * float(np.abs(a - b).sum())


def turned(true: np.ndarray, said: np.ndarray) -> dict[str, int]:
    """Named fates that a pulse truly serves otherwise than a clamp that lasts, and for how many the twin says which way."""
    apart = np.abs(true[:-1]) > APART
    same = (np.sign(true) == np.sign(said))[:-1] & (np.abs(said[:-1]) > SAME)
    other = (np.sign(true) == -np.sign(said))[:-1] & (np.abs(said[:-1]) > SAME)
    return {
        "n_apart": int(apart.sum()),
        "right": int((apart & same).sum()),
        "wrong": int((apart & other).sum()),
    }


def run(name: str, most: int = MOST) -> pd.DataFrame:
    """One row per intervention and window."""
    mdata, network, prior = course(name)
    embedded(mdata)
    mm.tl.regulons(mdata, prior=prior, use_rep="X_pca")
    # fates are read from the couplings: the velocity, which takes the steps, is not looked at
    mm.tl.twin(mdata, time_key="time", use_rep="X_pca", units="days", n_steps=200, progress_bar=False)
    genes = list(network.regulators)
    genes = [genes[i] for i in np.unique(np.linspace(0, len(genes) - 1, min(most, len(genes))).astype(int))]
    rows = []
    for gene in genes:
        for mode in ("knockout", "overexpress"):
            # of the named fates after each window: what is true, and what the twin says
            true, said = {}, {}
            for window, (start, stop) in WINDOWS.items():
                try:
                    mm.tl.simulate(
                        mdata,
                        start={"time": 0},
                        interventions=[(gene, mode, start, min(stop, TIMES[-1]))],
                        terminal_key="cell_type",
                        features=[gene],
                        n_times=2,
                        progress_bar=False,
                    )
                except ValueError as error:
                    print(name, gene, mode, window, str(error)[:90])
                    continue
                truth = mm.datasets.truth_fates(mdata, [(gene, mode, start, stop)]).set_index("fate")
                named = [f for f in truth.index if f != "none"]
                before, after = truth.loc[[*named, "none"], ["wild_type", "perturbed"]].to_numpy().T
                fate = mdata.uns["simulate"]["fate"].set_index("label")
                true[window], said[window] = after, shares(fate, "p", named)
                both = [(i, f) for i, f in enumerate(named) if f in fate.index]
                rows.append(
                    {
                        "network": name,
                        "gene": gene,
                        "mode": mode,
                        "window": window,
                        "tv": distance(said[window], after),
                        "tv_no_change": distance(before, after),
                        "tv_no_change_as_measured": distance(shares(fate, "wild_type", named), after),
                        "moved": mdata.uns["simulate"]["effect"]["total_variation"],
                        "coverage": np.mean(
                            [fate.loc[f, "lo"] <= after[i] <= fate.loc[f, "hi"] for i, f in both]
                        ),
                        "width": float((fate["hi"] - fate["lo"]).iloc[:-1].mean()),
                    }
                )
            if {"pulse", "whole"} <= set(said):
                found = {r["window"]: r for r in rows[-len(said) :]}
                found["pulse"]["tv_of_whole"] = distance(said["whole"], true["pulse"])
                found["pulse"] |= turned(true["pulse"] - true["whole"], said["pulse"] - said["whole"])
    return pd.DataFrame(rows)


if __name__ == "__main__":
    shown = ["tv", "tv_no_change", "tv_of_whole", "moved", "coverage", "width"]
    collect(run, lambda found: found.groupby(["window", "mode"])[shown].mean())

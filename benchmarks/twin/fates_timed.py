"""The fates of ``fates.py`` with networks that were fitted with the times of sampling, and how they compare.

``python fates_timed.py OUT r12 r16 ...`` writes ``fates_timed.csv``; ``python fates_timed.py beside`` compares it with ``fates.csv``.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from fates import SHOWN, collect, run

NEARER = 0.02


def beside(plain: pd.DataFrame, timed: pd.DataFrame) -> None:
    """Print means by network and kind, and over all interventions how much nearer to the truth they come with times."""
    both = plain.merge(timed, on=["network", "gene", "mode"], suffixes=("", "_timed"), validate="1:1")
    both["kind"] = both["mode"].where(~both["mode"].str.contains("+", regex=False), "two at once")
    shown = [name + end for name in ("tv", "coverage", "width") for end in ("", "_timed")]
    means = both.groupby(["network", "kind"], sort=False)[[*shown, "tv_no_change"]].mean()
    print(means.round(3).to_string())
    print(means.groupby("kind")[shown].mean().round(3).to_string())
    change = (both["tv_timed"] - both["tv"]).to_numpy()
    rng = np.random.default_rng(0)
    drawn = rng.choice(change, (5000, len(change))).mean(1)
    low, high = np.quantile(drawn, [0.05, 0.95])
    print(
        f"{len(change)} interventions: {change.mean():.4f} (90 % interval {low:.4f} to {high:.4f}) of total variation"
    )
    print(f"nearer by more than {NEARER}: {(change < -NEARER).sum()}, farther: {(change > NEARER).sum()}")


if __name__ == "__main__":
    if sys.argv[1:] == ["beside"]:
        beside(*(pd.read_csv(Path(__file__).with_name(f)) for f in ("fates.csv", "fates_timed.csv")))
    else:
        collect(partial(run, time_key="time"), lambda found: found.groupby("mode")[SHOWN].mean())

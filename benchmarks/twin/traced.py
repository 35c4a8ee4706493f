"""Fates of single cells beside their true lineage on simulated networks; writes ``traced.csv``.

``python traced.py OUT r15 ...``; networks of ``fates.py``. Where each simulated cell will end is known (``obs["fate"]``); cells
that end in none are left out.
"""

import pandas as pd
from fates import collect, course, embedded

import mmopt as mm


def run(name: str) -> pd.DataFrame:
    """One row per time and prediction."""
    mdata, _, _ = course(name)
    embedded(mdata)
    fate = mdata.obs["fate"].astype(object)
    mdata.obs["lineage"] = fate.where(fate != "none")
    table = mm.tl.evaluate_twin(
        mdata, time_key="time", use_rep="X_pca", lineage_key="lineage", terminal_key="cell_type", hold_out=(),
        progress_bar=False,
    )  # fmt: skip
    return table.assign(network=name)


if __name__ == "__main__":
    collect(run, lambda found: found.pivot_table("accuracy", "prediction", "time"))

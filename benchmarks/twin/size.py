"""Time and peak memory of a twin and a simulation: ``python size.py N_CELLS``; random embedding, 200 genes, five points."""

import resource
import sys
import time
import warnings

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import mmopt as mm


def main(n: int) -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(0, 5, n))
    counts = sparse.random(n, 200, 0.2, "csr", dtype=np.float32, random_state=0)
    counts.data = np.ceil(counts.data * 5)
    mdata = MuData({"rna": AnnData(counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]))})
    mdata.obs["day"] = times
    mdata.obs["type"] = rng.choice(["a", "b"], n)
    mdata.obsm["X"] = rng.normal(size=(n, 20)).astype(np.float32) + times[:, None]
    begin = time.process_time(), time.time()

    def report(what: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{n} cells, {what}: {time.process_time() - begin[0]:.0f} s CPU, {time.time() - begin[1]:.0f} s, peak {peak:.1f} GB",
            flush=True,
        )

    report("data")
    mm.tl.twin(mdata, time_key="day", use_rep="X", progress_bar=False)
    report("twin")
    mm.tl.simulate(mdata, start={"day": 0}, terminal_key="type", progress_bar=False)
    report("twin and simulation")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]))

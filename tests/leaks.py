"""Memory and open files over many small fits: ``python tests/leaks.py`` prints them for 50, ``--fits N`` for others."""

import argparse
import gc
import os
import resource
import sys
import tempfile
import weakref
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd

import mmopt as mm
from mmopt._compat import override_pull_on_update

WARM_UP = 5  # fits until every library has loaded and filled what it keeps
PER_FIT = 0.3  # MiB a fit may leave; the allocator's own unrest is of that order


def resident() -> float:
    """MiB of this process that are in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def open_files() -> int:
    """Number of file descriptors of this process."""
    folder = next(p for p in ("/proc/self/fd", "/dev/fd") if Path(p).is_dir())
    return len(list(Path(folder).iterdir()))


def small(n: int = 400) -> mudata.MuData:
    """Data that weigh some megabytes, so that one that is kept is seen."""
    rng = np.random.default_rng(0)
    mods = {}
    for name, k in (("rna", 1000), ("prot", 10)):
        x = rng.poisson(2.0, (n, k)).astype(np.float32)
        obs = pd.DataFrame(index=[f"cell{i}" for i in range(n)])
        mods[name] = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"{name}{i}" for i in range(k)]))
    with override_pull_on_update():
        return mudata.MuData(mods)


def one(folder: Path) -> list[weakref.ref]:
    """Fit, save, load and ask; gives weak references to what must be gone afterwards."""
    mdata = small()
    model = mm.tl.integrate(
        mdata, max_epochs=1, accelerator="cpu", progress_bar=False, checkpoint=folder / "run.ckpt"
    )
    model.save(folder / "model", overwrite=True)
    again = mm.models.TriVI.load(folder / "model", mdata, accelerator="cpu")
    again.get_normalized("prot", given="rna")
    for file in folder.glob("run.ckpt*"):
        file.unlink()
    return [weakref.ref(x) for x in (mdata, model, again, model.module)]


def measure(n_fits: int, n_warm_up: int = WARM_UP, show: bool = False) -> pd.DataFrame:
    """One row per fit after the warm-up: MiB, open files, and objects of earlier fits that are still there."""
    rows, kept = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n_warm_up + n_fits):
            kept += one(Path(folder))
            gc.collect()
            kept = [ref for ref in kept if ref() is not None]
            rows.append(
                {"fit": i - n_warm_up, "MiB": resident(), "files": open_files(), "objects": len(kept)}
            )
            if show and i % 5 == 0:
                print({k: round(v, 1) for k, v in rows[-1].items()}, flush=True)
    return pd.DataFrame(rows[n_warm_up:])


def growth(table: pd.DataFrame) -> float:
    """MiB per fit, as a straight line has it."""
    return float(np.polyfit(table["fit"], table["MiB"], 1)[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=50)
    table = measure(parser.parse_args().fits, show=True)
    first, last = table.iloc[0], table.iloc[-1]
    print(
        f"{len(table)} fits: {growth(table):+.3f} MiB per fit ({first['MiB']:.0f} to {last['MiB']:.0f} MiB), "
        f"{last['files'] - first['files']:+.0f} open files, {last['objects']:.0f} objects kept"
    )
    return int(
        growth(table) > PER_FIT or last["files"] > first["files"] or last["objects"] > first["objects"]
    )


if __name__ == "__main__":
    sys.exit(main())

"""Do the predictive intervals of TriVI hold what they promise?

    python benchmarks/calibration/calibration.py [--data FOLDER] [--sets toy,teaseq,...] [--seeds 2]

A fifth of the cells is taken away before the fit. Of these cells, every modality is predicted from each other one, from
all others, and from everything including itself (a check of the likelihood, no prediction); the share of the counts
inside the central intervals of 50, 80 and 95 % is the coverage. "closed" counts both ends of an interval, which at least
must reach the level; "coverage" places ties at random and should equal it (see `mmopt.metrics.interval_coverage`).
`bias` is the mean place of the counts among the draws less one half: positive if predictions are too low.
Peaks are split by their mean count among the held-out cells; of protein also the sum over a cell's proteins is scored, which the
model does not promise: it has no depth of protein that a cell's proteins would share.

Writes calibration.md and calibration.csv beside this file, set by set; what is there of other sets is kept. The real data sets are not part of the repository.
"""

import argparse
import datetime
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mudata
import numpy as np
import pandas as pd

import mmopt as mm
from mmopt._compat import override_pull_on_update

HERE = Path(__file__).resolve().parent
FILES = {
    "teaseq": ("teaseq_rna_adt.h5mu", None),
    "cite_A": ("bmmc_cite_A.h5mu", "batch"),
    "multiome_A": ("bmmc_multiome_A.h5mu", "batch"),
    "mosaic": ("trimodal_mosaic_tea_bmmc.h5mu", "batch"),
    "pbmc_mosaic": ("pbmc_cite_mosaic.h5mu", "batch"),
}
LEVELS = (0.5, 0.8, 0.95)
N_DRAWS, CHUNK = 99, 64


def load(name: str, folder: Path) -> tuple[mudata.MuData, str | None]:
    if name == "toy":
        return mm.datasets.toy(), "donor"
    file, batch_key = FILES[name]
    mdata = mudata.read_h5mu(folder / file)
    mm.pp.prepare(mdata, batch_key=batch_key)
    return mdata, batch_key


def predictions(model: "mm.models.TriVI", test: mudata.MuData) -> Iterator[dict[str, str | float]]:
    """Give the coverage of each modality from each other one, from all others, and from all with itself."""
    fields = model.registry["field_registries"]
    names = {m: fields[m]["state_registry"]["modality"] for m in model.modalities}
    there = {m: test.obs_names.isin(test.mod[n].obs_names) for m, n in names.items() if n in test.mod}
    for m in there:
        others = [o for o in there if o != m]
        subsets = [[o] for o in others] + ([others] if len(others) > 1 else []) + [[*others, m]]
        for given in subsets:
            cells = np.flatnonzero(np.all([there[o] for o in [*given, m]], axis=0))
            if len(cells) < 30:
                continue
            features = fields[m]["state_registry"]["features"]
            adata = test.mod[names[m]][:, features]
            counts = adata.layers.get("counts", adata.X)
            mean_count = np.asarray(counts.mean(0)).ravel()
            scores = {}
            for start in range(0, len(cells), CHUNK):
                some = cells[start : start + CHUNK]
                drawn = model.posterior_predictive_sample(test, some, N_DRAWS, modality=m, given=given)
                drawn = np.moveaxis(drawn[names[m]].todense(), -1, 0)
                truth = counts[adata.obs_names.isin(test.obs_names[some])].toarray().astype(float)
                for part, (x, d) in parts(m, truth, drawn, mean_count).items():
                    score = pd.Series(mm.metrics.interval_coverage(d, x, LEVELS)) * len(some)
                    scores[part] = scores.get(part, 0) + score
            source = "everything, itself included" if m in given else " + ".join(given)
            for part, total in scores.items():
                yield {"modality": part, "given": source, "n_cells": len(cells), **total / len(cells)}


def parts(
    modality: str, truth: np.ndarray, drawn: np.ndarray, mean_count: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split peaks by their mean count: most are zero, and hide the others. Of protein give the sums of cells beside."""
    if modality == "atac":
        groups = {"below 0.2": mean_count < 0.2, "from 0.2": mean_count >= 0.2}
        return {
            f"atac, mean {name}": (truth[:, of], drawn[:, :, of]) for name, of in groups.items() if of.any()
        }
    sums = {"prot, sum of a cell": (truth.sum(1), drawn.sum(2))} if modality == "prot" else {}
    return {modality: (truth, drawn)} | sums


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("MMOPT_DATA", "."))
    parser.add_argument("--sets", default="toy,teaseq,cite_A,multiome_A,mosaic")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    file = args.out / "calibration.csv"
    for name in args.sets.split(","):
        rows = []
        for seed in range(args.seeds):
            mdata, batch_key = load(name, args.data)
            test = np.zeros(mdata.n_obs, bool)
            test[np.random.default_rng(seed).permutation(mdata.n_obs)[: mdata.n_obs // 5]] = True
            model = mm.tl.integrate(
                mdata[~test].copy(), batch_key=batch_key, random_state=seed, progress_bar=False
            )
            rows += [{"set": name, "seed": seed, **row} for row in predictions(model, mdata[test].copy())]
        table = pd.DataFrame(rows).round(4)
        if file.exists():
            before = pd.read_csv(file)
            table = pd.concat([before[before["set"] != name], table])
        table.to_csv(file, index=False)
        report(table, args.out / "calibration.md")


def report(table: pd.DataFrame, file: Path) -> None:
    mean = table.groupby(["set", "modality", "given"], sort=False).mean(numeric_only=True)
    lines = [
        "# Coverage of predictive intervals, held-out cells\n",
        f"{datetime.date.today()}; {platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, "
        f"scvi-tools {version('scvi-tools')}; seeds (of split and fit): {table['seed'].nunique()}. In percent; the aim is "
        "the level within 5 points. Made by calibration.py, which says what the columns mean.\n",
        "| set | modality | given | cells | 50 % | 80 % | 95 % | bias | closed 50 | closed 80 | closed 95 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = [f"{100 * level:g}" for level in LEVELS]
    for key, row in mean.iterrows():
        shares = [f"{100 * row[f'{kind}_{n}']:.1f}" for kind in ("coverage", "closed") for n in names]
        cells = [*key, f"{row['n_cells']:.0f}", *shares[:3], f"{100 * row['bias']:+.1f}", *shares[3:]]
        lines.append("| " + " | ".join(cells) + " |")
    off = np.abs(mean[[f"coverage_{n}" for n in names]].to_numpy() - np.array(LEVELS))
    of_sums = mean.index.get_level_values("modality").str.contains("sum")
    off = off[~mean.index.get_level_values("given").str.contains("itself") & ~of_sums]
    lines.append(
        f"\nOf {off.size} coverages of predictions (sums left out), {int((off <= 0.05).sum())} are within 5 points; the farthest is "
        f"{100 * off.max():.1f} points away.\n"
    )
    file.write_text("\n".join(lines))


if __name__ == "__main__":
    with override_pull_on_update():
        main()

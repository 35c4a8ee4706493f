"""Do the credible intervals of TriVI hold the expected values? Only a simulation knows these.

    python benchmarks/calibration/credible.py [--seeds 1]

Simulated cells of one donor, without batch effects or dropout; every sixth is taken away before the fit. Of these cells
`get_normalized(interval=)` is asked for the shares of RNA and ATAC, from what the cell has and from single other
modalities, and compared with the shares from which the simulator drew. "covered" is the share of the values inside,
"most variable" that of the fifth of the features whose true share varies most between cells, relative to its mean;
"width" the median width of an interval, relative to the truth.

Writes credible.md and credible.csv beside this file, in about two CPU minutes per seed.
"""

import argparse
import datetime
import logging
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.datasets.observe import default_depth, signal
from mmopt.datasets.storage import restore

HERE = Path(__file__).resolve().parent
LEVELS = (0.5, 0.9)
N_CELLS, N_GENES, N_PEAKS, N_DRAWS = 600, 200, 300, 200


def coverages(seed: int) -> list[dict[str, str | float]]:
    """Fit one simulation, and compare what is said of its other cells with the truth."""
    mdata = mm.datasets.simulate_trimodal(
        N_CELLS,
        n_genes=N_GENES,
        n_peaks=N_PEAKS,
        n_donors=1,
        batch_effect=0.0,
        dropout=0.0,
        random_state=seed,
    )
    system, cells = restore(mdata)
    truth = signal(system, system.wild_type[0], default_depth(system.layout))
    out = np.arange(N_CELLS) % 6 == 0
    model = mm.tl.integrate(mdata[~out].copy(), random_state=seed, progress_bar=False)
    test = mdata[out].copy()
    rows = []
    for modality, other in (("rna", "atac"), ("atac", "rna")):
        true = truth[modality][cells[out]]
        true = true / true.sum(1, keepdims=True)
        varies = true.std(0) / true.mean(0)
        most = varies > np.quantile(varies, 0.8)
        for given in (None, other, "prot"):
            for level in LEVELS:
                found = model.get_normalized(
                    modality, given, mdata=test, library_size=1.0, interval=level, n_samples=N_DRAWS
                )
                inside = (found.lower <= true) & (true <= found.upper)
                with np.errstate(divide="ignore"):  # a gene that is off has a share of zero
                    width = np.median((found.upper - found.lower) / true)
                rows.append(
                    {
                        "seed": seed,
                        "modality": modality,
                        "given": given or "everything, itself included",
                        "level": level,
                        "covered": inside.mean(),
                        "most_variable": inside[:, most].mean(),
                        "width": width,
                    }
                )
    return rows


def report(table: pd.DataFrame, file: Path) -> None:
    mean = table.groupby(["modality", "given", "level"], sort=False).mean(numeric_only=True)
    lines = [
        "# Credible intervals and the true expected values\n",
        f"{datetime.date.today()}; {platform.machine()}, Python {platform.python_version()}, torch {version('torch')}, "
        f"scvi-tools {version('scvi-tools')}; simulated, {N_CELLS} cells, {N_GENES} genes and {N_PEAKS} peaks; seeds: {table['seed'].nunique()}. "
        "In percent. Made by credible.py, which says what the columns mean.\n",
        "| modality | given | level | covered | most variable | width |",
        "|---|---|---|---|---|---|",
    ]
    for (modality, given, level), row in mean.iterrows():
        numbers = [100 * value for value in (level, row["covered"], row["most_variable"], row["width"])]
        lines.append(f"| {modality} | {given} | " + " | ".join(f"{n:.0f}" for n in numbers) + " |")
    at = mean["covered"].xs(max(LEVELS), level="level")
    lines.append(
        f"\nIntervals of {100 * max(LEVELS):g} % held {100 * at.min():.0f} to {100 * at.max():.0f} % of the expected values.\n"
    )
    file.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    logging.getLogger("mmopt").setLevel(logging.ERROR)
    table = pd.DataFrame([row for seed in range(args.seeds) for row in coverages(seed)]).round(4)
    table.to_csv(args.out / "credible.csv", index=False)
    report(table, args.out / "credible.md")


if __name__ == "__main__":
    with override_pull_on_update():
        main()

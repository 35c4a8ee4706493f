"""Simulated networks with a corrupted prior and their truth, as the other scripts here use them.

Sizes, topologies and seeds differ; the first half chooses (``DEVELOPMENT``), the second half reports (``REPORT``).
"""

import numpy as np
import pandas as pd

import mmopt as mm

# name: regulators, fates, branching, genes, peaks, seed; the prior loses 20 % of the true edges and gains 30 % false ones
DEVELOPMENT = {
    "a": (11, 4, 4, 390, 1400, 1),
    "b": (11, 3, 2, 300, 900, 2),
    "c": (16, 4, 2, 390, 1400, 3),
    "d": (24, 5, 2, 600, 1800, 4),
}
REPORT = {
    "e": (11, 4, 2, 390, 1400, 11),
    "f": (14, 4, 4, 390, 1400, 12),
    "g": (20, 5, 2, 500, 1600, 13),
    "myeloid": (None, None, None, 390, 1400, 14),
}
TIMES = (0, 2, 4, 6, 9, 12)


def data(spec: tuple, n_cells: int = 2000):
    """Simulated cells, their noisy prior and the names of the regulators and of the decoys."""
    n_regulators, n_fates, branching, n_genes, n_peaks, seed = spec
    network = None
    if n_regulators is not None:
        network = mm.datasets.random_network(n_regulators, n_fates, branching=branching, random_state=seed)
    mdata = mm.datasets.simulate_trimodal(
        n_cells,
        network=network,
        n_genes=n_genes,
        n_peaks=n_peaks,
        n_donors=2,
        times=TIMES,
        depth={"rna": 2 * n_genes, "atac": 0.7 * n_peaks},
        dropout=0.3,
        random_state=seed,
    )
    edges = mdata.uns["truth"]["edges"]
    regulators = sorted(set(edges["source"]))
    decoys = [f"DECOY{i + 1}" for i in range(8)]
    return mdata, corrupted(edges, regulators, decoys, mdata["rna"].var_names, seed), regulators, decoys


def corrupted(
    edges: pd.DataFrame, regulators: list, decoys: list, genes: pd.Index, seed: int
) -> pd.DataFrame:
    """The true edges less 20 %, and as many false ones as 30 % of them, of decoys and true regulators alike."""
    rng = np.random.default_rng([seed, 99])
    true = edges.rename(columns={"sign": "weight"})[["source", "target", "weight"]]
    kept = true[rng.random(len(true)) > 0.2]
    n_false = int(0.3 * len(true))
    false = pd.DataFrame(
        {
            "source": rng.choice([*regulators, *decoys], n_false),
            "target": rng.choice(genes, n_false),
            "weight": rng.choice([1, -1], n_false, p=[0.7, 0.3]),
        }
    )
    # every decoy is there with a few targets, or it would be refused
    extra = pd.DataFrame(
        {"source": np.repeat(decoys, 3), "target": rng.choice(genes, 3 * len(decoys)), "weight": 1}
    )
    return pd.concat([kept, false, extra], ignore_index=True).drop_duplicates(["source", "target"])

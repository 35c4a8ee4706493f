"""Simulated networks with a corrupted prior and their truth, as the other scripts here use them.

Sizes, topologies and seeds differ; the first chooses (``DEVELOPMENT``), the others report: ``REPORT``; ``CONSTANT``, where
most genes do not vary, half have lost their own peaks and some regulators are on everywhere; and ``BACKGROUND``, where besides so
many ATAC fragments come from anywhere that the range of accessibility is less than half.
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
CONSTANT = {
    "h": (10, 4, 2, 390, 1400, 31),
    "i": (12, 3, 4, 450, 1500, 33),
}
BACKGROUND = {
    "j": (11, 4, 4, 390, 1400, 41),
    "k": (14, 3, 2, 420, 1400, 43),
}
# what is reported apart: its networks, and how :func:`data` makes them
SETTINGS = {
    "mostly regulated": (REPORT, {}),
    "mostly constant": (CONSTANT, {"constant": True}),
    "background": (BACKGROUND, {"constant": True, "background": True}),
}
TIMES = (0, 2, 4, 6, 9, 12)
HOUSEKEEPING, UNLINKED, LASTING, ANYWHERE = 0.65, 0.5, 4, 0.3


def data(
    spec: tuple,
    n_cells: int = 2000,
    constant: bool = False,
    background: bool = False,
    unspliced: float = 0.0,
):
    """Simulated cells, their noisy prior and the names of the regulators and of the decoys.

    ``unspliced``: share of the RNA molecules that are, in a layer beside the same counts; ``constant``: as for ``CONSTANT``;
    ``background``: so many ATAC fragments from anywhere as for ``BACKGROUND``.
    """
    n_regulators, n_fates, branching, n_genes, n_peaks, seed = spec
    network, settings = None, {}
    if n_regulators is not None:
        network = mm.datasets.random_network(n_regulators, n_fates, branching=branching, random_state=seed)
    if constant:
        network, settings = lasting(network, seed), {"housekeeping": HOUSEKEEPING}
    if background:
        settings["atac_background"] = ANYWHERE
    mdata = mm.datasets.simulate_trimodal(
        n_cells,
        network=network,
        n_genes=n_genes,
        n_peaks=n_peaks,
        n_donors=2,
        times=TIMES,
        depth={"rna": 2 * n_genes, "atac": 0.7 * n_peaks},
        dropout=0.3,
        unspliced=unspliced,
        random_state=seed,
        **settings,
    )
    if constant:
        unlink(mdata, seed)
    edges = mdata.uns["truth"]["edges"]
    regulators = sorted(set(edges["source"]))
    decoys = [f"DECOY{i + 1}" for i in range(8)]
    return mdata, corrupted(edges, regulators, decoys, mdata["rna"].var_names, seed), regulators, decoys


def lasting(network, seed: int):
    """Add regulators that are on from the start and at most lowered by others, never off."""
    rng = np.random.default_rng([seed, 3])
    edges = []
    for number in range(LASTING):
        name, (first, second) = f"ON{number + 1}", rng.choice(network.regulators, 2, replace=False)
        edges += [
            # source, target, sign, strength, complex
            (first, name, -1, 0.5, 0),
            (second, name, -1, 0.3, 1),
            (name, second, 1, 0.5, 9),
        ]
    added = pd.DataFrame(edges, columns=["source", "target", "sign", "strength", "complex"])
    added = added.assign(threshold=0.5, hill=4.0)
    return type(network).from_edges(
        pd.concat([network.edges, added], ignore_index=True),
        initial=dict(network.initial) | dict.fromkeys(added["source"][2::3], 1.0),
        stages=network.stages,
    )


def unlink(mdata, seed: int) -> None:
    """Put the peaks of half of the genes where no gene is."""
    genes = mdata["rna"].var_names
    lost = np.random.default_rng([seed, 4]).choice(genes, int(UNLINKED * len(genes)), replace=False)
    peaks = mdata["atac"].var
    peaks["chrom"] = np.where(peaks["gene"].isin(lost), "unplaced", peaks["chrom"].astype(str))


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

"""From levels to counts: capture, sequencing depth, donors and the noise of each assay."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy import sparse

from mmopt._checks import listed
from mmopt._keys import MODALITIES
from mmopt.datasets.layout import Layout
from mmopt.datasets.system import Snapshot, System

# how the variance of counts exceeds Poisson's: variance = mean + dispersion × mean²
_DISPERSION = {"rna": 0.15, "atac": 0.1, "prot": 0.05}
_DEPTH_SPREAD = 0.35
# standard deviation of the genes' log share of unspliced molecules
_INTRONS_SPREAD = 0.7
# cells counted together, so that memory stays small beside the result
_BLOCK = 2000


@dataclass(frozen=True)
class Assay:
    """How the cells are measured: median counts, share of weak signals lost, donors, fragments from anywhere."""

    depth: Mapping[str, float]
    dropout: float
    donor: np.ndarray
    batch_effect: float
    atac_background: float = 0.0


def default_depth(layout: Layout) -> dict[str, float]:
    """Median counts per cell of each modality, in proportion to its features."""
    return {
        "rna": 5.0 * len(layout.genes),
        "atac": 1.2 * len(layout.peaks),
        "prot": 50.0 * len(layout.proteins),
    }


def signal(
    system: System,
    snapshot: Snapshot,
    depth: Mapping[str, float],
    cells: slice | np.ndarray = slice(None),
    *,
    atac_background: float = 0.0,
) -> dict[str, np.ndarray]:
    """Return what there is to count, without noise, donor or dropout; cells × features, one array per modality.

    RNA and ATAC in any unit, as a cell's counts are shares of its depth. Protein is background plus foreground, in
    counts: antibodies do not compete for the sequencing depth of one cell. Of a cell's fragments a share
    ``atac_background`` falls on the peaks as if all of them were open.
    """
    genes, peaks, proteins = system.layout.genes, system.layout.peaks, system.layout.proteins
    background, foreground = proteins["background"].to_numpy(), proteins["foreground"].to_numpy()
    # a third of the foreground is about what a cell shows
    scale = depth["prot"] / (background + foreground / 3).sum()
    everywhere = peaks["mean"].to_numpy()
    fragments = system.atac(snapshot, cells).T * everywhere
    if atac_background:
        fragments *= (1 - atac_background) / fragments.sum(1, keepdims=True)
        fragments += atac_background * everywhere / everywhere.sum()
    return {
        "rna": system.rna(snapshot, cells).T * genes["mean"].to_numpy(),
        "atac": fragments,
        "prot": scale * (background + system.protein(snapshot, cells).T * foreground),
    }


def count(system: System, snapshot: Snapshot, assay: Assay) -> dict[str, sparse.csr_matrix]:
    """Draw the counts of every cell, float32 CSR; negative binomial around the expectation of its donor."""
    features = {"rna": system.layout.genes, "atac": system.layout.peaks, "prot": system.layout.proteins}
    rng = np.random.default_rng([system.random_state, 3])
    n_cells, n_donors = len(system.cells), assay.donor.max() + 1
    batch = {
        m: np.exp(assay.batch_effect * rng.standard_normal((n_donors, len(f)))) for m, f in features.items()
    }
    size = {
        m: np.exp(
            _DEPTH_SPREAD * rng.standard_normal(n_cells)
            + assay.batch_effect * rng.standard_normal(n_donors)[assay.donor]
        )
        for m in features
    }
    blocks: dict[str, list] = {m: [] for m in features}
    for start in range(0, n_cells, _BLOCK):
        cells = slice(start, start + _BLOCK)
        expected = signal(system, snapshot, assay.depth, cells, atac_background=assay.atac_background)
        for modality, mean in expected.items():
            shifted = mean * batch[modality][assay.donor[cells]]
            if modality != "prot":
                shifted *= assay.depth[modality] / shifted.sum(1, keepdims=True)
            shifted *= size[modality][cells, None]
            dropout = assay.dropout if modality == "rna" else 0.0
            blocks[modality].append(_draw(shifted, _DISPERSION[modality], dropout, rng))
    return {m: sparse.vstack(b, format="csr") for m, b in blocks.items()}


def count_unspliced(system: System, snapshot: Snapshot, assay: Assay, share: float) -> sparse.csr_matrix:
    """Draw the counts of unspliced RNA, float32 CSR: what is being transcribed, which splicing follows at once.

    ``share`` of all RNA molecules, more of some genes than of others, as introns differ in length. Draws of their own, so that
    the other counts are the same with and without.
    """
    rng = np.random.default_rng([system.random_state, 8])
    n_cells, n_donors = len(system.cells), assay.donor.max() + 1
    n_genes = len(system.layout.genes)
    gene = system.layout.genes["mean"].to_numpy() * np.exp(_INTRONS_SPREAD * rng.standard_normal(n_genes))
    batch = np.exp(assay.batch_effect * rng.standard_normal((n_donors, n_genes)))
    size = np.exp(_DEPTH_SPREAD * rng.standard_normal(n_cells))
    blocks = []
    for start in range(0, n_cells, _BLOCK):
        cells = slice(start, start + _BLOCK)
        mean = system.nascent(snapshot, cells).T * gene * batch[assay.donor[cells]]
        mean *= assay.depth["rna"] * share / (1 - share) * size[cells, None] / mean.sum(1, keepdims=True)
        blocks.append(_draw(mean, _DISPERSION["rna"], assay.dropout, rng))
    return sparse.vstack(blocks, format="csr")


def _draw(mean: np.ndarray, dispersion: float, dropout: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Gamma–Poisson counts; ``dropout`` is the share lost of what is expected at nearly nothing, less of the rest."""
    counts = rng.poisson(mean * rng.gamma(1 / dispersion, dispersion, mean.shape))
    if dropout:
        counts[rng.random(mean.shape) < dropout * np.exp(-mean)] = 0
    return sparse.csr_matrix(counts.astype(np.float32))


def missing_cells(
    missing: Mapping[str, float] | str | None, donor: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Which cells lack each modality.

    Raises
    ------
    ValueError
        Unknown modality or pattern, a share outside [0, 1) or so large that no cell has the modality, or ``"mosaic"`` with one donor.
    """
    lacking = {modality: np.zeros(len(donor), dtype=bool) for modality in MODALITIES}
    if missing is None:
        return lacking
    if isinstance(missing, str):
        if missing != "mosaic":
            raise ValueError(f"missing: the only named pattern is 'mosaic', got {missing!r}")
        if donor.max() < 1:
            raise ValueError("missing='mosaic' needs n_donors of at least 2")
        # as in real mosaics: tri-modal, RNA + protein (CITE-seq), RNA + ATAC (multiome), and again
        lacking["atac"], lacking["prot"] = donor % 3 == 1, donor % 3 == 2
        return lacking
    rng = np.random.default_rng([seed, 5])
    for modality, share in missing.items():
        if modality not in MODALITIES:
            raise ValueError(f"missing: no modality {modality!r}; there are {listed(MODALITIES)}")
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise ValueError(
                f"missing: the share of cells without {modality} must be a number in [0, 1), got {share!r}"
            )
        lacking[modality][rng.permutation(len(donor))[: round(share * len(donor))]] = True
        if lacking[modality].all():
            raise ValueError(
                f"missing: no cell of {len(donor)} is left with {modality}; take a smaller share or more cells"
            )
    lacking["rna"] &= ~(lacking["atac"] & lacking["prot"])
    return lacking

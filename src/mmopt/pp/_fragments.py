from anndata import AnnData
from scipy import sparse

from mmopt import _checks
from mmopt._cut_sites import are_cut_sites, to_fragments
from mmopt._logging import logger


def fragments(adata: AnnData, name: str, role: str, layer: str | None) -> tuple[sparse.csr_matrix, bool]:
    """Return the counts of a modality, of ATAC those of fragments, and whether these had to be made from cut sites."""
    counts = _checks.counts(adata, name, layer)
    if role != "atac" or not are_cut_sites(counts.data if sparse.issparse(counts) else counts):
        return counts, False
    return to_fragments(counts), True


def note_fragments(name: str) -> None:
    logger.warning(
        'modality %r: twos outnumber ones, so these counts are cut sites, two of each fragment; layers["counts"] now has '
        "fragments, half of each count rounded up",
        name,
    )

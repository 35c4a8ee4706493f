"""ATAC counts that are cut sites: two for nearly every fragment, so that most counts are even."""

import numpy as np
from scipy import sparse


def are_cut_sites(values: np.ndarray) -> bool:
    """Whether there are more twos than ones and threes, and at least as many fours as threes; zeros do not matter.

    Counts of fragments have one most frequent value, however deep they are.
    """
    ones, twos, threes, fours = (np.count_nonzero(values == n) for n in (1, 2, 3, 4))
    return bool(twos > max(ones, threes) and fours >= threes)


def to_fragments(counts: sparse.csr_matrix | np.ndarray) -> sparse.csr_matrix | np.ndarray:
    """Return half of each count, rounded up (Martens et al. 2024): a lone cut has its other end outside of the peak."""
    return (counts / 2).ceil() if sparse.issparse(counts) else np.ceil(counts / 2)

"""The linear embedding that a model has to beat."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA, TruncatedSVD

Counts: TypeAlias = sparse.spmatrix | np.ndarray
_ROUNDING = 1e-9  # of logged values, which lie between 0 and 20


def pca_embedding(
    counts: Mapping[str, Counts],
    positions: Mapping[str, np.ndarray] | None = None,
    *,
    n_components: int = 20,
    random_state: int = 0,
) -> np.ndarray:
    """Embed cells by the linear method usual for each modality, and set the results side by side.

    It is the embedding that a model has to beat: log1p of counts per 10,000 and PCA for RNA, TF-IDF and SVD without
    the first component (sequencing depth) for ATAC [1]_, centred log-ratio and PCA for surface protein [2]_. Each
    block is scaled to a mean squared length of 1, so that the modalities have equal weight.

    Parameters
    ----------
    counts
        Raw counts ``(n_cells_of_modality, n_features)``, dense or sparse, by role: ``"rna"``, ``"atac"``, ``"prot"``.
    positions
        By role, the row of each cell in ``counts[role]`` or -1 where it is absent, ``(n_cells,)``. If not given, all
        modalities have the same cells in the same order.
    n_components
        Components per modality; fewer where a modality is smaller, and zeros where all of its cells are alike.
    random_state
        Seed of the solver's starting vector.

    Returns
    -------
    numpy.ndarray
        ``(n_cells, sum of components)`` in the order of ``counts``; 0 where a cell lacks the modality.

    Raises
    ------
    TypeError
        ``counts`` is no mapping.
    ValueError
        An unknown role, modalities of different length without ``positions``, or fewer than 3 cells or features.

    References
    ----------
    .. [1] Cusanovich et al. (2018), A single-cell atlas of in vivo mammalian chromatin accessibility, Cell 174.
    .. [2] Stoeckius et al. (2017), Simultaneous epitope and transcriptome measurement in single cells, Nature
       Methods 14.

    Examples
    --------
    >>> rna, prot = np.random.default_rng(0).poisson(2.0, (2, 50, 10))
    >>> pca_embedding({"rna": rna, "prot": prot}, n_components=5).shape
    (50, 10)
    """
    if not isinstance(counts, Mapping):  # a MuData has endlessly many keys
        raise TypeError(
            'counts: a mapping from modality to counts is needed, such as {"rna": mdata["rna"].layers["counts"]}, not '
            f"{type(counts).__name__}"
        )
    unknown = set(counts) - set(_EMBED)
    if unknown or not counts:
        raise ValueError(f"unknown modalities {sorted(unknown)}: give some of {', '.join(_EMBED)}")
    lengths = {role: matrix.shape[0] for role, matrix in counts.items()}
    if positions is None:
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the modalities have different numbers of cells {lengths}; give `positions`")
        positions = {role: np.arange(length) for role, length in lengths.items()}
    blocks = []
    for role, matrix in counts.items():
        if min(matrix.shape) < 3:
            raise ValueError(
                f"{role} has {matrix.shape[0]} cells × {matrix.shape[1]} features; 3 of each are needed"
            )
        block = _EMBED[role](matrix, n_components, random_state)
        block /= np.sqrt(np.mean(np.sum(block**2, axis=1))) or 1.0
        # position -1 takes the extra row of zeros
        blocks.append(np.vstack([block, np.zeros(block.shape[1])])[positions[role]])
    return np.hstack(blocks)


def _rna(counts: Counts, n_components: int, seed: int) -> np.ndarray:
    return _pca(_per_cell(counts, 1e4).log1p(), n_components, seed)


def _atac(counts: Counts, n_components: int, seed: int) -> np.ndarray:
    opened = sparse.csr_matrix(counts) > 0
    in_cells = np.asarray(opened.sum(0)).ravel()
    idf = opened.shape[0] / np.maximum(in_cells, 1)
    weights = (_per_cell(opened, 1e4) @ sparse.diags(idf)).log1p()
    n_components = min(n_components + 1, min(weights.shape) - 1)
    if _alike(weights):
        return np.zeros((weights.shape[0], n_components - 1))
    svd = TruncatedSVD(n_components, algorithm="arpack", random_state=seed)
    return svd.fit_transform(weights)[:, 1:]


def _prot(counts: Counts, n_components: int, seed: int) -> np.ndarray:
    logs = np.log1p(counts.toarray() if sparse.issparse(counts) else np.asarray(counts, dtype=float))
    return _pca(logs - logs.mean(1, keepdims=True), n_components, seed)


_EMBED = {"rna": _rna, "atac": _atac, "prot": _prot}


def _per_cell(counts: Counts, total: float) -> sparse.csr_matrix:
    counts = sparse.csr_matrix(counts, dtype=float)
    sums = np.asarray(counts.sum(1)).ravel()
    return sparse.csr_matrix(sparse.diags(total / np.maximum(sums, 1)) @ counts)


def _pca(matrix: Counts, n_components: int, seed: int) -> np.ndarray:
    n_components = min(n_components, min(matrix.shape) - 1)
    if _alike(matrix):
        return np.zeros((matrix.shape[0], n_components))
    return PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(matrix)


def _alike(matrix: Counts) -> bool:
    """Whether all cells are the same up to rounding: there is no component then, and the solver fails."""
    spread = matrix.max(0) - matrix.min(0)
    return bool((spread.toarray() if sparse.issparse(spread) else np.asarray(spread)).max() <= _ROUNDING)

"""Counts that stay on disk: rows are read when they are asked for, in contiguous pieces.

Loaders for single AnnData stores exist (annbatch, scvi-tools' own); none of them reads several modalities whose cells
differ, which is what a mosaic is.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from anndata.abc import CSRDataset

from mmopt import _checks
from mmopt._compat import layer_names
from mmopt._keys import COUNTS_LAYER
from mmopt._logging import logger

BLOCK = 4_000_000  # values of a block that is worked on at a time: some hundred megabytes with all that is made of it
GAP = 16  # rows that are read and thrown away rather than starting another read


class StoredRows:
    """A cells × features matrix of counts on disk that gives rows as a scipy matrix.

    Parameters
    ----------
    matrix
        Backed CSR matrix of anndata (HDF5 or Zarr), or a dense HDF5 or Zarr array.
    columns
        Features to keep, in this order; all if not given.
    """

    def __init__(self, matrix: Any, columns: np.ndarray | None = None):
        self._matrix, self.columns = matrix, columns
        self._sparse = isinstance(matrix, CSRDataset)
        self.shape = (matrix.shape[0], matrix.shape[1] if columns is None else len(columns))
        self.indptr: np.ndarray | None = None
        if self._sparse:
            self._data, self._indices = matrix.group["data"], matrix.group["indices"]
            self.indptr = matrix.group["indptr"][:].astype(np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_open(self) -> bool:
        """Whether the file is still that; writing to it opens it anew."""
        return bool(self._data if self._sparse else self._matrix)

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Rows from ``start`` up to ``stop``, all features as stored."""
        width = self._matrix.shape[1]
        if not self._sparse:
            return sp.csr_matrix(np.asarray(self._matrix[start:stop], dtype=np.float32))
        first, last = self.indptr[start], self.indptr[stop]
        data = self._data[first:last].astype(np.float32, copy=False)
        indptr = (self.indptr[start : stop + 1] - first).astype(np.int32)
        indices = self._indices[first:last].astype(np.int32, copy=False)
        return sp.csr_matrix((data, indices, indptr), (stop - start, width))

    def _tidy(self, x: sp.csr_matrix) -> sp.csr_matrix:
        x.sum_duplicates()
        if np.count_nonzero(x.data) < x.nnz:
            x.eliminate_zeros()
        if self.columns is not None:
            x = x[:, self.columns]
            x.sort_indices()
        return x

    def __getitem__(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return the given rows; near ones are read together."""
        rows = np.asarray(rows)
        if not len(rows):
            return sp.csr_matrix((0, self.shape[1]), dtype=np.float32)
        wanted, place = np.unique(rows, return_inverse=True)
        pieces = []
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > GAP) + 1):
            piece = self.read(run[0], run[-1] + 1)
            pieces.append(piece if len(run) == piece.shape[0] else piece[run - run[0]])
        x = self._tidy(sp.vstack(pieces, format="csr") if len(pieces) > 1 else pieces[0])
        return x if np.array_equal(place, np.arange(x.shape[0])) else x[place]

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """All rows, block by block."""
        for start, stop in self.spans():
            yield self._tidy(self.read(start, stop))

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row of each block, and the one behind its last."""
        start = 0
        while start < len(self):
            if self.indptr is not None:
                stop = int(np.searchsorted(self.indptr, self.indptr[start] + BLOCK, side="right")) - 1
            else:
                stop = start + BLOCK // self._matrix.shape[1]
            stop = min(max(stop, start + 1), len(self))
            yield start, stop
            start = stop


Counts: TypeAlias = sp.csr_matrix | StoredRows


def blocks(counts: Counts) -> Iterator[sp.csr_matrix]:
    """Rows block by block, wherever they are."""
    if isinstance(counts, StoredRows):
        yield from counts.blocks()
        return
    n_rows, start = counts.shape[0], 0
    while start < n_rows:
        stop = int(np.searchsorted(counts.indptr, counts.indptr[start] + BLOCK, side="right")) - 1
        stop = min(max(stop, start + 1), n_rows)
        yield counts if (start, stop) == (0, n_rows) else counts[start:stop]
        start = stop


def _on_disk(matrix: Any) -> bool:
    dense = not _checks.in_memory(matrix) and hasattr(matrix, "chunks") and not hasattr(matrix, "compute")
    return isinstance(matrix, CSRDataset) or (dense and len(matrix.shape) == 2)


def _chosen(adata: AnnData, modality: str, layer: str | None) -> str | None:
    """Return ``"X"`` where it is on disk and holds what ``layers["counts"]``, which is read otherwise, holds in memory."""
    if layer is not None or COUNTS_LAYER not in layer_names(adata) or not _on_disk(adata.X):
        return layer
    kept, of_file = adata.layers[COUNTS_LAYER], StoredRows(adata.X)
    if all((of_file.read(a, b) != sp.csr_matrix(kept[a:b])).nnz == 0 for a, b in of_file.spans()):
        return "X"
    logger.warning(
        'modality %r: X on disk differs from layers["counts"]; the layer is used, which like all layers is in memory',
        modality,
    )
    return layer


def check(adata: AnnData, modality: str, layer: str | None) -> str | None:
    """Refuse what is not raw counts, as :func:`mmopt._checks.counts`; what is on disk is read block by block.

    Returns the layer that :func:`counts` is to read.
    """
    layer = _chosen(adata, modality, layer)
    matrix, where = _checks.located(adata, modality, layer)
    if not _on_disk(matrix) or 0 in matrix.shape:
        _checks.counts(adata, modality, layer)
        return layer
    stored, nothing = StoredRows(matrix), True
    for start, stop in stored.spans():
        values = stored.read(start, stop).data
        if len(values) and (nothing := nothing and not values.any()) is False:
            _checks.check_counts(values, adata, modality, where)
    if nothing:
        raise ValueError(f"{where} holds nothing but zeros")
    return layer


def counts(adata: AnnData, modality: str, layer: str | None, columns: np.ndarray) -> Counts:
    """Raw counts that passed :func:`check`, on disk where they are on disk, of the given features in their order."""
    matrix, _ = _checks.located(adata, modality, layer)
    as_they_are = np.array_equal(columns, np.arange(adata.n_vars))
    if _on_disk(matrix):
        return StoredRows(matrix, None if as_they_are else columns)
    x = sp.csr_matrix(_checks.counts(adata, modality, layer))
    x = x if as_they_are else x[:, columns]
    x.sort_indices()
    return _of_one_index_type(x)


def _of_one_index_type(x: sp.csr_matrix) -> sp.csr_matrix:
    """Files often have ``indptr`` in 64 bits and ``indices`` in 32; scipy would then copy one of them for every minibatch."""
    small = np.int32 if x.nnz < 2**31 else np.int64
    if x.indptr.dtype != x.indices.dtype:  # of this object; the arrays it may share stay as they are
        x.indptr, x.indices = x.indptr.astype(small, copy=False), x.indices.astype(small, copy=False)
    return x

"""Count matrices as they travel: the three arrays of a CSR matrix, made dense only where a layer needs it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class Csr(NamedTuple):
    """Rows of counts of one modality in a minibatch.

    ``indptr`` (rows + 1) and ``rows`` (one for each count) say the same; both are needed in every step.
    """

    indptr: Tensor
    rows: Tensor
    indices: Tensor
    counts: Tensor

    @classmethod
    def of(cls, matrix: sp.csr_matrix) -> "Csr":
        """Take over the arrays of a scipy matrix."""
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
        indptr, indices = (a.astype(np.int32, copy=False) for a in (matrix.indptr, matrix.indices))
        return cls(*map(torch.from_numpy, (indptr, rows, indices, matrix.data)))

    @property
    def lengths(self) -> Tensor:
        """Number of non-zero features of each row."""
        return self.indptr.diff()

    def row_sums(self, values: Tensor) -> Tensor:
        """Sum ``values``, one (or one vector) for each stored count, over each row."""
        out = torch.zeros(len(self.indptr) - 1, *values.shape[1:], device=values.device, dtype=values.dtype)
        return out.index_add(0, self.rows, values)

    def totals(self) -> Tensor:
        """Sum the counts of each row."""
        if self.counts.device.type not in ("cpu", "cuda"):  # Apple GPUs have no such kernel
            return self.row_sums(self.counts)
        return torch.segment_reduce(self.counts, "sum", offsets=self.indptr, unsafe=True)

    def dense(self, n_features: int) -> Tensor:
        """Return the matrix with its zeros."""
        out = self.counts.new_zeros(len(self.indptr) - 1, n_features)
        out.view(-1).scatter_(0, self.places(n_features), self.counts)
        return out

    def places(self, n_features: int) -> Tensor:
        """Return where the counts lie in the flattened dense matrix."""
        return self.rows.long() * n_features + self.indices

    def product(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Multiply rows that hold ``values`` in place of the counts by a features × columns matrix.

        Differentiable by the matrix, once.
        """
        if self.counts.device.type == "cpu":
            return _Product.apply(self._replace(counts=values), matrix)
        return _bag(values, self.indptr, self.indices, matrix)

    def transposed_product(self, matrix: Tensor, n_features: int) -> Tensor:
        """Multiply the transposed rows by a rows × columns matrix."""
        ((_, product),) = self.transposed_products(matrix, n_features, n_features)
        return product

    def transposed_products(
        self, matrix: Tensor, n_features: int, chunk: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """Give the same product ``chunk`` features at a time (on a CPU), small enough to be worked on in its cache."""
        if self.counts.device.type != "cpu":
            out = matrix.new_zeros(n_features, matrix.shape[1])
            out.index_add_(0, self.indices, self.counts[:, None] * matrix.index_select(0, self.rows))
            yield slice(0, n_features), out
            return
        values, indptr, indices = (t.detach().numpy() for t in (self.counts, self.indptr, self.indices))
        columns = sp.csr_matrix((values, indices, indptr), (len(indptr) - 1, n_features)).tocsc()
        values, indices = torch.from_numpy(columns.data), torch.from_numpy(columns.indices)
        matrix = matrix.contiguous()
        for start in range(0, n_features, chunk):
            offsets = columns.indptr[start : start + chunk + 1]
            here = slice(offsets[0], offsets[-1])
            product = _bag(values[here], torch.from_numpy(offsets - offsets[0]), indices[here], matrix)
            yield slice(start, start + len(product)), product


def _bag(values: Tensor, indptr: Tensor, indices: Tensor, matrix: Tensor) -> Tensor:
    return embedding_bag(
        indices, matrix, indptr, per_sample_weights=values, mode="sum", include_last_offset=True
    )


class _Product(torch.autograd.Function):
    """The gradient is one more product; torch's own sorts the indices and takes several times as long."""

    @staticmethod
    def forward(ctx, rows: Csr, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(*rows)
        ctx.n_features = len(matrix)
        return _bag(rows.counts, rows.indptr, rows.indices, matrix)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[None, Tensor]:
        return None, Csr(*ctx.saved_tensors).transposed_product(upstream, ctx.n_features)

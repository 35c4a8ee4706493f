"""Count matrices as they travel: the three arrays of a CSR matrix, made dense only where a layer needs it."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


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
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        arrays = matrix.indptr.astype(np.int64), rows, matrix.indices.astype(np.int64), matrix.data
        return cls(*map(torch.from_numpy, arrays))

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
        return self.row_sums(self.counts)

    def dense(self, n_features: int) -> Tensor:
        """Return the matrix with its zeros."""
        out = torch.zeros(
            len(self.indptr) - 1, n_features, device=self.counts.device, dtype=self.counts.dtype
        )
        return out.index_put_((self.rows, self.indices), self.counts)

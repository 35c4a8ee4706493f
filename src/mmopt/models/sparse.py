"""Count matrices as they travel: the three arrays of a CSR matrix, made dense only where a layer needs it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Csr(NamedTuple):
    """Rows of counts of one modality in a minibatch."""

    indptr: Tensor
    indices: Tensor
    counts: Tensor

    @property
    def lengths(self) -> Tensor:
        """Number of non-zero features of each row."""
        return self.indptr.diff()

    @property
    def rows(self) -> Tensor:
        """Row of each stored count."""
        lengths = self.lengths
        # the size is given, so that a GPU need not be asked for it
        return torch.repeat_interleave(
            torch.arange(len(lengths), device=lengths.device), lengths, output_size=len(self.counts)
        )

    def row_sums(self, values: Tensor) -> Tensor:
        """Sum ``values``, one (or one vector) for each stored count, over each row."""
        out = torch.zeros(len(self.lengths), *values.shape[1:], device=values.device, dtype=values.dtype)
        return out.index_add(0, self.rows, values)

    def totals(self) -> Tensor:
        """Counts of each row."""
        return self.row_sums(self.counts)

    def dense(self, n_features: int) -> Tensor:
        """Return the matrix with its zeros."""
        out = torch.zeros(len(self.lengths), n_features, device=self.counts.device)
        return out.index_put_((self.rows, self.indices), self.counts)

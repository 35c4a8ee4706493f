"""Counts that stay on an accelerator: a minibatch is gathered there, and no step waits for a copy from the host."""

import numpy as np
import scipy.sparse as sp
import torch

from mmopt.models.sparse import Csr
from mmopt.models.stored import Counts

SHARE = 0.3  # of the free memory that counts may take


class ResidentRows:
    """The rows of a matrix on a device.

    The host keeps the lengths of the rows: it must know how many values a minibatch has without asking the device.
    """

    def __init__(self, matrix: sp.csr_matrix, device: torch.device):
        self.starts = matrix.indptr.astype(np.int64)
        self.indices = torch.from_numpy(matrix.indices.astype(np.int32, copy=False)).to(device)
        self.counts = torch.from_numpy(matrix.data).to(device)

    def __getitem__(self, rows: np.ndarray) -> Csr:
        """Give some rows."""
        device = self.counts.device
        starts = self.starts[rows]
        lengths = self.starts[rows + 1] - starts
        indptr = np.concatenate([[0], lengths.cumsum()])
        total = int(indptr[-1])
        # one small copy for the three arrays
        sent = torch.from_numpy(np.stack([starts - indptr[:-1], lengths, np.arange(len(rows))]))
        shift, lengths, row = sent.to(device, non_blocking=True)
        row = row.repeat_interleave(lengths, output_size=total)
        where = torch.arange(total, device=device) + shift.index_select(0, row)
        return Csr(
            torch.from_numpy(indptr.astype(np.int32)).to(device, non_blocking=True),
            row.int(),
            self.indices.index_select(0, where),
            self.counts.index_select(0, where),
        )


def fits(counts: dict[str, Counts], device: torch.device) -> bool:
    """Whether all counts are in memory and small beside the free memory of a CUDA device."""
    if device.type != "cuda" or not all(sp.issparse(x) for x in counts.values()):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
        device
    )  # torch keeps what it frees
    return sum(8 * x.nnz for x in counts.values()) < SHARE * free

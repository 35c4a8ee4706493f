"""Minibatches of a mosaic: for every modality only the rows that were measured, and where they belong."""

from collections.abc import Iterator, Sequence

import lightning.pytorch as lightning
import numpy as np
import torch
from scvi.data import AnnDataManager
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mmopt._random import derived
from mmopt.models.mosaic import Mosaic, read_mosaic
from mmopt.models.resident import ResidentRows, fits
from mmopt.models.sparse import Csr

# bytes of held-out cells that stay in memory once they were read from disk: they are scattered, so that reading them anew
# in every epoch would read most of the file a second time
KEPT = 2**28


class MosaicDataset(Dataset):
    """Indexed by an array of cells, gives one minibatch as a dictionary of tensors and sparse rows.

    Or indexed by a sorted array of cells, which is read as a whole and kept until another one comes, and an array of
    positions in it. With ``kept`` a dictionary, groups that come again every epoch are read once, as far as ``KEPT`` goes.
    """

    def __init__(self, mosaic: Mosaic):
        self.mosaic = mosaic
        self.held: Mosaic | None = None
        self.kept: dict[int, Mosaic] | None = None  # by the first cell of the group
        self.resident: dict[str, ResidentRows] = {}
        self.held_cells: np.ndarray | None = None
        self.numbered = False  # whether to say which rows of the data the peaks of a minibatch are

    def __len__(self) -> int:
        return len(self.mosaic.batch)

    def __getitem__(self, cells: np.ndarray | tuple[np.ndarray, np.ndarray]) -> dict[str, Tensor]:
        mosaic, of_data = self.mosaic, cells
        if isinstance(cells, tuple):
            held_cells, cells = cells
            of_data = held_cells[cells]
            if held_cells is not self.held_cells:
                self.held = None  # before the next is read
                self.held, self.held_cells = mosaic.subset(held_cells), held_cells
            mosaic = self.held
        elif self.kept is not None and len(cells):
            mosaic, cells = self._read_once(cells), np.arange(len(cells))
        out = {"batch": torch.from_numpy(mosaic.batch[cells])}
        for m, place in mosaic.place.items():
            having = np.flatnonzero(place[cells] >= 0)
            out[f"{m}_rows"] = torch.from_numpy(having)
            wanted = place[cells[having]]
            out[m] = self.resident[m][wanted] if self.resident else Csr.of(mosaic.counts[m][wanted])
            if self.numbered and m == "atac":
                out["atac_at"] = torch.from_numpy(self.mosaic.place[m][of_data[having]])
        return out

    def _read_once(self, cells: np.ndarray) -> Mosaic:
        group = self.kept.get(int(cells[0]))
        if group is None:
            group = self.mosaic.subset(cells)
            if sum(g.nbytes for g in self.kept.values()) + group.nbytes <= KEPT:
                self.kept[int(cells[0])] = group
        return group


class CellBatches(Sampler):
    """Groups of cells of nearly equal size, in order or reshuffled each epoch from ``seed`` and the epoch alone.

    Parameters
    ----------
    cells
        Positions of the cells.
    batch_size
        Cells of a group, or cells of it that each process takes.
    shuffle, seed
        Whether, and from what.
    on_disk
        Give groups of cells that lie in few contiguous pieces: pieces of ``PIECE`` cells are shuffled, as many as make
        up ``BUFFER`` cells are read together, and these are shuffled among themselves. What is given is a sorted array
        of the cells of a buffer, and the group's positions in it.
    shared
        Give only this process's part of each group, where several train together.
    """

    PIECE, BUFFER = 64, 8192

    def __init__(
        self,
        cells: np.ndarray,
        batch_size: int,
        shuffle: bool,
        seed: int,
        on_disk: bool = False,
        shared: bool = False,
    ):
        self.cells, self.batch_size, self.shuffle, self.seed = cells, batch_size, shuffle, seed
        self.on_disk, self.shared, self.epoch = on_disk, shared, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch; a resumed run then sees the order an uninterrupted one would."""
        self.epoch = epoch

    def __len__(self) -> int:
        size = self.batch_size * self._world[1]
        if not (self.on_disk and self.shuffle):
            return -(-len(self.cells) // size)
        return sum(-(-len(b) // size) for b in np.array_split(self.cells, self._n_buffers))

    @property
    def _world(self) -> tuple[int, int]:
        """Rank and number of the processes that share the groups."""
        distributed = torch.distributed
        if self.shared and distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    @property
    def _n_buffers(self) -> int:
        return -(-len(self.cells) // self.BUFFER)

    def __iter__(self) -> Iterator[np.ndarray | tuple[np.ndarray, np.ndarray]]:
        # a generator: the epoch may be set after this was called
        rank, world = self._world
        rng = np.random.default_rng(derived(self.seed, self.epoch))
        if not len(self.cells):
            return
        if self.on_disk and self.shuffle:
            yield from self._buffered(rng, rank, world)
            return
        cells = rng.permutation(self.cells) if self.shuffle else self.cells
        for group in np.array_split(cells, len(self)):
            yield np.array_split(group, world)[rank]

    def _buffered(self, rng: np.random.Generator, rank: int, world: int) -> Iterator[tuple]:
        pieces = np.split(self.cells, np.arange(self.PIECE, len(self.cells), self.PIECE))
        shuffled = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
        for held in np.array_split(shuffled, self._n_buffers):
            held = np.sort(held)
            order = rng.permutation(len(held))
            for group in np.array_split(order, -(-len(held) // (self.batch_size * world))):
                yield held, np.array_split(group, world)[rank]


class MosaicLoader(DataLoader):
    """The data loader scvi-tools asks of a model."""

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | None = None,
        batch_size: int = 128,
        shuffle: bool = False,
        seed: int = 0,
        shared: bool = False,
        **kwargs,
    ):
        dataset = MosaicDataset(read_mosaic(adata_manager))
        self.indices = (
            np.arange(len(dataset)) if indices is None else cell_positions(indices, len(dataset), "indices")
        )
        if not len(self.indices):
            raise ValueError("indices names no cell")
        on_disk = dataset.mosaic.on_disk
        batches = CellBatches(self.indices, batch_size, shuffle, seed, on_disk, shared)
        # torch draws a seed for workers from this generator; without one it would take it from the global generator
        super().__init__(dataset, sampler=batches, batch_size=None, generator=torch.Generator(), **kwargs)


class MosaicSplitter(lightning.LightningDataModule):
    """Training and validation cells, split within every combination of measured modalities.

    Parameters
    ----------
    adata_manager
        Registered data.
    train_size
        Share of the cells to train on; the others are held out.
    held_out
        Cells to hold out, instead of a random share.
    batch_size, seed
        Cells per step, and the seed of the split and of the order of the cells.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        train_size: float = 0.9,
        held_out: Sequence[int] | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ):
        super().__init__()
        self.manager, self.batch_size, self.seed = adata_manager, batch_size, seed
        mosaic = read_mosaic(adata_manager)
        n_cells = len(mosaic.batch)
        if held_out is not None:
            held_out = cell_positions(held_out, n_cells, "held_out")
        else:
            held_out = held_out_cells(mosaic.present, train_size, np.random.default_rng(derived(seed)))
        self.val_idx: np.ndarray = np.unique(held_out)
        self.train_idx = np.setdiff1d(np.arange(n_cells), self.val_idx)
        self.test_idx = np.array([], dtype=int)
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        if not self.n_train:
            raise ValueError("no cell is left to train on; hold out fewer")
        self._resident: dict[str, ResidentRows] = {}
        self._keeping: list[MosaicDataset] = []

    @property
    def n_atac(self) -> int:
        """Rows of peaks in the data."""
        counts = read_mosaic(self.manager).counts
        return counts["atac"].shape[0] if "atac" in counts else 0

    def reside(self, device: torch.device) -> None:
        """Bring the counts to a device that has room for them, once for all minibatches; see :meth:`leave`."""
        counts = read_mosaic(self.manager).counts
        if fits(counts, device):
            self._resident.update((m, ResidentRows(x, device)) for m, x in counts.items())

    def leave(self) -> None:
        """Free the device of the counts, and the memory of what is on disk, also in loaders that go on."""
        self._resident.clear()
        for dataset in self._keeping:
            dataset.kept = None

    def transfer_batch_to_device(self, batch: dict, device: torch.device, dataloader_idx: int) -> dict:
        """Leave it where it is on a CPU, instead of asking every array of it to move there."""
        return (
            batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def train_dataloader(self) -> MosaicLoader:
        return self._loader(self.train_idx, self.batch_size, True, self.seed)

    def val_dataloader(self) -> MosaicLoader | list:
        if not self.n_val:
            return []
        # twice the batch: no gradients are kept
        loader = self._loader(self.val_idx, 2 * self.batch_size)
        if loader.dataset.mosaic.on_disk:
            loader.dataset.kept = {}
            self._keeping.append(loader.dataset)
        return loader

    def _loader(self, *args) -> MosaicLoader:
        loader = MosaicLoader(self.manager, *args, shared=True)
        loader.dataset.resident, loader.dataset.numbered = self._resident, True
        return loader


def cell_positions(cells: Sequence[int], n_cells: int, name: str) -> np.ndarray:
    """Turn positions or a mask into positions, refusing cells that are not there."""
    cells = np.asarray(cells)
    if cells.dtype == bool and cells.shape == (n_cells,):
        return np.flatnonzero(cells)
    if cells.size == 0:
        return np.array([], dtype=np.int64)
    if cells.ndim != 1 or cells.dtype.kind not in "iu" or cells.min() < 0 or cells.max() >= n_cells:
        raise ValueError(
            f"{name} must hold positions of cells, integers from 0 to {n_cells - 1}, or a mask of {n_cells}"
        )
    return cells.astype(np.int64)


def held_out_cells(present: np.ndarray, train_size: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the cells to hold out, the same share of every combination of modalities in ``present`` (cells × modalities)."""
    _, pattern = np.unique(present, axis=0, return_inverse=True)
    parts = []
    for p in range(pattern.max() + 1):
        cells = rng.permutation(np.flatnonzero(pattern.ravel() == p))
        parts.append(cells[: round((1 - train_size) * len(cells))])
    return np.sort(np.concatenate(parts))

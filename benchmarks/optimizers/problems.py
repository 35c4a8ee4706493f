"""Training problems on which optimizers are compared: one step, one held-out loss, everything fixed by a seed.

The loops are plain, without Lightning: the same batches, starting weights and noise for every optimizer of a seed.
"""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import anndata
import mudata
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt._random import derived, isolated
from mmopt.models import TriVI
from mmopt.models.data import MosaicSplitter

BATCH_SIZE = 128
KL_WARMUP = 0.3  # of the steps


class Problem(Protocol):
    """A problem, started anew for each seed; sets ``per_epoch``, the number of steps of an epoch."""

    per_epoch: int

    def start(self, seed: int) -> list[Tensor]:
        """Begin at the seed's weights and split; return the parameters."""

    def epoch(self, number: int) -> Iterator[Any]:
        """Minibatches of an epoch."""

    def loss(self, batch: Any, progress: float) -> Tensor:
        """Training loss; ``progress`` is the share of the steps that are done."""

    def held_out(self) -> float:
        """Held-out loss, with the same noise at every call."""


class Trivi:
    """TriVI: negative evidence lower bound per cell, 10 % of the cells held out."""

    def __init__(self, mdata: mudata.MuData, batch_key: str | None):
        TriVI.setup_mudata(mdata, batch_key=batch_key)
        self.mdata = mdata

    def start(self, seed: int) -> list[Tensor]:
        model = TriVI(self.mdata, random_state=seed)
        self.module = model.module.train()
        split = MosaicSplitter(model.adata_manager, train_size=0.9, batch_size=BATCH_SIZE, seed=seed)
        self.loader, self.validation = split.train_dataloader(), list(split.val_dataloader())
        self.per_epoch = len(self.loader)
        return list(self.module.parameters())

    def epoch(self, number: int) -> Iterator[dict[str, Tensor]]:
        self.loader.sampler.set_epoch(number)
        yield from self.loader

    def loss(self, batch: dict[str, Tensor], progress: float) -> Tensor:
        return self.module(batch, loss_kwargs={"kl_weight": min(1.0, progress / KL_WARMUP)})[2].loss

    @torch.no_grad()
    def held_out(self) -> float:
        self.module.eval()
        total, n = 0.0, 0
        for i, batch in enumerate(self.validation):
            generator = torch.Generator().manual_seed(derived(0, i))
            noise = torch.randn(len(batch["batch"]), self.module.n_latent, generator=generator)
            out = self.module(batch, inference_kwargs={"noise": noise})[2]
            total += float(sum(v.sum() for v in (out.reconstruction_loss | out.kl_local).values()))
            n += out.n_obs_minibatch
        self.module.train()
        return total / n


class Scvi:
    """scvi-tools' SCVI with its default network: negative evidence lower bound per cell, 10 % held out."""

    def __init__(self, adata: anndata.AnnData, batch_key: str):
        import scvi

        logging.getLogger("scvi").setLevel("ERROR")
        scvi.model.SCVI.setup_anndata(adata, batch_key=batch_key)
        self.build = lambda: scvi.model.SCVI(adata, n_latent=20)
        self.counts = torch.from_numpy(adata.to_df().to_numpy(np.float32))

    def start(self, seed: int) -> list[Tensor]:
        with isolated(seed):
            model = self.build()
        self.module = model.module.train()
        batch = model.adata_manager.get_from_registry("batch")
        self.batch = torch.from_numpy(batch).long().view(-1, 1)
        cells = np.random.default_rng(derived(seed)).permutation(len(self.counts))
        n_held_out = len(cells) // 10
        self.validation, self.cells, self.seed = cells[:n_held_out], cells[n_held_out:], seed
        self.per_epoch = -(-len(self.cells) // BATCH_SIZE)
        return list(self.module.parameters())

    def _tensors(self, cells: np.ndarray) -> dict[str, Tensor]:
        return {
            "X": self.counts[cells],
            "batch": self.batch[cells],
            "labels": torch.zeros(len(cells), 1).long(),
        }

    def epoch(self, number: int) -> Iterator[dict[str, Tensor]]:
        cells = np.random.default_rng(derived(self.seed, number)).permutation(self.cells)
        for part in np.array_split(cells, self.per_epoch):
            yield self._tensors(part)

    def loss(self, batch: dict[str, Tensor], progress: float) -> Tensor:
        return self.module(batch, loss_kwargs={"kl_weight": min(1.0, progress / KL_WARMUP)})[2].loss

    @torch.no_grad()
    def held_out(self) -> float:
        self.module.eval()
        with isolated(0):
            out = self.module(self._tensors(self.validation))[2]
        self.module.train()
        terms = [*out.reconstruction_loss.values(), *out.kl_local.values()]
        return float(sum(v.sum() for v in terms)) / len(self.validation)


class Table:
    """Problems on rows of a table: batches without replacement, a fifth of the rows held out."""

    columns: tuple[Tensor, ...]

    def start(self, seed: int) -> list[Tensor]:
        rows = np.random.default_rng(derived(seed)).permutation(len(self.columns[0]))
        cut = len(rows) // 5
        self.validation, self.rows, self.seed = rows[:cut], rows[cut:], seed
        self.per_epoch = -(-len(self.rows) // BATCH_SIZE)
        with isolated(seed):
            self.network = self.build()
        return list(self.network.parameters())

    def build(self) -> nn.Module:
        raise TypeError("a table problem names its network")

    def value(self, columns: tuple[Tensor, ...]) -> Tensor:
        raise TypeError("a table problem names its loss")

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        rows = np.random.default_rng(derived(self.seed, number)).permutation(self.rows)
        for part in np.array_split(rows, self.per_epoch):
            yield tuple(c[part] for c in self.columns)

    def loss(self, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return self.value(batch)

    @torch.no_grad()
    def held_out(self) -> float:
        self.network.eval()
        value = float(self.value(tuple(c[self.validation] for c in self.columns)))
        self.network.train()
        return value


class Digits(Table):
    """Classification of 1,797 handwritten digits (scikit-learn's) by a network with dropout; cross-entropy."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        self.columns = torch.from_numpy(x.astype(np.float32) / 16), torch.from_numpy(y)

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def value(self, columns: tuple[Tensor, ...]) -> Tensor:
        x, y = columns
        return cross_entropy(self.network(x), y)


class _Factors(nn.Module):
    def __init__(self, n: int, rank: int):
        super().__init__()
        self.rows = nn.Parameter(0.1 * torch.randn(n, rank))
        self.columns = nn.Parameter(0.1 * torch.randn(n, rank))

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return (self.rows[i] * self.columns[j]).sum(1)


class Completion(Table):
    """Completion of a noisy 200 × 200 matrix of rank 5 from a fifth of its entries; squared error.

    A batch touches few rows, so most gradients are zero: a hard case for a vote of gradients.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        full = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 200)) + 0.5 * rng.normal(size=(200, 200))
        i, j = np.divmod(rng.permutation(200 * 200)[:8000], 200)
        self.columns = (
            torch.from_numpy(i),
            torch.from_numpy(j),
            torch.from_numpy(full[i, j].astype(np.float32)),
        )

    def build(self) -> nn.Module:
        return _Factors(200, 5)

    def value(self, columns: tuple[Tensor, ...]) -> Tensor:
        i, j, value = columns
        return mse_loss(self.network(i, j), value)


NAMES = ("toy", "teaseq", "mosaic", "kang", "digits", "completion")
FILES = {
    "teaseq": "teaseq_rna_adt.h5mu",
    "mosaic": "trimodal_mosaic_tea_bmmc.h5mu",
    "kang": "kang_ifnb.h5ad",
}


def problem(name: str, folder: Path | None) -> Problem:
    """Make the problem called ``name``; three of them need a folder with real data."""
    if name in FILES and folder is None:
        raise SystemExit(f"{name} needs --data, the folder with {FILES[name]}")
    with warnings.catch_warnings(), override_pull_on_update():
        warnings.simplefilter("ignore")
        if name == "toy":
            return Trivi(mm.datasets.toy(), "donor")
        if name == "teaseq":
            mdata = mudata.read_h5mu(folder / FILES[name])
            mm.pp.prepare(mdata, n_top_genes=1500)
            return Trivi(mdata, None)
        if name == "mosaic":
            return Trivi(mudata.read_h5mu(folder / FILES[name]), "batch")
        if name == "kang":
            return Scvi(anndata.read_h5ad(folder / FILES[name]), "donor")
    return {"digits": Digits, "completion": Completion}[name]()

"""The registered data as arrays: read once, and again when they changed."""

import weakref
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scvi.data import AnnDataManager

from mmopt import _checks
from mmopt._batches import batch_codes
from mmopt._keys import MODALITIES
from mmopt._logging import logger
from mmopt.models import stored
from mmopt.models.stored import Counts, StoredRows


@dataclass(frozen=True)
class Mosaic:
    """Counts of the measured rows, their place in the modality (-1: absent) and the batch of every cell."""

    counts: dict[str, Counts]
    place: dict[str, np.ndarray]
    batch: np.ndarray

    @property
    def on_disk(self) -> bool:
        """Whether any counts are."""
        return any(isinstance(x, StoredRows) for x in self.counts.values())

    @property
    def is_open(self) -> bool:
        """Whether all counts can be read."""
        return all(x.is_open for x in self.counts.values() if isinstance(x, StoredRows))

    @property
    def present(self) -> np.ndarray:
        """Cells × modalities."""
        return np.column_stack([place >= 0 for place in self.place.values()])

    @property
    def nbytes(self) -> int:
        """Memory that the counts take, where they are in memory."""
        return sum(x.data.nbytes + x.indices.nbytes + x.indptr.nbytes for x in self.counts.values())

    def seen(self, n_batch: int) -> dict[str, np.ndarray]:
        """Return, per modality, which batches have it."""
        return {m: np.bincount(self.batch[at >= 0], minlength=n_batch) > 0 for m, at in self.place.items()}

    def subset(self, cells: np.ndarray) -> "Mosaic":
        """Read some cells into memory."""
        counts, place = {}, {}
        for m, at in self.place.items():
            there = at[cells] >= 0
            counts[m] = self.counts[m][at[cells[there]]]
            place[m] = np.where(there, there.cumsum() - 1, -1)
        return Mosaic(counts, place, self.batch[cells])


_READ: WeakKeyDictionary[AnnDataManager, tuple[list, Mosaic, list[float]]] = WeakKeyDictionary()
LOOKED_AT = 10_000  # values of a matrix by which a change in place is noticed


def read_mosaic(manager: AnnDataManager) -> Mosaic:
    """Return the registered data as arrays; they are read once, and again when they changed.

    That is when cells, features, batches or the matrix are others, or many of its values (``sc.pp.log1p``), and after
    ``mdata.write()``, which opens the file of data on disk anew. Single values that were changed in place are not
    noticed, nor are those on disk: that would take a pass over all of them. Where the matrix holds no counts any more, as
    after ``sc.pp.normalize_total``, all that were read are kept if they are still intact.
    """
    known, signs = _READ.get(manager), _signs(manager)
    if known is not None and known[1].is_open and _alike(known[0], signs):
        return known[1]
    if known is not None:
        try:
            _register_again(manager)
        except ValueError as error:
            intact = known[1].is_open and _sums(known[1]) == known[2]
            if not (intact and _alike(known[0], signs, matrices=False)):
                raise ValueError(f"the data have changed since the model read them: {error}") from error
            logger.warning(
                "the model goes on with the counts that it has read; the data have changed: %s", error
            )
            _READ[manager] = signs, *known[1:]
            return known[1]
    mosaic = _read(manager)
    _READ[manager] = signs, mosaic, _sums(mosaic)
    return mosaic


def _alike(one: list, other: list, *, matrices: bool = True) -> bool:
    """Whether nothing differs, or nothing but the matrices."""

    def same(x: object, y: object) -> bool:
        if isinstance(x, weakref.ref | int | float):  # of a matrix
            return not matrices or (x is y if isinstance(x, weakref.ref) else x == y)
        return x.equals(y) if isinstance(x, pd.Index | pd.Series) else x is y

    return len(one) == len(other) and all(map(same, one, other))


def _sums(mosaic: Mosaic) -> list[float]:
    """Sum up some of the counts: they may be the arrays of the data, and change with these."""
    return [_sum(x.data) for x in mosaic.counts.values() if not isinstance(x, StoredRows)]


def _sum(values: np.ndarray) -> float:
    return float(values[:: len(values) // LOOKED_AT + 1].sum(dtype=np.float64))


def _signs(manager: AnnDataManager) -> list:
    """Return what tells the data from other data at little cost."""
    mdata, fields = manager.adata, manager.registry["field_registries"]
    states = [fields[m]["state_registry"] for m in MODALITIES if m in fields]
    key = fields["batch"]["state_registry"]["original_key"]
    columns = () if key is None else (key, key.partition(":")[2])
    signs: list = [mdata.obs_names]
    for where in (mdata, *(mdata.mod[s["modality"]] for s in states if s["modality"] in mdata.mod)):
        signs += [where.obs[column].copy() for column in columns if column in where.obs]
    for state in states:
        if state["modality"] not in mdata.mod:
            signs.append(None)
            continue
        adata = mdata.mod[state["modality"]]
        matrix, _ = _checks.located(adata, state["modality"], state["source"])
        signs += [adata.obs_names, adata.var_names]
        if _checks.in_memory(matrix):
            values = matrix.data if sp.issparse(matrix) else matrix.ravel(order="K")
            signs += [weakref.ref(matrix), len(values), _sum(values)]
    return signs


def _register_again(manager: AnnDataManager) -> None:
    """Refuse what data that changed may not be, as when they were first given."""
    mdata, fields = manager.adata, manager.registry["field_registries"]
    there = [fields[m]["state_registry"]["modality"] for m in MODALITIES if m in fields]
    _checks.check_obs(mdata, {name: name for name in there if name in mdata.mod})
    for field in manager.fields:
        known = fields[field.registry_key]
        known["state_registry"] = field.transfer_field(known["state_registry"], mdata)


def forget(manager: AnnDataManager) -> None:
    """Read the data again when they are asked for."""
    _READ.pop(manager, None)


def _read(manager: AnnDataManager) -> Mosaic:
    mdata = manager.adata
    counts, place, there = {}, {}, {}
    empty: list[str] = []  # batches that have zeros in place of protein
    for m in MODALITIES:
        if m not in manager.registry["field_registries"]:
            continue
        state = manager.get_state_registry(m)
        if state["absent"]:
            counts[m] = sp.csr_matrix((0, len(state["features"])), dtype=np.float32)
            place[m] = np.full(mdata.n_obs, -1)
            continue
        there[m] = state["modality"]
        adata = mdata.mod[there[m]]
        columns = adata.var_names.get_indexer(state["features"])
        counts[m] = stored.counts(adata, there[m], state["source"], columns)
        place[m] = _checks.positions(mdata, there[m])
        empty = list(state.get("empty_batches", [])) if m == "prot" else empty
    batch = manager.get_state_registry("batch")
    codes, found = batch_codes(mdata, batch["original_key"], there)
    known = {c: i for i, c in enumerate(batch["categorical_mapping"])}
    of_cell = np.array([known[c] for c in found])[codes]
    if empty:  # absent, not zero
        nothing = np.concatenate([np.asarray(x.sum(1)).ravel() == 0 for x in stored.blocks(counts["prot"])])
        absent = np.isin(of_cell, [known[b] for b in empty]) & nothing[place["prot"]]
        place["prot"] = np.where(absent, -1, place["prot"])
    return Mosaic(counts, place, of_cell)

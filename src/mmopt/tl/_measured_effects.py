"""What perturbed cells show, measured in the unit of what is predicted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse, stats

from mmopt import _keys
from mmopt._checks import counts, find_modalities, positions
from mmopt.grn.effects import benjamini_hochberg
from mmopt.grn.pooling import SCALE, as_dense, plain_embedding
from mmopt.tl._perturbation_labels import Hits, by_name, find_control, read_label
from mmopt.tl._profiles import stored_embedding, usual_embedding

LEAST_CELLS, LEAST_EFFECT = 10, 0.1
LOCAL = 4  # a pool takes at most a quarter of a sample
_FDR, _POOL, _DIMS = 0.05, 30, 20


@dataclass(frozen=True, eq=False)
class Screened:
    """Cells of one modality, and how they are brought to the scale of a prediction.

    Parameters
    ----------
    counts
        ``(n_cells, n_counted)`` raw counts of the features that make up a cell's total.
    shown
        Which of these are predicted; boolean.
    var
        What is known of them.
    embedding
        ``(n_cells, n_dims)``, in which neighbours are pooled.
    k
        Cells in a pool where there are plenty.
    ratio
        Whether the unit is the centred log ratio of protein.
    """

    counts: np.ndarray | sparse.csr_matrix
    shown: np.ndarray
    var: pd.DataFrame
    embedding: np.ndarray
    k: int
    ratio: bool

    def pool_size(self, n_cells: int) -> int:
        """Cells in a pool of so many: few enough that the pools still differ."""
        return max(1, min(self.k, n_cells // LOCAL))

    def pools(self, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Add up the counts of neighbours within samples of ``size`` of these cells; also give their numbers.

        Neighbours are nearer among many cells, and the logarithm of a sum is smaller where it mixes less: what is compared
        comes from equally many cells on both sides.
        """
        if self.ratio:  # a mean of log ratios is the same with and without pools
            return as_dense(self.counts[rows]), np.ones(len(rows))
        samples = np.resize(rows, (-(-len(rows) // size), size))  # the last begins again
        parts = [part for some in samples for part in _neighbours(self.embedding, some, self.pool_size(size))]
        sizes = np.array([len(part) for part in parts])
        order = np.concatenate(parts)
        into = sparse.csr_matrix((np.ones(len(order)), np.arange(len(order)), np.r_[0, np.cumsum(sizes)]))
        return as_dense(into @ self.counts[order]), sizes.astype(float)

    def logged(self, values: np.ndarray, hits: Hits = ()) -> np.ndarray:
        """Log the predicted features; what is hit is left out of totals and centres, as it is in predictions."""
        free = ~of_gene(self.var, hits)
        free |= not free.any()
        if self.ratio:
            ratio = np.log1p(values)
            return (ratio - ratio[:, free].mean(1, keepdims=True))[:, self.shown]
        total = values[:, free].sum(1, keepdims=True)
        return np.log1p(values[:, self.shown] * (SCALE / np.maximum(total, 1e-12)))

    def singles(self, rows: np.ndarray, hits: Hits = ()) -> np.ndarray:
        """Log single cells."""
        return self.logged(as_dense(self.counts[rows]), hits)


@dataclass(frozen=True, eq=False)
class Measured:
    """Effects, perturbations × predicted features, NaN where one was not measured.

    Parameters
    ----------
    hits
        What each perturbation hits, by its name.
    truths
        Effects against either half of the control cells, or one array where that is all there is.
    changed
        Which features truly change.
    halves
        Effects in halves of the perturbed cells, each against one half of the controls: they share no cell.
    rows, controls
        With cells: those of each perturbation, and of either half of the controls.
    """

    hits: dict[str, Hits]
    truths: tuple[np.ndarray, ...]
    changed: np.ndarray
    halves: tuple[np.ndarray, np.ndarray] | None
    rows: list[np.ndarray] = field(default_factory=list)
    controls: tuple[np.ndarray, ...] = ()

    @property
    def delta(self) -> np.ndarray:
        """The effect measured with all cells."""
        return np.mean(self.truths, axis=0)

    @property
    def noise(self) -> np.ndarray | None:
        """A draw of noise as large as that of ``truths``, and independent of it but for the controls' sign."""
        if self.halves is None:
            return None
        one, other = self.halves
        # of halves of the controls, which have no more cells in a truth than here
        controls = self.truths[0] - self.truths[-1]
        # of halves of the perturbed cells, which are twice as many in a truth
        return (one - other - controls) / 2 + controls / np.sqrt(2)


def network_params(mdata: MuData) -> Mapping:
    """Parameters of the network in ``mdata``, if there is one."""
    slot = mdata.uns.get(_keys.REGULONS) if isinstance(mdata, MuData) else None
    return slot["params"] if isinstance(slot, Mapping) and "params" in slot else {}


def roles(mdata: MuData) -> dict[str, str]:
    """Modalities by the names that the network was fitted with, or else by their usual ones."""
    names = network_params(mdata).get("modalities", {})
    return find_modalities(
        mdata, **{r: n for r, n in names.items() if r in _keys.MODALITIES and n in mdata.mod}
    )


def read_cells(
    mdata: MuData, name: str, role: str, layer: str | None, shown: np.ndarray, rows: np.ndarray
) -> Screened:
    """Read the cells in these rows of ``mdata``; ``shown``: which features of the modality are predicted.

    A cell's total is that of the network's features where these are among them, since a prediction knows no others.
    """
    adata, params = mdata.mod[name], network_params(mdata)
    counted = shown
    if len(params):
        table = mdata.uns[_keys.REGULONS]["features"]
        known = adata.var_names.isin(table.loc[(table["modality"] == name).to_numpy(), "feature"].astype(str))
        counted = known if known[shown].all() else shown
    matrix = counts(adata, name, layer)[positions(mdata, name)[rows]][:, np.flatnonzero(counted)]
    ratio, k = role == "prot", int(params.get("n_neighbors", _POOL))
    plainly = Screened(matrix, np.ones(counted.sum(), bool), adata.var[counted], np.empty(0), k, ratio)
    rep = params.get("use_rep") or usual_embedding(mdata)
    if rep in mdata.obsm:
        embedding = stored_embedding(mdata, rep)[rows]
    else:
        embedding = plainly.singles(np.arange(len(rows)))
        embedding = embedding if embedding.shape[1] <= _DIMS else plain_embedding([embedding], _DIMS)
    return Screened(matrix, shown[counted], adata.var[counted], embedding, k, ratio)


def measure(
    cells: Screened,
    labels: pd.Series,
    control: str | None,
    key: str,
    prefixes: set[str],
    rng: np.random.Generator,
) -> Measured:
    """Mean difference of pools of perturbed and of control cells; labels that say the same are one perturbation."""
    values = labels.astype(str).to_numpy()
    control = find_control(dict.fromkeys(values), control, key)
    controls = rng.permutation(np.flatnonzero(values == control))
    read = {label: read_label(label, prefixes) for label in dict.fromkeys(values) if label != control}
    sizes: Counter[Hits] = Counter(read[value] for value in values if value != control)
    enough = [hits for hits, n in sizes.items() if n >= LEAST_CELLS]
    if len(controls) < LEAST_CELLS or not enough:
        raise ValueError(
            f"obs column {key!r}: {LEAST_CELLS} control cells and a perturbation with as many are needed; there are "
            f"{len(controls)} of {control!r} and at most {max(sizes.values(), default=0)} of a perturbation"
        )
    found = by_name(enough, f"obs column {key!r}")
    name_of = {hits: name for name, hits in found.items()}
    named = np.array([name_of.get(read.get(value, ()), "") for value in values], dtype=object)
    parts = tuple(np.array_split(controls, 2))
    rest = [_Pools(cells, part) for part in parts]
    rows, truths, changed, halves = [], [], [], []
    for name, hits in found.items():
        mine = rng.permutation(np.flatnonzero(named == name))
        rows.append(mine)
        after = _Pools(cells, mine)
        truths.append([_effect(after, before, hits) for before in rest])
        with np.errstate(invalid="ignore", divide="ignore"):
            p = stats.ttest_ind(*(cells.singles(r, hits) for r in (mine, controls)), equal_var=False).pvalue
        changed.append(
            (np.nan_to_num(benjamini_hochberg(p), nan=1) < _FDR)
            & (np.abs(np.mean(truths[-1], axis=0)) > LEAST_EFFECT)
        )
        either = [_Pools(cells, half) for half in np.array_split(mine, 2)]
        halves.append([_effect(half, before, hits) for half, before in zip(either, rest, strict=True)])
    one, other = np.stack(halves, axis=1)
    return Measured(found, tuple(np.stack(truths, axis=1)), np.stack(changed), (one, other), rows, parts)


def of_gene(var: pd.DataFrame, hits: Hits) -> np.ndarray:
    """Which features are the perturbed ones themselves, or their proteins."""
    names = [name for name, _ in hits]
    own = var.index.isin(names)
    return (
        own | var["gene"].astype(str).isin(names).to_numpy()
        if "gene" in var and "promoter" not in var
        else own
    )


class _Pools:
    """Pools of the same cells again and again: those of the last size are kept, as most perturbations have the same."""

    def __init__(self, cells: Screened, rows: np.ndarray):
        self.cells, self.rows = cells, rows
        self.last: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None

    def mean(self, size: int, hits: Hits) -> np.ndarray:
        """Mean logged pool within samples of ``size``."""
        if self.last is None or self.last[0] != size:
            self.last = size, self.cells.pools(self.rows, size)
        pools, sizes = self.last[1]
        return np.average(self.cells.logged(pools, hits), axis=0, weights=sizes)


def _effect(after: _Pools, before: _Pools, hits: Hits) -> np.ndarray:
    # the logarithm of a sum depends on how much was added up, and from how far apart
    size = min(len(after.rows), len(before.rows))
    there, here = (side.mean(size, hits) for side in (after, before))
    return there - here


def _neighbours(embedding: np.ndarray, rows: np.ndarray, k: int) -> list[np.ndarray]:
    """Halve the cells along their longest axis until about ``k`` are together.

    The nearest cells of each would overlap: some would be added up in many pools, others in none.
    """
    if len(rows) <= 1.5 * k:
        return [rows]
    centred = embedding[rows] - embedding[rows].mean(0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    ordered = rows[np.argsort(centred @ axis, kind="stable")]
    return [part for half in np.array_split(ordered, 2) for part in _neighbours(embedding, half, k)]

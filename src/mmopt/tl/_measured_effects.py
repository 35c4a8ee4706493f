"""What perturbed cells show, measured in the unit of what is predicted."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse, stats

from mmopt import _keys
from mmopt._checks import counts, find_modalities, positions
from mmopt.grn.effects import benjamini_hochberg
from mmopt.grn.pooling import SCALE, plain_embedding
from mmopt.tl._perturbation_labels import Hits, by_name, find_control, read_label
from mmopt.tl._profiles import stored_embedding, usual_embedding

LEAST_CELLS, LEAST_EFFECT = 10, 0.1
_FDR, _POOL, _LOCAL, _DIMS = 0.05, 30, 4, 20


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
        return max(1, min(self.k, n_cells // _LOCAL))

    def pools(self, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Add up the counts of neighbours within samples of ``size`` of these cells; also give their numbers.

        Neighbours are nearer among many cells, and the logarithm of a sum is smaller where it mixes less: what is compared
        comes from equally many cells on both sides.
        """
        if self.ratio:  # a mean of log ratios is the same with and without pools
            return _dense(self.counts[rows]), np.ones(len(rows))
        samples = np.resize(rows, (-(-len(rows) // size), size))  # the last begins again
        parts = [part for some in samples for part in _neighbours(self.embedding, some, self.pool_size(size))]
        sizes = np.array([len(part) for part in parts])
        order = np.concatenate(parts)
        into = sparse.csr_matrix((np.ones(len(order)), np.arange(len(order)), np.r_[0, np.cumsum(sizes)]))
        return _dense(into @ self.counts[order]), sizes.astype(float)

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
        return self.logged(_dense(self.counts[rows]), hits)


@dataclass(frozen=True, eq=False)
class Measured:
    """Effects, perturbations × predicted features, NaN where one was not measured.

    ``halves``: the effect in either half of the cells. With cells, ``rows``: those of each perturbation, ``controls``:
    the unperturbed.
    """

    hits: dict[str, Hits]
    delta: np.ndarray
    changed: np.ndarray
    halves: tuple[np.ndarray, np.ndarray] | None
    rows: list[np.ndarray] = field(default_factory=list)
    controls: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))


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
    first = rng.random(len(controls)) < 0.5
    first[:2] = True, False  # neither half is empty
    rest = [_remembered(cells, sample) for sample in (controls, controls[first], controls[~first])]
    rows, delta, changed = [], [], []
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for name, hits in found.items():
        mine = rng.permutation(np.flatnonzero(named == name))
        rows.append(mine)
        delta.append(_effect(cells, mine, controls, rest[0], hits))
        with np.errstate(invalid="ignore", divide="ignore"):
            p = stats.ttest_ind(*(cells.singles(r, hits) for r in (mine, controls)), equal_var=False).pvalue
        changed.append(
            (np.nan_to_num(benjamini_hochberg(p), nan=1) < _FDR) & (np.abs(delta[-1]) > LEAST_EFFECT)
        )
        half = rng.permutation(len(mine)) < len(mine) // 2
        for out, some, others, pools in zip(
            halves, (mine[half], mine[~half]), (controls[first], controls[~first]), rest[1:], strict=True
        ):
            out.append(_effect(cells, some, others, pools, hits))
    return Measured(
        found, np.stack(delta), np.stack(changed), (np.stack(halves[0]), np.stack(halves[1])), rows, controls
    )


def of_gene(var: pd.DataFrame, hits: Hits) -> np.ndarray:
    """Which features are the perturbed ones themselves, or their proteins."""
    names = [name for name, _ in hits]
    own = var.index.isin(names)
    return (
        own | var["gene"].astype(str).isin(names).to_numpy()
        if "gene" in var and "promoter" not in var
        else own
    )


def _remembered(cells: Screened, rows: np.ndarray) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Pools of the same cells again and again: those of the last size are kept, as most perturbations have the same."""
    last: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def pools(size: int) -> tuple[np.ndarray, np.ndarray]:
        if size not in last:
            last.clear()
            last[size] = cells.pools(rows, size)
        return last[size]

    return pools


def _effect(
    cells: Screened,
    mine: np.ndarray,
    controls: np.ndarray,
    rest: Callable[[int], tuple[np.ndarray, np.ndarray]],
    hits: Hits,
) -> np.ndarray:
    # the logarithm of a sum depends on how much was added up, and from how far apart
    size = min(len(mine), len(controls))
    after, before = (
        np.average(cells.logged(pools, hits), axis=0, weights=sizes)
        for pools, sizes in (cells.pools(mine, size), rest(size))
    )
    return after - before


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


def _dense(matrix: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.todense() if sparse.issparse(matrix) else matrix, dtype=float)

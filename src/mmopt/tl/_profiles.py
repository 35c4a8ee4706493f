"""Pooled, normalised raw counts of the cells of a MuData, all modalities side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from mmopt._checks import check_obs, counts, find_modalities, listed, positions
from mmopt._keys import EMBEDDING, MODALITIES, REGULONS
from mmopt.grn.pooling import log_ratio, per_ten_thousand, plain_embedding, pool_counts
from mmopt.tl._features import Features

# for slots: pools were found in principal components of their own, not in an embedding that was stored
OWN_COMPONENTS = "principal components"


@dataclass(frozen=True, eq=False)
class Profiles:
    """What was measured of the cells, and where they lie.

    Parameters
    ----------
    features
        The columns.
    counts
        Role to the raw counts of its measured cells; for protein to their centred log ratios.
    rows
        Role to the row in ``mdata`` of each of them.
    embedding
        ``(n_cells, n_dims)``, in which neighbours are pooled.
    counted
        Role to whether each feature was counted in each cell, where a centred log ratio no longer tells (protein).
    """

    features: Features
    counts: Mapping[str, np.ndarray | sparse.csr_matrix]
    rows: Mapping[str, np.ndarray]
    embedding: np.ndarray
    counted: Mapping[str, np.ndarray] = field(default_factory=dict)

    def values(self, query: np.ndarray, k: int, among: np.ndarray | None = None) -> np.ndarray:
        """Values of the pools around the queried cells, ``(n_query, n_features)``.

        Counts per 10,000 of these features for RNA and ATAC; for protein the exponent of the mean centred log ratio.
        ``among`` (boolean, one per cell of the data) limits what may be pooled.
        """
        parts = []
        for role in self.features.modalities:
            rows = self.rows[role]
            chosen = None if among is None else np.flatnonzero(among[rows])
            pooled = pool_counts(self.counts[role], rows, self.embedding, query, k, chosen)
            n = min(k, len(rows if chosen is None else chosen))
            parts.append(np.exp(pooled / n) if role == "prot" else per_ten_thousand(pooled))
        return np.hstack(parts)

    def detected(self, columns: Iterable[int], cells: np.ndarray) -> dict[int, tuple[int, int]]:
        """For each feature asked for: in how many of ``cells`` (boolean) it was counted, and how many of them were measured."""
        return {column: found[0] for column, found in self.detected_in(columns, [cells]).items()}

    def detected_in(
        self, columns: Iterable[int], groups: Sequence[np.ndarray]
    ) -> dict[int, list[tuple[int, int]]]:
        """As :meth:`detected`, for each of several groups of cells (boolean)."""
        asked = np.unique(np.fromiter(columns, dtype=int))
        found: dict[int, list[tuple[int, int]]] = {}
        for role, block in self.features.blocks.items():
            mine = asked[(asked >= block.start) & (asked < block.stop)]
            if not mine.size:
                continue
            # all at once: a sparse matrix of rows is read whole for every column
            counted = self.counted.get(role, self.counts[role])[:, mine - block.start] > 0
            found |= {int(c): [] for c in mine}
            for cells in groups:
                here = cells[self.rows[role]]
                for c, n in zip(mine, np.ravel(counted[here].sum(0)), strict=True):
                    found[int(c)].append((int(n), int(here.sum())))
        return found


def read_profiles(mdata: MuData, features: Features, *, layer: str | None, use_rep: str | None) -> Profiles:
    """Read what a network is fitted to or applied to.

    Raises
    ------
    ValueError
        Counts that are no raw counts; cells without RNA, or without a modality where no embedding is given.
    KeyError
        No such embedding.
    """
    check_obs(mdata, features.modalities)
    matrices, rows, counted, shares = {}, {}, {}, {}
    for role, name in features.modalities.items():
        adata = mdata.mod[name]
        whole = counts(adata, name, layer)
        columns, place = adata.var_names.get_indexer(features.names[role]), positions(mdata, name)
        here = np.flatnonzero(place >= 0)
        matrix = selected(whole, place[here], columns)
        if role == "prot":
            raw = np.asarray(matrix.todense() if sparse.issparse(matrix) else matrix, dtype=float)
            matrix, counted[role] = log_ratio(raw), raw > 0
        elif matrix.shape[1] < whole.shape[1]:
            mine, total = np.ravel(matrix.sum(1)).astype(float), np.ravel(whole.sum(1)).astype(float)
            total = total[place[here]]
            shares[role] = float((mine[total > 0] / total[total > 0]).mean())
        matrices[role], rows[role] = matrix, here
    embedding = _embedding(mdata, features, matrices, rows, use_rep)
    return Profiles(replace(features, shares=shares), matrices, rows, embedding, counted)


def selected(
    matrix: np.ndarray | sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray | sparse.csr_matrix:
    """Rows and columns of a matrix; the matrix itself where that is all of it."""
    some = matrix if _all_in_order(columns, matrix.shape[1]) else matrix[:, columns]
    return some if _all_in_order(rows, matrix.shape[0]) else some[rows]


def _all_in_order(chosen: np.ndarray, n: int) -> bool:
    """Whether nothing would be left out or moved: a copy of large counts is not made for that."""
    return np.array_equal(chosen, np.arange(n))


def stored_embedding(mdata: MuData, use_rep: str) -> np.ndarray:
    """Read an embedding of all cells."""
    if use_rep not in mdata.obsm:
        raise KeyError(
            f"use_rep={use_rep!r}: mdata.obsm has only {listed(mdata.obsm, 20) or 'nothing'}; call "
            "`mm.tl.integrate(mdata)` first, or name any embedding with `use_rep=`, e.g. 'X_pca'"
        )
    embedding = np.asarray(mdata.obsm[use_rep], dtype=float)
    if not np.isfinite(embedding).all():
        raise ValueError(f"mdata.obsm[{use_rep!r}] has NaN or infinite values")
    return embedding


def usual_embedding(mdata: MuData) -> str:
    """Name of the embedding that is taken where none is named."""
    return EMBEDDING if EMBEDDING in mdata.obsm else OWN_COMPONENTS


def _embedding(
    mdata: MuData, features: Features, matrices: Mapping, rows: Mapping, use_rep: str | None
) -> np.ndarray:
    use_rep = use_rep or usual_embedding(mdata)
    if use_rep != OWN_COMPONENTS:
        return stored_embedding(mdata, use_rep)
    for role, name in features.modalities.items():
        if len(rows[role]) < mdata.n_obs:
            raise ValueError(
                f"{mdata.n_obs - len(rows[role])} cells lack modality {name!r}, so cells can only be compared in a joint "
                "embedding; call `mm.tl.integrate(mdata)` and then `mm.tl.regulons`"
            )
    logged = []
    for role in features.modalities:
        m = matrices[role]
        dense = np.asarray(m.todense() if sparse.issparse(m) else m, dtype=float)
        logged.append(dense if role == "prot" else np.log1p(per_ten_thousand(dense)))
    return plain_embedding(logged)


def known_modalities(mdata: MuData, regulons: str = REGULONS, **names: str | bool | None) -> dict[str, str]:
    """Role to the modality's name: by ``names`` where any is given, else as the network has them, else by usual names.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`mmopt._checks.find_modalities`; a modality of the network that is gone.
    """
    given = any(name is not None for name in names.values())
    if not given and isinstance(mdata, MuData) and regulons in mdata.uns:
        fitted = mdata.uns[regulons]["params"]["modalities"]
        if gone := [name for name in fitted.values() if name not in mdata.mod]:
            raise ValueError(
                f"the network was fitted with modality {gone[0]!r}, which is gone; call `mm.tl.regulons` again"
            )
        names = {role: fitted.get(role, False) for role in MODALITIES}
    return find_modalities(mdata, **names)


def read_profiles_of(mdata: MuData, regulons: str) -> tuple[Features, Profiles]:
    """Features and profiles as they were when the network was fitted."""
    modalities, slot = known_modalities(mdata, regulons), mdata.uns[regulons]
    params, table = slot["params"], slot["features"]
    names = {
        role: pd.Index(table.loc[(table["modality"] == name).to_numpy(), "feature"].astype(object))
        for role, name in modalities.items()
    }
    for role, name in modalities.items():
        if len(gone := names[role].difference(mdata.mod[name].var_names)):
            raise ValueError(
                f"modality {name!r}: {len(gone)} features of the network are gone ({listed(gone)}); "
                "call `mm.tl.regulons` again"
            )
    features = Features(modalities, names)
    use_rep = params["use_rep"] or usual_embedding(mdata)  # files of before say nothing where none was named
    if use_rep not in (OWN_COMPONENTS, *mdata.obsm):
        raise KeyError(
            f"the network's cells were pooled in mdata.obsm[{use_rep!r}], which is gone; store it again, or call "
            "`mm.tl.regulons` again"
        )
    profiles = read_profiles(mdata, features, layer=params["layer"] or None, use_rep=use_rep)
    return profiles.features, profiles

"""Unspliced RNA of a MuData: what is being transcribed now, pooled as the other counts are."""

from collections.abc import Callable

import numpy as np
from mudata import MuData

from mmopt._checks import counts, located, positions
from mmopt._response import log_odds
from mmopt.grn.pooling import per_ten_thousand, pool_counts
from mmopt.grn.scale import tops
from mmopt.tl._profiles import Profiles


def nascent(
    mdata: MuData, profiles: Profiles, unspliced: str, layer: str | None, k: int
) -> Callable[..., np.ndarray]:
    """Read the layer, and return what gives the log odds of pools of ``k`` cells.

    Parameters
    ----------
    mdata, profiles
        Data, and what else was read of them.
    unspliced, layer
        Layers with the raw counts of unspliced RNA and of what is taken for expression.

    Returns
    -------
    Callable
        Of the rows that are queried and, as in :meth:`Profiles.values`, which cells may be pooled; its result is
        ``(n_query, n_features)``, NaN for what is no gene.

    Raises
    ------
    KeyError, ValueError
        No such layer, no raw counts in it, or the counts of expression themselves.
    """
    name, names = profiles.features.modalities["rna"], profiles.features.names["rna"]
    adata = mdata.mod[name]
    whole, (_, where) = counts(adata, name, unspliced), located(adata, name, unspliced)
    if where == located(adata, name, layer)[1]:
        raise ValueError(
            f"unspliced={unspliced!r}: {where} is what is read as expression, and cannot say what is made of it; name the layer "
            "with unspliced counts, and the other with `layer=`"
        )
    place = positions(mdata, name)[profiles.rows["rna"]]
    matrix = whole[place][:, adata.var_names.get_indexer(names)]

    def odds(query: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        rows = profiles.rows["rna"]
        chosen = None if among is None else np.flatnonzero(among[rows])
        pooled = per_ten_thousand(pool_counts(matrix, rows, profiles.embedding, query, k, chosen))
        out = np.full((len(query), len(profiles.features.table)), np.nan)
        out[:, profiles.features.blocks["rna"]] = log_odds(pooled / tops(pooled))
        return out

    return odds

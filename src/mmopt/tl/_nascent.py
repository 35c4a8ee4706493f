"""Unspliced RNA of a MuData: what is being transcribed now."""

from mudata import MuData

from mmopt._checks import counts, listed, located, positions
from mmopt._compat import layer_names
from mmopt.tl._features import Features
from mmopt.tl._profiles import Profiles, selected


def nascent(mdata: MuData, profiles: Profiles, unspliced: str, layer: str | None) -> Profiles:
    """Read unspliced RNA of the same genes and cells, to be pooled as the other counts are.

    Parameters
    ----------
    mdata, profiles
        Data, and what else was read of them.
    unspliced, layer
        Layers with the raw counts of unspliced RNA and of what is taken for expression.

    Raises
    ------
    KeyError, ValueError
        No such layer, no raw counts in it, or the counts of expression themselves.
    """
    name, names = profiles.features.modalities["rna"], profiles.features.names["rna"]
    adata = mdata.mod[name]
    if unspliced not in layer_names(adata):
        raise KeyError(
            f"unspliced={unspliced!r}: modality {name!r} has no such layer; there are {listed(layer_names(adata), 20) or 'none'}. "
            "Name the one with the raw counts of unspliced RNA, or leave `unspliced` out"
        )
    where = located(adata, name, unspliced)[1]
    if where == located(adata, name, layer)[1]:
        raise ValueError(
            f"unspliced={unspliced!r}: {where} is what is read as expression, and cannot say what is made of it; name the layer "
            "with unspliced counts, and store the spliced ones as layers['counts'] or X"
        )
    rows = profiles.rows["rna"]
    matrix = selected(
        counts(adata, name, unspliced), positions(mdata, name)[rows], adata.var_names.get_indexer(names)
    )
    return Profiles(
        Features({"rna": name}, {"rna": names}), {"rna": matrix}, {"rna": rows}, profiles.embedding
    )

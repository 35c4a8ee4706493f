"""Check a MuData and mark the features worth modelling."""

from collections.abc import Iterable, Mapping

import numpy as np
from anndata import AnnData
from mudata import MuData

from mmopt import _checks
from mmopt._batches import batch_codes
from mmopt._compat import layer_names, own_copy
from mmopt._keys import COUNTS_LAYER, HIGHLY_VARIABLE
from mmopt.pp._fragments import fragments, note_fragments
from mmopt.pp._variable import Counts, detected, variable_genes, variable_peaks

RANKING = {"rna": variable_genes, "atac": variable_peaks}


def prepare(
    mdata: MuData,
    *,
    rna: str | bool | None = None,
    atac: str | bool | None = None,
    prot: str | bool | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    n_top_genes: int | None = 2000,
    n_top_peaks: int | None = 20_000,
    min_cells: int = 3,
    keep: Iterable[str] = (),
    copy: bool = False,
) -> MuData | None:
    """Check a MuData, keep its raw counts and mark the features worth modelling.

    ``X`` is left as it is and no feature is removed: :func:`mmopt.tl.integrate` reads ``layers["counts"]`` and, unless
    told otherwise with ``use_highly_variable=False``, models the features marked here. Counts in the ``X`` of a file opened
    with ``backed=True`` are read into memory to mark features, one modality at a time, and stay where they are: there is
    no ``layers["counts"]`` then, which would be a copy in memory.

    Genes are ranked by :func:`scanpy.pp.highly_variable_genes` with ``flavor="seurat"`` (normalised dispersion, [1]_)
    on a log-normalised temporary copy; peaks by the variance of their being open or closed, p(1 - p), which is largest
    for peaks open in half of the cells and leaves out those open nearly everywhere or nowhere. With ``batch_key`` both
    are ranked within batches (genes within those of 20 cells or more), so that what merely differs between batches is
    not chosen. Proteins are all marked.

    ATAC counts of 10x pipelines are cut sites, two of each fragment, which no likelihood of independent counts fits. Where
    twos outnumber ones, ``layers["counts"]`` gets fragments, half of each count rounded up [2]_, and a warning says so.

    Parameters
    ----------
    mdata
        RNA, ATAC and surface protein counts, or any one or two of them; cells may lack modalities.
    rna, atac, prot
        The modalities' names; ``None`` looks for the usual ones, ``False`` leaves the modality alone.
    layer
        Where the raw counts are; by default ``layers["counts"]`` where it exists, else ``X``.
    batch_key
        Column of ``mdata.obs`` or of the modalities' ``obs``.
    n_top_genes, n_top_peaks
        How many features to mark; ``None`` marks all of them.
    min_cells
        Features detected in fewer cells are not marked.
    keep
        Features marked whatever their rank, e.g. transcription factors to be perturbed later; ``"GATA1"`` or, where
        several modalities have the name, ``"rna:CD4"``.
    copy
        Work on a copy and return it.

    Returns
    -------
    MuData or None
        The copy if ``copy=True``. Each modality has gained ``layers["counts"]`` (not where ``X`` is on disk) and
        ``var["highly_variable"]``.

    Raises
    ------
    KeyError
        No such modality, layer, batch column or feature to keep.
    TypeError
        A number of features that is not whole, or a feature to keep that is no name.
    ValueError
        Not raw counts, repeated names, cells without a modality, no feature in ``min_cells`` cells, an ambiguous
        feature to keep, or other values in ``layers["counts"]`` already. ``mdata`` is then unchanged.

    References
    ----------
    .. [1] Satija et al. (2015), Spatial reconstruction of single-cell gene expression data, Nature Biotechnology 33.
    .. [2] Martens et al. (2024), Modeling fragment counts improves single-cell ATAC-seq analysis, Nature Methods 21.

    Examples
    --------
    >>> import mmopt as mm
    >>> mdata = mm.datasets.toy()
    >>> mm.pp.prepare(mdata, n_top_genes=50)
    >>> int(mdata["rna"].var["highly_variable"].sum())
    50
    """
    modalities = _checks.find_modalities(mdata, rna, atac, prot)
    _checks.report_unused(mdata, modalities, rna=rna, atac=atac, prot=prot)
    n_top = {
        role: None if number is None else _checks.whole_number(name, number)
        for role, name, number in (("rna", "n_top_genes", n_top_genes), ("atac", "n_top_peaks", n_top_peaks))
    }
    min_cells = _checks.whole_number("min_cells", min_cells)
    if mdata.is_view and not copy:
        _checks.refuse_view(mdata)
    _checks.check_obs(mdata, modalities)
    codes, _ = batch_codes(mdata, batch_key, modalities)
    kept = _kept(mdata, modalities, keep)

    results = {}
    for role, name in modalities.items():
        adata = mdata.mod[name]
        batch = codes[mdata.obs_names.get_indexer(adata.obs_names)]
        counts, halved, chosen = _counts_and_marks(
            adata, name, role, layer, batch, n_top.get(role), min_cells
        )
        results[name] = counts, halved, chosen | adata.var_names.isin(kept[name])

    if copy:
        mdata = own_copy(mdata)
    for name, (counts, halved, chosen) in results.items():
        adata = mdata.mod[name]
        if halved:
            note_fragments(name)
        if counts is not None and (halved or COUNTS_LAYER not in layer_names(adata)):
            adata.layers[COUNTS_LAYER] = counts.copy()  # never X itself: it may be normalised in place later
        adata.var[HIGHLY_VARIABLE] = chosen
    return mdata if copy else None


def _counts_and_marks(
    adata: AnnData,
    name: str,
    role: str,
    layer: str | None,
    batch: np.ndarray,
    n_top: int | None,
    min_cells: int,
) -> tuple[Counts | None, bool, np.ndarray]:
    """Return the counts, or nothing where they are to stay on disk, whether cut sites were halved, and which features vary."""
    counts, halved = fragments(adata, name, role, layer)
    rival = layer not in (None, COUNTS_LAYER) and COUNTS_LAYER in layer_names(adata)
    if rival and abs(fragments(adata, name, role, COUNTS_LAYER)[0] - counts).sum() > 0:
        raise ValueError(
            f'modality {name!r}: layers["counts"] holds other values than layer {layer!r}; use '
            f'`layer="counts"` or remove it with `del mdata["{name}"].layers["counts"]`'
        )
    seen = detected(counts) >= min_cells
    if not seen.any():
        raise ValueError(f"modality {name!r}: no feature is detected in {min_cells} cells; lower `min_cells`")
    chosen = seen.copy()
    if n_top is not None and n_top < seen.sum():
        chosen[seen] = RANKING[role](counts[:, seen], n_top, batch)
    in_memory = _checks.in_memory(_checks.located(adata, name, layer)[0])
    return (counts, halved, chosen) if in_memory else (None, False, chosen)


def _kept(mdata: MuData, modalities: Mapping[str, str], keep: Iterable[str]) -> dict[str, list[str]]:
    kept: dict[str, list[str]] = {name: [] for name in modalities.values()}
    for feature in [keep] if isinstance(keep, str) else keep:
        if not isinstance(feature, str):
            raise TypeError(f"keep: names of features are needed, got {feature!r}")
        owners = [name for name in kept if feature in mdata.mod[name].var_names]
        name, _, rest = feature.partition(":")
        name = modalities.get(name, name)
        if not owners and name in kept and rest in mdata.mod[name].var_names:
            owners, feature = [name], rest
        if not owners:
            everything = [var for name in kept for var in mdata.mod[name].var_names]
            raise KeyError(
                f"keep: no feature {feature!r}; nearest names: {_checks.listed(_checks.nearest(feature, everything))}"
            )
        if len(owners) > 1:
            raise ValueError(
                f"keep: {feature!r} is in modalities {_checks.listed(owners)}; say e.g. '{owners[0]}:{feature}'"
            )
        kept[owners[0]].append(feature)
    return kept

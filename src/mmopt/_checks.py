"""What every public function asks of its MuData before it starts, with messages that say what to change."""

import operator
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mmopt._compat import layer_names
from mmopt._keys import ALIASES, COUNTS_LAYER, MODALITIES
from mmopt._logging import logger

_EXACT = 2**24  # float32 holds every integer up to here
_CHUNK = 2**20


def listed(names: Iterable, limit: int = 5) -> str:
    """First few names for a message: ``'a', 'b', … (7 in all)``."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"


def nearest(name: str, names: Iterable[str], limit: int = 5) -> list[str]:
    """Names most like ``name``, best first, whatever their case."""
    by_lower: dict[str, str] = {}
    for candidate in names:
        by_lower.setdefault(str(candidate).lower(), str(candidate))
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)]


def whole_number(argument: str, number: float) -> int:
    """Return a number of at least 1 as an integer; 1e3, which is how many write a thousand, is one."""
    try:
        whole = operator.index(int(number) if isinstance(number, float) and number.is_integer() else number)
    except TypeError as error:
        raise TypeError(f"{argument}={number!r}: a whole number is needed") from error
    if whole < 1:
        raise ValueError(f"{argument} must be at least 1; got {number}")
    return whole


def check_mudata(mdata: MuData) -> None:
    """Refuse what is no MuData, and one that shares features instead of cells."""
    if not isinstance(mdata, MuData):
        hint = ' (wrap it: `mudata.MuData({"rna": adata})`)' if isinstance(mdata, AnnData) else ""
        raise TypeError(f"a MuData is needed, not {type(mdata).__name__}{hint}")
    if mdata.axis == 1:
        raise ValueError("the modalities of this MuData share features, not cells; build it with `axis=0`")


def refuse_view(mdata: MuData) -> None:
    """Refuse data that are a view, or have one as a modality, and say how to make them one's own."""
    parts = {f"mdata.mod[{name!r}]": adata for name, adata in mdata.mod.items() if adata.is_view}
    for name, data in {"mdata": mdata, **parts}.items():
        if data.is_view:
            file = f"filename='part.{'h5mu' if data is mdata else 'h5ad'}'" if data.isbacked else ""
            raise ValueError(
                f"{name} is a view and cannot be written to; make it your own: `{name} = {name}.copy({file})`"
            )


def find_modalities(
    mdata: MuData,
    rna: str | bool | None = None,
    atac: str | bool | None = None,
    prot: str | bool | None = None,
) -> dict[str, str]:
    """Find which modality of ``mdata`` plays which role.

    Parameters
    ----------
    mdata
        The data.
    rna, atac, prot
        A modality's name, ``None`` to look for its usual names (in any case), or ``False`` to leave it out.

    Returns
    -------
    dict
        Role (``"rna"``, ``"atac"``, ``"prot"``, in that order) to the modality's name in ``mdata``.

    Raises
    ------
    TypeError
        ``mdata`` is no MuData, or a name is neither a string nor ``None`` nor ``False``.
    KeyError
        A given name is not in ``mdata``.
    ValueError
        Two modalities fit one role, none is found, one has no cells or no features, or ``mdata`` shares features
        instead of cells.
    """
    check_mudata(mdata)
    there = f"the modalities there are: {listed(mdata.mod, 20)}"
    given = dict(zip(MODALITIES, (rna, atac, prot), strict=True))
    for role, name in given.items():
        if isinstance(name, str):
            if name not in mdata.mod:
                raise KeyError(f"{role}={name!r}: no such modality; {there}")
        elif name is not None and name is not False:
            raise TypeError(
                f"{role}={name!r}: give a modality's name, None to look for it or False to leave it out"
            )
    claimed = [name for name in given.values() if isinstance(name, str)]
    if len(set(claimed)) < len(claimed):
        raise ValueError(f"one modality was given for two roles: {given}; {there}")

    found: dict[str, str] = {}
    for role, name in given.items():
        if isinstance(name, bool):  # False: True was refused above
            continue
        if name is None:
            candidates = [m for m in mdata.mod if m.lower() in ALIASES[role] and m not in claimed]
            if len(candidates) > 1:
                raise ValueError(
                    f"{listed(candidates)} could each be the {role} modality; name one with `{role}=`"
                )
            if not candidates:
                continue
            name = candidates[0]
        found[role] = name
    if not found:
        raise ValueError(f"no modality was found; {there}; name them with `rna=`, `atac=` or `prot=`")
    for role, name in found.items():
        if 0 in mdata.mod[name].shape:
            n_obs, n_vars = mdata.mod[name].shape
            raise ValueError(
                f"modality {name!r} is empty ({n_obs} cells × {n_vars} features); {there}; "
                f"leave it out with `{role}=False`"
            )
    return found


def report_unused(mdata: MuData, found: Mapping[str, str], **given: str | bool | None) -> None:
    """Say through the logger which modalities are left out while a role that the user did not fill is free."""
    unused = [name for name in mdata.mod if name not in found.values()]
    free = " or ".join(f"`{role}=`" for role, name in given.items() if name is None and role not in found)
    if unused and free:
        logger.warning("%s: not used; if that is not what you want, name it with %s", listed(unused), free)


def located(adata: AnnData, modality: str, layer: str | None = None) -> tuple[Any, str]:
    """Return the matrix that :func:`counts` would read, as it is, and its place for messages."""
    layers = layer_names(adata)
    if layer is None:
        layer = COUNTS_LAYER if COUNTS_LAYER in layers else "X"
    if layer in layers:
        matrix, where = adata.layers[layer], f'modality {modality!r}, layers["{layer}"]'
    elif layer == "X":
        matrix, where = adata.X, f"modality {modality!r}, X"
    else:
        raise KeyError(
            f"modality {modality!r} has no layer {layer!r}; the layers there are: {listed([*layers, 'X'], 20)}. Where "
            "modalities keep their counts in different places, store them in each as layers['counts'] and leave `layer=` out"
        )
    if getattr(matrix, "shape", None) is None:  # a file without X gives an array without a shape
        raise ValueError(f"{where} is empty; name the layer with the counts with `layer=`")

    return matrix, where


def in_memory(matrix: Any) -> bool:
    """Whether a matrix is an array, not something on disk or lazy."""
    return isinstance(matrix, np.ndarray) or sparse.issparse(matrix)


def counts(adata: AnnData, modality: str, layer: str | None = None) -> sparse.csr_matrix | np.ndarray:
    """Raw counts of one modality as float32, CSR where the source is sparse, dense where it is dense.

    The result may share memory with ``adata``: do not write into it.

    Parameters
    ----------
    adata
        The modality; in memory, a view or backed (it is then read into memory).
    modality
        Its name, for messages.
    layer
        Where the counts are. If not given: ``layers["counts"]`` where it exists, else ``X``. ``"X"`` asks for ``X``.

    Raises
    ------
    KeyError
        No such layer.
    ValueError
        Not raw counts: missing, infinite, negative or fractional values, values above 2**24 or zeros only; or no
        cells or no features.
    """
    matrix, where = located(adata, modality, layer)
    if not in_memory(matrix):
        # backed or lazy matrices know how to be read whole; numpy reads the rest
        load = getattr(matrix, "to_memory", None) or getattr(matrix, "compute", None)
        matrix = load() if load else np.asarray(matrix)
    if 0 in matrix.shape:
        raise ValueError(f"{where} is empty: {matrix.shape[0]} cells × {matrix.shape[1]} features")
    if matrix.dtype.kind not in "biuf":
        raise ValueError(f"{where} holds {matrix.dtype} values; numbers are needed")
    if not sparse.issparse(matrix):
        matrix = np.asarray(matrix)
        check_counts(np.ravel(matrix, order="K"), adata, modality, where)
        return np.ascontiguousarray(matrix, dtype=np.float32)
    matrix = sparse.csr_matrix(matrix)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    check_counts(matrix.data, adata, modality, where)
    matrix = matrix.astype(np.float32, copy=False)
    if np.count_nonzero(matrix.data) < matrix.nnz:
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix


def check_counts(values: np.ndarray, adata: AnnData, modality: str, where: str) -> None:
    """Refuse what :func:`counts` refuses; an array on disk is read piece by piece."""
    low, high, fractional = 0.0, 0.0, False
    for start in range(0, values.size, _CHUNK):  # in pieces that stay in the cache, without large temporaries
        chunk = values[start : start + _CHUNK]
        low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())  # both pass NaN on
        if chunk.dtype.kind == "f" and not fractional:
            fractional = bool((np.rint(chunk) != chunk).any())
    if np.isfinite(low) and np.isfinite(high) and low >= 0 and not fractional:
        if high > _EXACT:
            raise ValueError(
                f"{where} has values up to {high:.4g}; above 2**24 counts are no longer exact in float32"
            )
        if high == 0:
            raise ValueError(f"{where} holds nothing but zeros")
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        n_bad = int(values.size - np.isfinite(values).sum())
        problem = f"has {n_bad} values that are NaN or infinite"
    elif low < 0 and fractional:
        problem = (
            f"looks z-scored or CLR-transformed (negative and fractional values, {low:.3g} to {high:.3g})"
        )
    elif low < 0:
        problem = f"has {int((values < 0).sum())} negative values (down to {low:.4g})"
    elif high < 20:
        problem = f"looks log-normalised (fractional values up to {high:.3g})"
    else:
        problem = f"looks normalised or denoised (fractional values up to {high:.4g}; `np.rint` mends estimated counts)"
    raw, this = adata.raw is not None, f'mdata["{modality}"]'
    has = [f'layers["{name}"]' for name in layer_names(adata)] + [".raw"] * raw
    source = (
        f"{this}.raw[:, {this}.var_names].X`" if raw else "counts`, as they were before they were normalised"
    )
    raise ValueError(
        f'{where} {problem}; raw counts are needed. They are usually in layers["counts"] or .raw (this modality has '
        f"{', '.join(has) or 'neither layers nor .raw'}): name the layer with `layer=`, or store them, e.g. "
        f'`{this}.layers["counts"] = {source}'
    )


def check_obs(mdata: MuData, modalities: Mapping[str, str]) -> None:
    """Refuse names that repeat, cells without any of ``modalities`` and modalities out of step with ``mdata``.

    Modalities that are linked by no shared cell are reported through the logger: most often their barcodes are
    spelled differently.
    """
    check_names(mdata, modalities)
    for name in modalities.values():
        unknown = mdata.mod[name].obs_names.difference(mdata.obs_names, sort=False)
        if len(unknown):
            raise ValueError(
                f"modality {name!r}: {len(unknown)} cells are not in mdata.obs_names ({listed(unknown)}); "
                "call `mdata.update()` after changing a modality"
            )
    present = presence(mdata, modalities)
    lost = mdata.obs_names[~present.any(axis=1)]
    if len(lost):
        raise ValueError(
            f"{len(lost)} cells have none of the modalities {listed(modalities.values())} ({listed(lost)}); "
            "leave them out, e.g. `mdata = mdata[mdata.obs_names.isin(keep)].copy()`"
        )
    shared = present.T.astype(int) @ present
    if connected_components(shared, directed=False, return_labels=False) > 1:
        examples = "; ".join(
            f"{name!r}: {listed(mdata.mod[name].obs_names, 2)}" for name in modalities.values()
        )
        logger.warning(
            "some modalities share no cells, so nothing links them; do their barcodes differ only in spelling? (%s)",
            examples,
        )


def check_names(mdata: MuData, modalities: Mapping[str, str]) -> None:
    """Refuse names of cells or features that repeat within a modality, and of cells that repeat in ``mdata``."""
    for name in modalities.values():
        for axis in ("obs", "var"):
            names = getattr(mdata.mod[name], f"{axis}_names")
            if not names.is_unique:
                repeated = names[names.duplicated()].unique()
                raise ValueError(
                    f"modality {name!r}: {len(repeated)} of the {axis} names repeat ({listed(repeated)}); "
                    f'make them unique with `mdata["{name}"].{axis}_names_make_unique()` and `mdata.update()`'
                )
    if not mdata.obs_names.is_unique:
        repeated = mdata.obs_names[mdata.obs_names.duplicated()].unique()
        raise ValueError(f"{len(repeated)} of mdata.obs_names repeat ({listed(repeated)})")


def positions(mdata: MuData, name: str) -> np.ndarray:
    """Row of each cell of ``mdata`` in modality ``name``, -1 where it is absent; shape ``(n_obs,)``."""
    return mdata.mod[name].obs_names.get_indexer(mdata.obs_names)


def presence(mdata: MuData, modalities: Mapping[str, str]) -> np.ndarray:
    """Which cell has which modality: boolean, ``(n_obs, n_modalities)``, columns in the order of ``modalities``."""
    return np.column_stack([positions(mdata, name) >= 0 for name in modalities.values()])


def obs_column(mdata: MuData, key: str, modalities: Mapping[str, str] | None = None) -> pd.Series:
    """Column ``key`` of ``mdata.obs``, or else of the modalities' ``obs``, for every cell of ``mdata``.

    Where several modalities have the column, a cell takes its value from the first of them that knows it.
    ``"rna:donor"`` asks for the column ``donor`` of modality ``rna``.

    Parameters
    ----------
    mdata
        The data.
    key
        Name of the column.
    modalities
        Where to look, as returned by :func:`find_modalities`; all modalities if not given.

    Returns
    -------
    pandas.Series
        Indexed by ``mdata.obs_names``; missing where no modality knows the value.

    Raises
    ------
    KeyError
        No such column; names the nearest ones.
    ValueError
        Two modalities disagree about a cell.
    """
    if not isinstance(key, str):
        raise TypeError(f"the name of one obs column is needed, not {key!r}")
    if key in mdata.obs:
        return mdata.obs[key]
    names = list(mdata.mod) if modalities is None else list(modalities.values())
    columns = {name: mdata.mod[name].obs[key] for name in names if key in mdata.mod[name].obs}
    modality, _, rest = key.partition(":")
    if not columns and modality in names and rest in mdata.mod[modality].obs:
        columns = {modality: mdata.mod[modality].obs[rest]}
    if not columns:
        available = list(dict.fromkeys([*mdata.obs, *(c for name in names for c in mdata.mod[name].obs)]))
        close = nearest(key, available)
        raise KeyError(
            f"no column {key!r} in mdata.obs or in the obs of {listed(names)}; available: "
            + listed(list(dict.fromkeys([*close, *available])), 20)
        )
    aligned = {name: column.reindex(mdata.obs_names) for name, column in columns.items()}
    if len(aligned) == 1:
        return next(iter(aligned.values()))
    first, *others = aligned
    combined, source = aligned[first].astype(object), pd.Series(first, index=mdata.obs_names)
    for name in others:
        column = aligned[name].astype(object)
        both = (combined.notna() & column.notna()).to_numpy()
        differ = np.zeros(len(both), dtype=bool)
        differ[both] = [a != b for a, b in zip(combined[both], column[both], strict=True)]
        if differ.any():
            cell = int(differ.argmax())
            raise ValueError(
                f"obs column {key!r}: modalities {source.iloc[cell]!r} and {name!r} disagree about {differ.sum()} "
                f"cells ({mdata.obs_names[cell]!r}: {combined.iloc[cell]!r} and {column.iloc[cell]!r}); "
                f"settle it in `mdata.obs[{key!r}]`"
            )
        source[combined.isna()] = name
        combined = combined.where(combined.notna(), column)
    return combined.infer_objects()


def marks(var: pd.DataFrame, key: str, modality: str) -> np.ndarray:
    """Return which features column ``key`` marks; NaN and text, which numpy takes for true, are refused."""
    if not var[key].isin([0, 1]).all():  # True and False are among them; text and NaN are not
        raise TypeError(
            f"modality {modality!r}: var[{key!r}] must hold True or False for every feature, without missing values; "
            f'e.g. `mdata["{modality}"].var["{key}"] = mdata["{modality}"].var_names.isin(names)`'
        )
    return var[key].to_numpy(bool)

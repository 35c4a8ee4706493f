"""Which peaks may serve which gene, by distance and by going up and down together."""

import re

import numpy as np
import pandas as pd

# peaks within so many bases of the start are linked whatever their correlation with it
PROMOTER = 1000
# smallest correlation of the logged values of others
_LEAST = 0.15
_INTERVAL = re.compile(r"^(?P<chrom>[^:]+?)[:-](?P<start>\d+)-(?P<end>\d+)$")


def positions(var: pd.DataFrame) -> pd.DataFrame | None:
    """Chromosome and position of each feature, or ``None`` where the table does not say.

    Peaks: ``chrom``, ``start``, ``end`` or names such as ``chr1:100-600``; the position is the middle. Genes:
    ``chrom`` and ``tss``, or ``start``, ``end`` and ``strand``, or an ``interval`` such as 10x writes; the position is
    the transcription start.

    Returns
    -------
    DataFrame
        ``chrom`` (missing where unknown) and ``position``, indexed as ``var``.
    """
    columns = {str(c).lower(): c for c in var.columns}
    chrom = next((columns[c] for c in ("chrom", "chr", "chromosome") if c in columns), None)
    if chrom is not None and "tss" in columns:
        place = pd.to_numeric(var[columns["tss"]], errors="coerce")
        return pd.DataFrame({"chrom": var[chrom].astype(object), "position": place.astype(float)})
    if chrom is not None and {"start", "end"} <= set(columns):
        table = var[[chrom, columns["start"], columns["end"]]].set_axis(["chrom", "start", "end"], axis=1)
    else:
        names = var[columns["interval"]] if "interval" in columns else pd.Series(var.index, index=var.index)
        table = names.astype(str).str.extract(_INTERVAL).set_axis(var.index)
        if table["chrom"].isna().all():
            return None
    start, end = (pd.to_numeric(table[c], errors="coerce").astype(float) for c in ("start", "end"))
    place = (start + end) / 2
    if "strand" in columns:
        strand = var[columns["strand"]].astype(str)
        place = place.where(~strand.isin(["+", "-"]), np.where(strand == "+", start, end))
    return pd.DataFrame({"chrom": table["chrom"].astype(object), "position": place})


def link_peaks(
    genes: pd.DataFrame,
    peaks: pd.DataFrame,
    expression: np.ndarray,
    accessibility: np.ndarray,
    *,
    window: float = 150_000,
) -> pd.DataFrame:
    """Link peaks to genes within ``window`` bases that covary with them.

    Parameters
    ----------
    genes, peaks
        Tables of :func:`positions`, rows as the columns of the arrays.
    expression, accessibility
        Pooled, normalised values, ``(n_cells, n_genes)`` and ``(n_cells, n_peaks)``, the same cells.
    window
        Largest distance between the middle of the peak and the transcription start.

    Returns
    -------
    DataFrame
        ``gene`` and ``peak`` (column numbers), ``distance``, ``correlation``, ``weight`` (1 for a promoter, half the
        correlation for the others).
    """
    frames = []
    for chrom, here in genes.dropna().groupby("chrom", observed=True):
        there = peaks[peaks["chrom"] == chrom].dropna()
        if there.empty:
            continue
        distance = np.abs(here["position"].to_numpy()[:, None] - there["position"].to_numpy())
        g, p = np.nonzero(distance <= window)
        frames.append(
            pd.DataFrame(
                {
                    "gene": genes.index.get_indexer(here.index)[g],
                    "peak": peaks.index.get_indexer(there.index)[p],
                    "distance": distance[g, p],
                }
            )
        )
    if not frames:
        return pd.DataFrame(
            {c: pd.Series(dtype=float) for c in ("gene", "peak", "distance", "correlation", "weight")}
        )
    links = pd.concat(frames, ignore_index=True)
    e, a = (_standardised(np.log1p(x)) for x in (expression, accessibility))
    links["correlation"] = np.einsum("ij,ij->j", e[:, links["gene"]], a[:, links["peak"]]) / len(e)
    promoter = links["distance"] <= PROMOTER
    links["weight"] = np.where(promoter, 1.0, 0.5 * np.clip(links["correlation"], 0, 1))
    return links[promoter | (links["correlation"] >= _LEAST)].reset_index(drop=True)


def activity(links: pd.DataFrame, accessibility: np.ndarray, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Add up the weighted accessibility of each gene's linked peaks; also tell which genes have any.

    Chromatin leads expression: this is the nearest to a gene's rate of production that a snapshot shows.

    Returns
    -------
    activity, linked
        ``(n_cells, n_genes)`` and boolean ``(n_genes,)``.
    """
    weights = np.zeros((accessibility.shape[1], n_genes))
    weights[links["peak"].to_numpy(int), links["gene"].to_numpy(int)] = links["weight"]
    return accessibility @ weights, np.any(weights, axis=0)


def _standardised(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(0)
    return centred / np.maximum(centred.std(0), 1e-9)

"""What a MuData and the user's tables say of each edge before any fit."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed
from mmopt._logging import logger
from mmopt.grn.confirmation import Confirmation
from mmopt.grn.evidence import cognate_genes, combined, signs, support
from mmopt.grn.links import link_peaks, positions
from mmopt.tl._features import Features

# Genes above this held-out R2: a quarter to three quarters of them in simulated and real mixtures of cell types, 4 and 1 % in
# cells of one type (a line, CD4 T cells at rest); in the line, where knock-outs were measured, 5 of 8 predicted directions
# were wrong and none was certain (predictable.py and real.py in benchmarks/perturbation)
PREDICTED, FEW_PREDICTED = 0.3, 0.1
# a doubt to speak of, and how many times fewer edges are confirmed of a regulator than on average before its effects say little:
# in eight simulated networks none of 116 true regulators was above three times, nine decoys in ten were
_DOUBTED, _FEWER = 0.5, 3.0


def linked_peaks(mdata: MuData, features: Features, values: np.ndarray, window: float) -> pd.DataFrame:
    """Peak-gene links, none where there is no ATAC or no genome position."""
    empty = pd.DataFrame(
        {c: pd.Series(dtype=t) for c, t in dict.fromkeys(("gene", "peak"), int).items()}
        | {c: pd.Series(dtype=float) for c in ("distance", "correlation", "weight")}
    )
    if "atac" not in features.modalities:
        return empty
    where = {}
    for role in ("rna", "atac"):
        name = features.modalities[role]
        where[role] = positions(mdata.mod[name].var.loc[features.names[role]])
        if where[role] is None:
            logger.warning(
                "modality %r: no genome positions, so peaks are not linked to genes; add var columns chrom and %s",
                name,
                "tss" if role == "rna" else "start, end",
            )
            return empty
    genes, peaks = (set(where[role]["chrom"].dropna()) for role in ("rna", "atac"))
    if genes.isdisjoint(peaks):
        logger.warning(
            "genes and peaks have no chromosome in common (%s and %s), so peaks are not linked to genes; spell them alike",
            listed(sorted(map(str, genes)), 3),
            listed(sorted(map(str, peaks)), 3),
        )
        return empty
    rna, atac = (values[:, features.blocks[role]] for role in ("rna", "atac"))
    return link_peaks(where["rna"], where["atac"], rna, atac, window=window)


def edge_support(
    mdata: MuData,
    features: Features,
    links: pd.DataFrame,
    columns: np.ndarray,
    prior: pd.DataFrame | None,
    motifs: pd.DataFrame | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evidence of every edge, see :func:`mmopt.grn.evidence.support`."""
    blocks, table = features.blocks, features.table
    number = {features.name(c): i for i, c in enumerate(columns) if c < len(features.names["rna"])}
    for i, c in enumerate(columns):
        if c >= len(features.names["rna"]):
            number[f"prot:{features.name(c)}"] = i
    direct = pd.DataFrame({"target": [], "source": [], "sign": []})
    if prior is not None:
        direct = pd.DataFrame(
            {
                "target": features.names["rna"].get_indexer(prior["target"].astype(str)),
                "source": prior["source"].astype(str).map(number).fillna(-1).astype(int),
                "sign": signs(prior),
            }
        ).query("target >= 0 and source >= 0")
        if direct.empty:
            _unmatched("prior", prior, "target", features, "rna")
        direct = combined(direct)
    serves = [pd.DataFrame({"feature": [], "gene": []})]
    if len(links):
        best = links.sort_values("weight").drop_duplicates("peak", keep="last")
        serves.append(pd.DataFrame({"feature": best["peak"] + blocks["atac"].start, "gene": best["gene"]}))
    if "prot" in blocks:
        found = cognates(mdata, features)
        serves.append(
            pd.DataFrame({"feature": found["protein"] + blocks["prot"].start, "gene": found["gene"]})
        )
    by_motif = None
    if motifs is not None:
        hits = pd.DataFrame(
            {
                "peak": features.names["atac"].get_indexer(motifs["peak"].astype(str)),
                "source": motifs["source"].astype(str).map(number).fillna(-1).astype(int),
            }
        ).query("peak >= 0 and source >= 0")
        by_motif = hits.merge(links[["peak", "gene"]], on="peak")
        by_motif["peak"] += blocks["atac"].start
        if by_motif.empty:
            _unmatched("motifs", motifs, "peak", features, "atac")
    return support(len(table), len(columns), direct, pd.concat(serves), by_motif)


def _unmatched(name: str, table: pd.DataFrame, end: str, features: Features, role: str) -> None:
    """Say that no row of a table that was given is evidence of an edge, and how its names look beside those of the data."""
    where = "a linked peak" if end == "peak" else "a gene"
    logger.warning(
        "%s: none of its %d rows joins one of the regulators to %s of the network, so it is no evidence of any edge; column %r has "
        "%s, modality %r %s: do they differ in spelling?",
        name,
        len(table),
        where,
        end,
        listed(table[end].astype(str).unique(), 3),
        features.modalities[role],
        listed(features.names[role], 3),
    )


def cognates(mdata: MuData, features: Features) -> pd.DataFrame:
    """Numbers of the proteins and of the genes that code for them."""
    var = mdata.mod[features.modalities["prot"]].var.loc[features.names["prot"]]
    return cognate_genes(features.names["prot"], features.names["rna"], var.get("gene"))


def _regulators(slot: dict, columns: Iterable[int]) -> pd.DataFrame:
    """Rows of ``slot["regulators"]`` that belong to ``columns``, with ``fewer`` as in :class:`Confirmation`."""
    table = slot["regulators"]
    counts = (table[c].to_numpy() for c in ("n_edges", "n_confirmed", "n_by_chance"))
    mine = np.isin(slot["members"]["regulators"], list(columns))
    return table.assign(fewer=Confirmation(*counts).fewer)[mine]


def weakest_evidence(slot: dict, columns: Iterable[int]) -> tuple[float, float]:
    """Largest doubt of the regulators among the columns and fewest confirmed edges, NaN if there is none."""
    mine = _regulators(slot, columns)
    return float(mine["doubt"].max()), float(mine["n_confirmed"].min())


def doubts(slot: dict, columns: Iterable[int]) -> list[str]:
    """Say of which perturbed regulators the data confirm no evidence, or too little for their effects to mean much."""
    mine, usual = _regulators(slot, columns), slot["regulators"]["n_confirmed"].mean()
    doubted = mine["doubt"] > _DOUBTED
    few = (mine["fewer"] > _FEWER) & ~doubted
    return [
        f"the data confirm {row.n_confirmed} of the {row.n_edges} edges that prior and motifs give {row.feature}, about as many as "
        "of edges drawn at random: whether it regulates anything here is in doubt"
        for row in mine[doubted].itertuples()
    ] + [
        f"the data confirm {row.n_confirmed} of the {row.n_edges} edges that prior and motifs give {row.feature}, and "
        f"{usual:.0f} of a regulator on average: other edges of it are hardly believed, so that little effect is "
        "no evidence of none"
        for row in mine[few].itertuples()
    ]

"""The simulated genome: genes, the peaks around them, the surface proteins, and who regulates what."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmopt.datasets.logic import EDGE_COLUMNS
from mmopt.datasets.network import Network

_CHROMOSOMES = 22
# a gene's territory is cut into slots; the transcription start lies in the middle one, each peak has one to itself
_SLOT, _SLOTS = 2_000, 100
_TERRITORY = _SLOT * _SLOTS
_LINKED_SHARE = 0.6


@dataclass(frozen=True)
class Layout:
    """Features of the three modalities and the edges that drive them.

    ``genes``: ``kind`` (regulator, target, decoy or housekeeping), ``mean``, ``chrom``, ``start``, ``end``, ``tss``,
    ``strand``. ``peaks``: ``chrom``, ``start``, ``end``, ``gene`` (nearest), ``promoter``, ``mean``. ``proteins``:
    ``gene``, ``background``, ``foreground``. ``edges``: the network's and the generated ones (``given`` tells).
    ``links``: as edges, the target being a peak, with the ``gene`` that it serves.
    """

    genes: pd.DataFrame
    peaks: pd.DataFrame
    proteins: pd.DataFrame
    edges: pd.DataFrame
    links: pd.DataFrame


def lay_out(
    network: Network,
    *,
    n_genes: int,
    n_peaks: int,
    n_proteins: int,
    n_decoys: int,
    housekeeping: float,
    seed: int,
) -> Layout:
    """Place the network in a genome of ``n_genes`` genes and ``n_peaks`` peaks; the same seed, the same genome.

    Raises
    ------
    ValueError
        The network with its decoys does not fit, or there are more proteins than regulated genes to code for them.
    """
    rng = np.random.default_rng([seed, 0])
    regulators, leaves = network.regulators, network.leaves
    others = n_genes - len(regulators) - len(leaves) - n_decoys
    if others < 0:
        raise ValueError(
            f"n_genes={n_genes} is too small: the network has {len(regulators)} regulators and {len(leaves)} targets, "
            f"and n_decoys={n_decoys}"
        )
    n_housekeeping = round(housekeeping * others)
    named = {*regulators, *leaves}
    fresh = [f"GENE{i}" for i in range(1, n_genes + len(named) + 1) if f"GENE{i}" not in named]
    decoys = [f"DECOY{i}" for i in range(1, n_decoys + len(named) + 1) if f"DECOY{i}" not in named][:n_decoys]
    targets, constant = fresh[: others - n_housekeeping], fresh[others - n_housekeeping : others]
    kinds = (
        dict.fromkeys(regulators, "regulator")
        | dict.fromkeys(leaves + targets, "target")
        | dict.fromkeys(decoys, "decoy")
        | dict.fromkeys(constant, "housekeeping")
    )
    edges = pd.concat(
        [network.edges.assign(given=True), _wire(targets + decoys, regulators, rng).assign(given=False)],
        ignore_index=True,
    )
    genes = _place_genes(pd.Series(kinds, name="kind"), rng)
    peaks, links = _place_peaks(genes, edges, n_peaks, rng)
    return Layout(genes, peaks, _choose_proteins(leaves + targets, n_proteins, rng), edges, links)


def _wire(targets: list[str], regulators: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """Give each target one to three regulators; every regulator is the first one of equally many targets."""
    rows = []
    for number, target in enumerate(targets):
        first = regulators[number % len(regulators)]
        rest = [r for r in regulators if r != first]
        chosen = [first, *rng.permutation(rest)[: rng.choice(3, p=[0.45, 0.4, 0.15])]]
        together = rng.random() < 0.5
        for position, source in enumerate(chosen):
            sign = 1 if rng.random() < (0.8 if position == 0 else 0.65) else -1
            group = 0 if together and sign > 0 else position
            rows.append((source, target, sign, rng.uniform(0.8, 1), rng.uniform(0.3, 0.6), 4.0, group))
    return pd.DataFrame(rows, columns=EDGE_COLUMNS).astype({"sign": int, "complex": int, "hill": float})


def _place_genes(kinds: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    genes = kinds.iloc[rng.permutation(len(kinds))].to_frame()
    number = np.arange(len(genes))
    tss = (number // _CHROMOSOMES + 1) * _TERRITORY + _TERRITORY // 2 + _SLOT // 2
    length = rng.integers(5_000, 50_000, len(genes))
    forward = rng.random(len(genes)) < 0.5
    # transcription factors and their decoys are expressed low
    typical = np.where(genes["kind"].isin(["regulator", "decoy"]), 0.6, 1.0)
    return genes.assign(
        mean=typical * np.exp(0.6 * rng.standard_normal(len(genes))),
        chrom=[f"chr{i % _CHROMOSOMES + 1}" for i in number],
        start=np.where(forward, tss, tss - length),
        end=np.where(forward, tss + length, tss),
        tss=tss,
        strand=np.where(forward, "+", "-"),
    )


def _place_peaks(
    genes: pd.DataFrame, edges: pd.DataFrame, n_peaks: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Promoters first, then enhancers of regulated genes, then peaks that serve no gene though they lie beside one."""
    order = rng.permutation(len(genes))
    promoters = order[:n_peaks]
    regulated = order[genes["kind"].to_numpy()[order] != "housekeeping"]
    n_distal = n_peaks - len(promoters)
    n_linked = round(_LINKED_SHARE * n_distal)
    served = np.concatenate(
        [promoters, np.resize(regulated, n_linked), np.resize(order, n_distal - n_linked)]
    )
    if np.bincount(served).max() > _SLOTS - 2:
        raise ValueError(
            f"n_peaks={n_peaks} is too many for {len(genes)} genes: more than {_SLOTS - 2} around one gene"
        )
    peaks = pd.DataFrame({"gene": genes.index[served], "chrom": genes["chrom"].to_numpy()[served]})
    peaks["promoter"] = np.arange(n_peaks) < len(promoters)
    # neither the promoter's slot nor the first, which is as near to the next gene
    free = np.delete(np.arange(_SLOTS), [0, _SLOTS // 2])
    slot = rng.permuted(np.tile(free, (len(genes), 1)), axis=1)[served, peaks.groupby("gene").cumcount() - 1]
    tss, width = genes["tss"].to_numpy()[served], rng.integers(300, 900, n_peaks)
    corner = tss - _TERRITORY // 2 - _SLOT // 2
    distal = corner + slot * _SLOT + rng.integers(_SLOT - width)
    peaks["start"] = np.where(peaks["promoter"], tss - width // 2, distal)
    peaks["end"] = peaks["start"] + width
    peaks["mean"] = np.exp(0.6 * rng.standard_normal(n_peaks))
    peaks.index = pd.Index([f"{p.chrom}-{p.start}-{p.end}" for p in peaks.itertuples()])

    linked = peaks.iloc[: len(promoters) + n_linked]
    bound = linked[["gene", "promoter"]].rename_axis("peak").reset_index()
    bound = _bind(bound.merge(edges.rename(columns={"target": "gene"}), on="gene"), rng).rename(
        columns={"peak": "target"}
    )
    in_order = np.lexsort((peaks["start"], peaks["chrom"].str[3:].astype(int)))
    return peaks.iloc[in_order], bound[[*EDGE_COLUMNS, "gene", "promoter"]].reset_index(drop=True)


def _bind(edges: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Keep the edges that act through each peak.

    All through a promoter; through an enhancer one complex, of activators where there are any, and half of the other
    sign's.
    """
    number = edges.groupby(["peak", "sign", "complex"], sort=False).ngroup()
    draw = pd.Series(rng.random(len(edges)))[number].set_axis(edges.index)
    main = edges["sign"] == edges.groupby("peak")["sign"].transform("max")
    first = draw == draw.where(main).groupby(edges["peak"]).transform("min")
    return edges[edges["promoter"] | first | (~main & (draw < 0.5))]


def _choose_proteins(coding: list[str], n_proteins: int, rng: np.random.Generator) -> pd.DataFrame:
    if n_proteins > len(coding):
        raise ValueError(
            f"n_proteins={n_proteins}: only {len(coding)} target genes can code for a surface protein"
        )
    genes = coding[:n_proteins]
    return pd.DataFrame(
        {
            "gene": genes,
            "background": np.exp(rng.normal(np.log(8), 0.5, n_proteins)),
            "foreground": np.exp(rng.normal(np.log(80), 0.5, n_proteins)),
        },
        index=[f"{gene}_ADT" for gene in genes],
    )

import numpy as np
import pandas as pd
import pytest

from mmopt.datasets import Network, krumsiek2011
from mmopt.datasets.layout import lay_out

SIZES = {"n_genes": 120, "n_peaks": 500, "n_proteins": 15, "n_decoys": 6, "housekeeping": 0.25, "seed": 3}


@pytest.fixture(scope="module")
def layout():
    return lay_out(krumsiek2011(), **SIZES)


def test_sizes_and_kinds(layout):
    assert (len(layout.genes), len(layout.peaks), len(layout.proteins)) == (120, 500, 15)
    kinds = layout.genes["kind"].value_counts()
    assert kinds["regulator"] == 11
    assert kinds["decoy"] == 6
    assert kinds["housekeeping"] == round(0.25 * (120 - 11 - 12 - 6))
    for frame in (layout.genes, layout.peaks, layout.proteins):
        assert frame.index.is_unique


def test_peaks_are_named_by_place_do_not_overlap_and_know_their_nearest_gene(layout):
    peaks, genes = layout.peaks, layout.genes
    assert peaks.index.tolist() == [f"{p.chrom}-{p.start}-{p.end}" for p in peaks.itertuples()]
    for chrom, own in peaks.groupby("chrom"):
        assert (own["start"].to_numpy()[1:] >= own["end"].to_numpy()[:-1]).all()
        there = genes[genes["chrom"] == chrom]
        distance = np.abs((own["start"] + own["end"]).to_numpy()[:, None] / 2 - there["tss"].to_numpy())
        assert own["gene"].tolist() == there.index[distance.argmin(1)].tolist()
    tss = genes["tss"].reindex(peaks.loc[peaks["promoter"], "gene"]).to_numpy()
    promoters = peaks[peaks["promoter"]]
    assert ((promoters["start"] <= tss) & (tss < promoters["end"])).all()
    assert len(promoters) == len(genes)


def test_tss_is_where_transcription_starts(layout):
    genes = layout.genes
    assert (genes["tss"] == np.where(genes["strand"] == "+", genes["start"], genes["end"])).all()
    assert (genes["start"] < genes["end"]).all()


def test_edges_keep_the_network_and_give_decoys_and_housekeeping_none(layout):
    network, edges, kind = krumsiek2011(), layout.edges, layout.genes["kind"]
    pd.testing.assert_frame_equal(edges.loc[edges["given"], network.edges.columns], network.edges)
    assert set(edges["source"]) == set(network.regulators)
    regulated = set(edges["target"])
    assert set(kind.index[kind == "decoy"]) <= regulated
    assert not set(kind.index[kind == "housekeeping"]) & regulated
    assert (edges.loc[~edges["given"], "source"].value_counts() > 1).all()


def test_peaks_are_bound_by_regulators_of_their_gene(layout):
    links, edges = layout.links, layout.edges
    of_gene = set(zip(edges["source"], edges["target"], edges["sign"], strict=True))
    assert set(zip(links["source"], links["gene"], links["sign"], strict=True)) <= of_gene
    whole = links[links["promoter"]]
    assert set(zip(whole["source"], whole["gene"], whole["sign"], strict=True)) == of_gene
    unlinked = set(layout.peaks.index[~layout.peaks["promoter"]]) - set(links["target"])
    assert 0.3 < len(unlinked) / (~layout.peaks["promoter"]).sum() < 0.5


def test_the_genome_depends_on_the_seed_alone(layout):
    again, other = lay_out(krumsiek2011(), **SIZES), lay_out(krumsiek2011(), **SIZES | {"seed": 4})
    for name in ("genes", "peaks", "proteins", "edges", "links"):
        pd.testing.assert_frame_equal(getattr(layout, name), getattr(again, name))
    assert not layout.peaks.equals(other.peaks)


def test_few_peaks_and_taken_names_are_fine():
    edges = pd.DataFrame({"source": ["GENE1", "DECOY1"], "target": ["DECOY1", "GENE2"], "sign": [1, 1]})
    layout = lay_out(
        Network.from_edges(edges), n_genes=20, n_peaks=1, n_proteins=1, n_decoys=2, housekeeping=0.0, seed=0
    )
    assert layout.genes.index.is_unique
    assert len(layout.genes) == 20
    assert len(layout.peaks) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"n_genes": 20},
            "n_genes=20 is too small: the network has 11 regulators and 12 targets, and n_decoys=6",
        ),
        ({"n_proteins": 100}, "only .* target genes"),
        ({"n_peaks": 50_000}, "too many for 120 genes"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        lay_out(krumsiek2011(), **SIZES | change)

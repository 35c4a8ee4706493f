import numpy as np
import pytest

from mmopt.datasets import Kinetics, krumsiek2011
from mmopt.datasets.interventions import Intervention
from mmopt.datasets.observe import Assay, _draw, count, default_depth, missing_cells, signal
from mmopt.datasets.system import System


def population(**changed):
    sizes = {"n_cells": 600, "n_genes": 80, "n_peaks": 120, "n_proteins": 14, "n_decoys": 4}
    others = {"housekeeping": 0.25, "times": (0.0, 4.0, 8.0), "kinetics": Kinetics(), "random_state": 0}
    return System(krumsiek2011(), **(sizes | others | changed))


@pytest.fixture(scope="module")
def system():
    return population()


def counted(system, snapshot, batch_effect=0.0, dropout=0.0, scale=1.0):
    depth = {m: scale * d for m, d in default_depth(system.layout).items()}
    donor = np.arange(len(system.cells)) % 2
    counts = count(system, snapshot, Assay(depth, dropout, donor, batch_effect))
    return {m: x.toarray() for m, x in counts.items()}, depth, donor


def test_draws_are_negative_binomial():
    mean = np.full((20_000, 2), [4.0, 40.0])
    counts = _draw(mean, 0.2, 0.0, np.random.default_rng(0)).toarray()
    np.testing.assert_allclose(counts.mean(0), [4, 40], rtol=0.02)
    np.testing.assert_allclose(counts.var(0), [4 + 0.2 * 16, 40 + 0.2 * 1600], rtol=0.05)


def test_dropout_takes_the_weak_signals():
    mean = np.full((20_000, 2), [0.5, 8.0])
    whole, lossy = (_draw(mean, 0.1, d, np.random.default_rng(0)).toarray() for d in (0.0, 0.5))
    kept = lossy.sum(0) / whole.sum(0)
    assert kept[0] == pytest.approx(1 - 0.5 * np.exp(-0.5), abs=0.02)
    assert kept[1] > 0.99


def test_counts_follow_the_signal_at_the_depth_asked_for(system):
    now = system.wild_type[0]
    counts, depth, _ = counted(system, now)
    for modality, level in signal(system, now, depth).items():
        assert np.median(counts[modality].sum(1)) == pytest.approx(depth[modality], rel=0.15)
        share = level / level.sum(1, keepdims=True)
        observed = counts[modality] / counts[modality].sum(1, keepdims=True)
        assert np.corrcoef(np.log(share.mean(0)), np.log(observed.mean(0)))[0, 1] > 0.99


def test_background_falls_on_all_peaks_alike_whatever_the_cell(system):
    now, depth = system.wild_type[0], default_depth(system.layout)
    clean, half, nothing = (signal(system, now, depth, atac_background=b) for b in (0.0, 0.5, 1.0))
    own = clean["atac"] / clean["atac"].sum(1, keepdims=True)
    even = system.layout.peaks["mean"].to_numpy() / system.layout.peaks["mean"].sum()
    np.testing.assert_allclose(half["atac"], (own + even) / 2)
    np.testing.assert_allclose(nothing["atac"], np.tile(even, (len(own), 1)))
    for modality in ("rna", "prot"):
        np.testing.assert_array_equal(clean[modality], half[modality])
    third = signal(system, now, depth, atac_background=0.3)["atac"]
    assert np.log(third).std(0).mean() < 0.5 * np.log(own).std(0).mean()  # as the docstring says
    assay = Assay(depth, 0.0, np.zeros(len(own), dtype=int), 0.0, atac_background=1.0)
    observed = count(system, now, assay)["atac"].toarray()
    assert np.corrcoef(observed.mean(0), even)[0, 1] > 0.99
    assert np.median(observed.sum(1)) == pytest.approx(depth["atac"], rel=0.15)


def test_donors_shift_features(system):
    now = system.wild_type[0]
    for batch_effect, least, most in ((0.0, 0.0, 0.15), (0.5, 0.4, 1.0)):
        counts, _, donor = counted(system, now, batch_effect, scale=10)
        shift = np.log(counts["rna"][donor == 0].mean(0)) - np.log(counts["rna"][donor == 1].mean(0))
        assert least <= np.std(shift) <= most


def test_the_rna_of_a_knocked_out_gene_is_never_seen(system):
    # its own time 0 included: the clamp is there before the cell is read
    for gene in ("GATA1", "GENE1", "DECOY1"):
        now = system.read([system.time], [Intervention(gene, "knockout")])[0]
        counts, _, _ = counted(system, now, scale=10)
        column = system.layout.genes.index.get_loc(gene)
        assert counts["rna"][:, column].sum() == 0
        assert (counts["rna"].sum(0)[np.arange(80) != column] > 0).all()


def test_protein_follows_a_held_gene_with_the_lag_of_the_ode(system):
    k_rna, k_protein = system.kinetics.expression, system.kinetics.protein
    step, protein, rna, naive = 1e-4, 0.0, 0.0, {}
    for i in range(int(8 / step)):
        t = i * step
        if i % int(0.5 / step) == 0:
            naive[t] = (rna, protein)
        on = 1.0 <= t < 3.0
        protein += step * k_protein * (rna - protein)
        rna = 1.0 if on else rna - step * k_rna * rna
    t = np.array(list(naive))
    made = np.transpose(system._progress(np.full_like(t, 1.0), np.full_like(t, 3.0), t))
    steady = np.abs(t - 1.0) > 1e-9  # at the very start the ODE's RNA is one step late
    np.testing.assert_allclose(made[steady], np.array(list(naive.values()))[steady], atol=2e-3)


def test_chromatin_leads_rna_and_rna_leads_protein(system):
    days = np.arange(0, 10.5, 0.5)
    reads = system.read([np.full(600, d) for d in days])
    fate = system.network.fate(reads[-1].levels[0])
    gene = "GYPA"
    rise = {}
    for name, level, row in (
        ("atac", system.atac, system.layout.peaks.index.get_loc(promoter_of(system, gene))),
        ("rna", system.rna, system.layout.genes.index.get_loc(gene)),
        ("nascent", system.nascent, system.layout.genes.index.get_loc(gene)),
        ("protein", system.protein, system.layout.proteins["gene"].tolist().index(gene)),
    ):
        mean = np.array([level(r)[row][fate == "erythrocyte"].mean() for r in reads])
        rise[name] = np.interp(0.5 * mean[-1], mean, days)
    assert rise["atac"] + 0.2 < rise["rna"] < rise["protein"] - 0.2
    assert rise["nascent"] + 0.2 < rise["rna"]


def test_levels_move_towards_what_is_transcribed():
    """The change of the regulators, averaged over their noise, is their turnover times what is made less what there is."""
    calm = population(n_cells=40, kinetics=Kinetics(noise=0.0, speed=0.0))
    before, after = calm.read([np.full(40, 3.0), np.full(40, 3.1)])
    rows = calm.layout.genes.index.get_indexer(calm.network.regulators)
    level, later, made = calm.rna(before)[rows], calm.rna(after)[rows], calm.nascent(before)[rows]
    assert np.abs(later - level).max() > 0.01
    np.testing.assert_allclose(later - level, 0.1 * (made - level), atol=0.001)


def promoter_of(system, gene):
    peaks = system.layout.peaks
    return peaks.index[(peaks["gene"] == gene) & peaks["promoter"]][0]


def test_shares_of_missing_cells_are_exact_and_no_cell_loses_all():
    lacking = missing_cells({"rna": 0.5, "atac": 0.5, "prot": 0.9}, np.zeros(200, int), 0)
    assert lacking["atac"].sum() == 100
    assert lacking["prot"].sum() == 180
    assert not (lacking["rna"] & lacking["atac"] & lacking["prot"]).any()


def test_mosaic_goes_by_donor():
    donor = np.repeat([0, 1, 2, 3], 5)
    lacking = missing_cells("mosaic", donor, 0)
    assert not lacking["rna"].any()
    assert set(donor[lacking["atac"]]) == {1}
    assert set(donor[lacking["prot"]]) == {2}


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"adt": 0.1}, "no modality 'adt'; there are 'rna', 'atac', 'prot'"),
        ({"atac": 1.0}, r"atac must be a number in \[0, 1\)"),
        ({"atac": -0.1}, "in"),
        ({"atac": "half"}, "must be a number"),
        ("random", "the only named pattern is 'mosaic'"),
        ("mosaic", "n_donors of at least 2"),
    ],
)
def test_missing_refuses(missing, message):
    with pytest.raises(ValueError, match=message):
        missing_cells(missing, np.zeros(10, int), 0)

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest

from mmopt.datasets import krumsiek2011, simulate_trimodal, truth_effect, truth_fates

SIZES = {"n_genes": 100, "n_peaks": 160, "n_proteins": 14}


@pytest.fixture(scope="module")
def data():
    return simulate_trimodal(400, **SIZES)


def deltas(effect, modality="rna", group="all"):
    return effect[(effect["modality"] == modality) & (effect["group"] == group)].set_index("feature")["delta"]


def test_every_feature_and_group_is_there_once(data):
    effect = truth_effect(data, "GATA1")
    types = data.obs["cell_type"].cat.categories
    assert list(effect) == ["modality", "feature", "group", "delta", "se", "n_cells"]
    assert not effect.duplicated(["modality", "feature", "group"]).any()
    assert len(effect) == (100 + 160 + 14) * (len(types) + 1)
    counts = effect.drop_duplicates("group").set_index("group")["n_cells"]
    assert counts["all"] == 400
    assert counts.drop("all").sum() == 400
    assert np.isfinite(effect["delta"]).all()
    weighted = sum(deltas(effect, group=t) * counts[t] for t in types) / 400
    pd.testing.assert_series_equal(weighted, deltas(effect))


def test_known_knock_outs_change_expression_in_the_known_direction(data):
    ko = {gene: deltas(truth_effect(data, gene, groupby=None)) for gene in ("GATA1", "SPI1", "CEBPA", "KLF1")}
    assert ko["GATA1"].idxmin() == "GATA1"
    assert (ko["GATA1"][["ZFPM1", "KLF1", "FLI1", "TAL1", "GYPA", "ITGA2B"]] < -0.2).all()
    assert (ko["SPI1"][["JUN", "EGR1", "ITGAM", "CD14"]] < -0.2).all()
    assert (ko["SPI1"][["GATA1", "KLF1"]] > 0.2).all()
    assert (ko["CEBPA"][["GFI1", "CSF3R"]] < -0.2).all()
    assert ko["KLF1"]["FLI1"] > 0.1
    assert ko["KLF1"][["SPI1", "CEBPA", "GFI1"]].abs().max() < 0.05


def test_all_three_modalities_answer(data):
    effect = truth_effect(data, "GATA1", groupby=None)
    links = data.uns["truth"]["peak_links"]
    opened_by = links[(links["source"] == "GATA1") & (links["sign"] == 1)]
    only = opened_by[~opened_by["peak"].isin(links.loc[links["source"] != "GATA1", "peak"])]["peak"]
    assert (deltas(effect, "atac")[only] < -0.1).all()
    assert len(only) > 1
    protein = deltas(effect, "prot")
    assert (protein[["GYPA_ADT", "ITGA2B_ADT", "TFRC_ADT"]] < 0).all()
    assert protein["ITGAM_ADT"] > 0


def test_known_knock_outs_and_over_expressions_change_fates(data):
    def fates(perturbation, mode="knockout"):
        return truth_fates(data, perturbation, mode=mode).set_index("fate")["perturbed"]

    wild = truth_fates(data).set_index("fate")["wild_type"]
    assert wild.sum() == pytest.approx(1)
    megakaryocyte_erythroid, granulocyte_monocyte = (
        ["erythrocyte", "megakaryocyte"],
        ["monocyte", "granulocyte"],
    )
    assert fates("GATA1")[megakaryocyte_erythroid].sum() < 0.02
    assert fates("SPI1")[granulocyte_monocyte].sum() < 0.02
    cebpa = fates("CEBPA")
    assert cebpa["granulocyte"] < 0.02
    assert cebpa[granulocyte_monocyte].sum() <= wild[granulocyte_monocyte].sum() + 0.02
    assert fates("KLF1")["erythrocyte"] < 0.02 < 0.3 < fates("KLF1")["megakaryocyte"]
    assert fates("GFI1")["granulocyte"] < 0.02
    assert fates("EGR1")["monocyte"] < 0.1
    assert fates("GATA1", "overexpress")[granulocyte_monocyte].sum() < 0.02
    assert fates("SPI1", "overexpress")[megakaryocyte_erythroid].sum() < 0.02
    assert fates(["GATA1", "SPI1"])["none"] > 0.9


def test_a_decoy_changes_itself_alone_exactly(data):
    for regime in ("chronic", "acute"):
        effect = truth_effect(data, "DECOY1", regime=regime)
        changed = effect[effect["delta"] != 0]
        assert set(changed["feature"]) == {"DECOY1"}
        assert (changed["delta"] < 0).all()
    fates = truth_fates(data, "DECOY1")
    assert (fates["wild_type"] == fates["perturbed"]).all()


def test_a_marker_changes_itself_and_its_protein_with_a_lag(data):
    effect = truth_effect(data, "GYPA", regime="acute", horizon=0.5, groupby=None)
    assert set(effect.loc[effect["delta"] != 0, "feature"]) == {"GYPA", "GYPA_ADT"}
    later = truth_effect(data, "GYPA", regime="acute", horizon=6, groupby=None)
    assert deltas(later, "prot")["GYPA_ADT"] < deltas(effect, "prot")["GYPA_ADT"] < 0


def test_over_expression_holds_the_gene_at_twice_its_top():
    # a house-keeping gene is fully on in every cell, so twice its top is twice its level
    wild = simulate_trimodal(300, **SIZES, dropout=0.0)
    kinds = wild.uns["truth"]["genes"]["kind"]
    gene = kinds.index[kinds == "housekeeping"][0]
    held = simulate_trimodal(300, **SIZES, dropout=0.0, interventions=(gene, "overexpress"))

    def share(mdata):
        x = mdata["rna"].to_df()
        return x[gene].sum() / x.drop(columns=gene).to_numpy().sum()

    assert share(held) / share(wild) == pytest.approx(2, rel=0.05)


def test_the_counts_of_perturbed_cells_show_the_true_effect(data):
    depth = {"rna": 100_000.0, "atac": 100_000.0, "prot": 50_000.0}
    wild, held = (
        simulate_trimodal(400, **SIZES, depth=depth, dropout=0.0, batch_effect=0.0, interventions=i)
        for i in (None, "GATA1")
    )
    effect = truth_effect(wild, "GATA1", groupby=None)
    for modality in ("rna", "atac"):
        means = []
        for mdata in (wild, held):
            x = mdata[modality].X.toarray()
            others = np.ones(x.shape[1], bool) if modality == "atac" else mdata[modality].var_names != "GATA1"
            means.append(np.log1p(1e4 * x / x[:, others].sum(1, keepdims=True)).mean(0))
        observed = pd.Series(means[1] - means[0], index=wild[modality].var_names)
        truth = deltas(effect, modality).reindex(observed.index)
        assert np.abs(observed - truth).max() < 0.2
        assert np.corrcoef(observed, truth)[0, 1] > 0.98


def test_a_schedule_is_neither_nothing_nor_for_ever(data):
    def megakaryocytes(perturbation):
        return truth_fates(data, perturbation).set_index("fate").loc["megakaryocyte", "perturbed"]

    wild = truth_fates(data).set_index("fate").loc["megakaryocyte", "wild_type"]
    windows = ("FLI1", ("FLI1", "knockout", 0, 2), ("FLI1", "knockout", 30, 40))
    for_ever, early, late = (megakaryocytes(window) for window in windows)
    assert for_ever < 0.02
    assert 0.05 < early < wild - 0.05
    assert late == wild


def test_after_a_pulse_the_gene_comes_back(data):
    pulse = truth_effect(data, ("GENE1", "knockout", 0, 1), groupby="time")
    for_ever = truth_effect(data, "GENE1", groupby="time")
    assert deltas(pulse, group="0")["GENE1"] == deltas(for_ever, group="0")["GENE1"] < 0
    assert deltas(for_ever, group="8")["GENE1"] < -0.5
    assert abs(deltas(pulse, group="8")["GENE1"]) < 1e-3


def test_acute_is_the_snapshot_cells_some_days_later(data):
    day0 = data[(data.obs["time"] == 0).to_numpy()]
    # a cell sampled at day 0 and clamped from there lives what a cell clamped from day 0 lives
    acute = truth_fates(day0, "GATA1", regime="acute").set_index("fate")
    chronic = truth_fates(day0, "GATA1").set_index("fate")
    pd.testing.assert_frame_equal(acute, chronic)
    erythrocytes = data[(data.obs["cell_type"] == "erythrocyte").to_numpy()]
    kept = truth_fates(erythrocytes, "CEBPA", regime="acute").set_index("fate")
    assert kept.loc["erythrocyte", "perturbed"] > 0.8


def test_a_subset_and_a_file_give_the_same_answer(data, tmp_path):
    mask = (data.obs["time"] == 4).to_numpy()
    whole = truth_effect(data, "SPI1", groupby="time")
    part = truth_effect(data[mask][:, :50].copy(), "SPI1", groupby=None)
    np.testing.assert_allclose(deltas(part), deltas(whole, group="4"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mudata 0.3 announces 0.4
        data.write_h5mu(tmp_path / "data.h5mu")
        reread = mudata.read_h5mu(tmp_path / "data.h5mu")
    pd.testing.assert_frame_equal(truth_effect(reread, "SPI1", groupby="time"), whole)


def test_background_makes_the_truth_of_atac_smaller_and_no_other(data):
    blurred = truth_effect(simulate_trimodal(400, **SIZES, atac_background=0.6), "GATA1")
    clean = truth_effect(data, "GATA1")
    for modality in ("rna", "prot"):
        np.testing.assert_array_equal(deltas(blurred, modality), deltas(clean, modality))
    narrow, wide = deltas(blurred, "atac"), deltas(clean, "atac")
    assert 0.2 * wide.abs().mean() < narrow.abs().mean() < 0.7 * wide.abs().mean()
    assert np.corrcoef(narrow, wide)[0, 1] > 0.9
    old = data.copy()
    del old.uns["truth"]["parameters"]["atac_background"]  # a file from before there was any
    pd.testing.assert_frame_equal(truth_effect(old, "GATA1"), clean)


def test_fates_by_group(data):
    fates = truth_fates(data, "SPI1", groupby="cell_type", regime="acute")
    assert fates.groupby("group")["perturbed"].sum().to_numpy() == pytest.approx(1)
    assert set(fates["group"]) == {"all", *data.obs["cell_type"].cat.categories}
    assert set(fates["fate"]) == {*krumsiek2011().fates, "none"}


def test_the_truth_of_a_network_without_stages():
    edges = pd.DataFrame(
        {"source": ["A", "B"], "target": ["B", "A"], "sign": [-1, -1], "threshold": [0.4, 0.4]}
    )
    mdata = simulate_trimodal(200, network=edges, n_genes=30, n_peaks=40, n_proteins=4)
    fates = truth_fates(mdata, "A")
    b_on = mdata.uns["truth"]["stages"].query("on == 'B'").index[0]
    assert fates.set_index("fate").loc[b_on, "perturbed"] > 0.95


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: truth_effect(d, "GATA9"), KeyError, "nearest: 'GATA"),
        (lambda d: truth_effect(d, []), ValueError, "at least one gene"),
        (lambda d: truth_effect(d, "GATA1", mode="delete"), ValueError, "mode of GATA1"),
        (lambda d: truth_effect(d, "GATA1", regime="late"), ValueError, "'chronic', 'acute', got 'late'"),
        (lambda d: truth_effect(d, "GATA1", horizon=2), ValueError, "horizon belongs to regime='acute'"),
        (
            lambda d: truth_effect(d, "GATA1", regime="acute", horizon=-1),
            ValueError,
            "positive number of days",
        ),
        (lambda d: truth_effect(d, "GATA1", groupby="leiden"), KeyError, "no column 'leiden'"),
        (
            lambda d: truth_effect(d, ("GATA1", "knockout", 3, 4), regime="acute"),
            ValueError,
            "GATA1 from day 3 after sampling on, but cells are read on day 2.66667; .*longer `horizon`",
        ),
        (
            lambda d: truth_fates(d, ["SPI1", ("GATA1", "knockout", 3, 4)], regime="acute", horizon=2),
            ValueError,
            "GATA1 from day 3",
        ),
        (lambda d: truth_fates(d, "GATA1", regime="late"), ValueError, "regime must be"),
    ],
)
def test_refusals(data, call, error, message):
    with pytest.raises(error, match=message):
        call(data)


def test_no_group_takes_the_name_of_all_cells(data):
    data = data.copy()
    data.obs["part"] = np.where(np.arange(400) < 100, "all", "rest")
    for truth in (truth_effect, truth_fates):
        with pytest.raises(ValueError, match=r"'part' has a group 'all'.*rename that group"):
            truth(data, "GATA1", groupby="part")


def test_groups_may_be_named_by_numbers_and_text(data):
    data = data.copy()
    data.obs["mixed"] = np.array([10, 9, "b", 2.5] * 100, dtype=object)
    groups = truth_effect(data, "GATA1", groupby="mixed").drop_duplicates("group").set_index("group")
    assert list(groups.index) == ["all", "2.5", "9", "10", "b"]
    assert (groups["n_cells"].drop("all") == 100).all()


def test_the_truth_is_not_told_of_cells_that_were_perturbed(tmp_path):
    held = simulate_trimodal(60, **SIZES, interventions=["GATA1", ("SPI1", "overexpress", 2, 4)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mudata 0.3 announces 0.4
        held.write_h5mu(tmp_path / "held.h5mu")
        reread = mudata.read_h5mu(tmp_path / "held.h5mu")
    for mdata in (held, reread):
        for truth in (truth_effect, truth_fates):
            with pytest.raises(ValueError, match=r"with 'GATA1', 'SPI1' held.*without `interventions`"):
                truth(mdata, "KLF1")


def test_acute_with_one_time_point_needs_a_horizon():
    once = simulate_trimodal(60, times=(0,), **SIZES)
    with pytest.raises(ValueError, match=r"there is one time point.*give `horizon` in days"):
        truth_effect(once, "GATA1", regime="acute")
    assert (truth_effect(once, "GATA1", regime="acute", horizon=1)["n_cells"] > 0).all()


def test_refuses_what_was_not_simulated_here(data):
    other = data.copy()
    del other.uns["truth"]
    with pytest.raises(KeyError, match="simulate_trimodal"):
        truth_effect(other, "GATA1")
    other = data.copy()
    other.uns["truth"]["edges"].loc[len(other.uns["truth"]["edges"]) - 1, "source"] = "GATA2"
    other.uns["truth"]["edges"].loc[len(other.uns["truth"]["edges"]) - 2, "source"] = "TAL1"
    with pytest.raises(ValueError, match="comes out differently"):
        truth_effect(other, "GATA1")
    renamed = mudata.MuData({"rna": data["rna"].copy()})
    renamed["rna"].obs_names = [f"x{i}" for i in range(400)]
    renamed.update()
    renamed.uns["truth"] = data.uns["truth"]
    with pytest.raises(KeyError, match="cells that were not simulated"):
        truth_effect(renamed, "GATA1", groupby=None)

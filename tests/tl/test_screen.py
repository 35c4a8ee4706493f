import time

import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt._compat import override_pull_on_update


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


def test_one_tidy_table_that_agrees_with_single_perturbations(mdata):
    table = mm.tl.screen(
        mdata, mode=("knockout", "overexpress"), n_members=8, n_cells=300, progress_bar=False
    )
    slot = mdata.uns["screen"]
    assert list(table) == [
        "perturbation",
        "modality",
        "feature",
        "group",
        "delta",
        "sd",
        "q05",
        "q95",
        "prob_up",
        "direct",
    ]
    names = list(table["perturbation"].cat.categories)
    sources = set(mdata.uns["regulons"]["edges"]["source"])
    assert {n.rpartition("_")[0] for n in names} | {
        n.rpartition("_")[0] for n in slot["skipped"]["perturbation"]
    } == sources
    assert len(table) == len(names) * 310
    mm.tl.perturb(mdata, "GATA1", n_null=5)
    alone = mdata.uns["perturb"]["GATA1_knockout"]["effects"]
    mine = table[(table["perturbation"] == "GATA1_knockout").to_numpy()]
    np.testing.assert_allclose(mine["delta"], alone["delta"], atol=1e-5)
    np.testing.assert_allclose(mine["q95"], alone["q95"], atol=1e-5)
    ranking = slot["ranking"]
    assert ranking["shift_norm"].is_monotonic_decreasing
    assert set(ranking["perturbation"]) == set(names)
    regulators = mdata.uns["regulons"]["regulators"].set_index("feature")
    for row in ranking.itertuples():
        mine = regulators.loc[row.perturbation.rpartition("_")[0]]
        assert row.doubt == mine["doubt"]
        assert row.n_confirmed == mine["n_confirmed"]


def test_pairs_groups_and_the_largest_only(mdata):
    table = mm.tl.screen(
        mdata,
        ["GATA1", "SPI1", ["CEBPA", "GFI1"]],
        order=2,
        groupby="cell_type",
        n_top=5,
        n_members=3,
        n_cells=20,
        progress_bar=False,
    )
    assert list(table["perturbation"].cat.categories) == [
        "GATA1_knockout",
        "SPI1_knockout",
        "CEBPA+GFI1_knockout",
        "GATA1+SPI1_knockout",
    ]
    assert (table.groupby(["perturbation", "modality", "group"], observed=True).size() == 5).all()
    assert list(table["group"].cat.categories) == ["all", *sorted(mdata.obs["cell_type"].unique())]
    both = mdata.uns["regulons"]["regulators"].set_index("feature").loc[["CEBPA", "GFI1"]]
    of_pair = mdata.uns["screen"]["ranking"].set_index("perturbation").loc["CEBPA+GFI1_knockout"]
    assert (of_pair["doubt"] == both["doubt"].max()).all()  # in every group
    assert (of_pair["n_confirmed"] == both["n_confirmed"].min()).all()


def test_what_has_a_mode_of_its_own_is_asked_for_once(mdata):
    features = [
        ("GATA1", "overexpress"),
        "SPI1",
        [("CEBPA", "knockout"), ("GFI1", "overexpress")],
        {"KLF1": "2x"},
    ]
    table = mm.tl.screen(
        mdata, features, mode=("knockout", "overexpress"), n_members=3, n_cells=20, progress_bar=False
    )
    skipped = mdata.uns["screen"]["skipped"]["perturbation"]
    assert sorted([*table["perturbation"].cat.categories, *skipped]) == [
        "CEBPA_knockout+GFI1_overexpress",
        "GATA1_overexpress",
        "KLF1_overexpress",
        "SPI1_knockout",
        "SPI1_overexpress",
    ]


def test_regulators_are_compared_with_others_of_the_screen(mdata):
    regulators = sorted(set(mdata.uns["regulons"]["edges"]["source"]))[:7]
    mode = ("knockout", "overexpress")
    mm.tl.screen(
        mdata, [*regulators, ["GATA1", "SPI1"]], mode=mode, n_members=3, n_cells=20, progress_bar=False
    )
    ranking = mdata.uns["screen"]["ranking"]
    kind = ranking["perturbation"].where(ranking["perturbation"].str.contains("+", regex=False), "single")
    kind = np.where(kind == "single", ranking["perturbation"].str.rpartition("_")[2], "pair")
    for name, of_kind in ranking.groupby(kind):
        if name == "pair":
            assert of_kind[["matched_p", "matched_padj"]].isna().all(axis=None)
        else:  # all the others stand beside each: the largest first
            expected = np.arange(1, len(of_kind) + 1) / len(of_kind)
            np.testing.assert_allclose(of_kind["matched_p"], expected)
    known = ranking.dropna(subset="matched_p")
    assert set(kind) == {"pair", *mode}
    assert (known["matched_padj"] >= known["matched_p"]).all() and known["matched_padj"].notna().all()
    mm.tl.screen(mdata, ["GATA1", "SPI1"], n_members=3, n_cells=20, progress_bar=False)
    assert mdata.uns["screen"]["ranking"]["matched_p"].isna().all()


def test_a_dict_is_one_perturbation(mdata):
    asked = {"GATA1": "overexpress", "SPI1": "2x"}
    table = mm.tl.screen(mdata, asked, n_members=3, n_cells=20, progress_bar=False)
    assert list(table["perturbation"].cat.categories) == ["GATA1+SPI1_overexpress"]


def test_a_clamped_gene_is_no_effect_to_be_sure_of(mdata):
    table = mm.tl.screen(mdata, ["GATA1", "SPI1"], n_members=5, progress_bar=False)
    rna = table[(table["modality"] == "rna").to_numpy()]
    sure = ((rna["q05"] > 0) | (rna["q95"] < 0)) & ~rna["direct"]
    counted = mdata.uns["screen"]["ranking"].set_index("perturbation")["n_confident"]
    assert sure.groupby(rna["perturbation"], observed=True).sum().to_dict() == counted.to_dict()


def test_what_cannot_be_perturbed_is_listed_or_refused(mdata, caplog):
    table = mm.tl.screen(mdata, ["GATA1", "GENE9"], n_members=3, progress_bar=False)
    assert set(table["perturbation"]) == {"GATA1_knockout"}
    skipped = mdata.uns["screen"]["skipped"]
    assert skipped["perturbation"].tolist() == ["GENE9_knockout"]
    assert "no outgoing edge" in skipped["reason"].iloc[0]
    assert "1 perturbations were refused" in caplog.text
    with pytest.raises(ValueError, match="nothing could be perturbed; the first refusal: 'GENE9'"):
        mm.tl.screen(mdata, ["GENE9"], n_members=3, progress_bar=False)
    with pytest.raises(KeyError, match="nearest: 'GATA1'"):
        mm.tl.screen(mdata, ["GATA11"], n_members=3)
    with pytest.raises(ValueError, match="features must be 'regulators' or a list"):
        mm.tl.screen(mdata, "GATA1")
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        mm.tl.screen(mdata, order=3)
    with pytest.raises(ValueError, match="n_members must be at least 3"):
        mm.tl.screen(mdata, n_members=1)
    with pytest.raises(ValueError, match="'GATA1_knockout' asked for twice"):
        mm.tl.screen(mdata, ["GATA1", "GATA1"], n_members=3)


def test_the_slot_survives_a_file(mdata, tmp_path):
    table = mm.tl.screen(mdata, ["GATA1", "SPI1"], n_top=4, n_members=3, progress_bar=False)
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "x.h5mu")
        read = mudata.read_h5mu(tmp_path / "x.h5mu")
    pd.testing.assert_frame_equal(
        read.uns["screen"]["effects"], table, check_categorical=False, check_dtype=False
    )
    assert len(read.uns["screen"]["skipped"]) == 0


def test_a_perturbation_of_a_screen_takes_less_than_a_fifth_of_a_second(mdata):
    """On 310 features, so that 300 end in under a minute."""
    regulators = sorted(set(mdata.uns["regulons"]["edges"]["source"]))
    pairs = [[a, b] for i, a in enumerate(regulators) for b in regulators[:i]]
    start = time.process_time()
    mm.tl.screen(mdata, (pairs * 3)[: min(len(pairs), 60)], progress_bar=False, n_top=10)
    assert time.process_time() - start < 12 * min(len(pairs), 60) / 60


def test_slots_of_other_functions_are_not_overwritten(mdata):
    before = mdata.uns["regulons"]
    for call in (mm.tl.screen, mm.tl.twin, mm.tl.regulons):
        named = {"time_key": "time"} if call is mm.tl.twin else {}
        with pytest.raises(ValueError, match="key_added='perturb' would overwrite"):
            call(mdata, key_added="perturb", **named)
    with pytest.raises(ValueError, match=r"key_added='regulons' would overwrite.*'screen_2'"):
        mm.tl.screen(mdata, key_added="regulons")
    with pytest.raises(ValueError, match="key_added='truth' would overwrite"):
        mm.tl.screen(mdata, key_added="truth")
    assert mdata.uns["regulons"] is before

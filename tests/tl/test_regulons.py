import mudata
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update


def refit(mdata, **kwargs):
    copy = mdata.copy()
    mm.tl.regulons(copy, **{"n_boot": 8} | kwargs)
    return copy.uns["regulons"]


def test_edges_have_the_true_signs_and_say_what_they_rest_on(regulated):
    mdata, prior = regulated
    slot = mdata.uns["regulons"]
    edges, truth = slot["edges"], mdata.uns["truth"]["edges"]
    assert list(edges) == [
        "source_modality",
        "source",
        "target_modality",
        "target",
        "weight",
        "sd",
        "sign_stability",
        "evidence",
    ]
    genes = edges[(edges["target_modality"] == "rna").to_numpy()]
    both = genes.merge(truth, on=["source", "target"])
    known = both[both["evidence"] != "covariation"]
    assert (np.sign(known["weight"]) == known["sign"]).mean() > 0.8
    pairs = set(zip(prior["source"], prior["target"], strict=True))
    labelled = genes[genes["evidence"].isin(["prior", "prior+peak"])]
    assert set(zip(labelled["source"], labelled["target"], strict=True)) <= pairs
    assert set(edges["evidence"]) == {"prior", "prior+peak", "covariation"}
    assert set(edges["target_modality"]) == {"rna", "atac", "prot"}
    false = known["source"] == "DECOY1"
    decoy = genes[(genes["source"] == "DECOY1").to_numpy()]
    assert decoy["weight"].abs().mean() < 0.5 * known.loc[~false, "weight"].abs().mean()
    assert (edges["sign_stability"].between(0.5, 1)).all()
    loose = edges["evidence"] == "covariation"
    assert edges.loc[loose, "sign_stability"].min() >= 0.8


def test_the_network_is_stable_and_its_links_are_near(regulated):
    slot = regulated[0].uns["regulons"]
    assert slot["spectral_radius"] <= 0.95 + 1e-6
    links = slot["links"]
    assert (links["distance"] <= 150_000).all()
    true = regulated[0].uns["truth"]["peak_links"][["peak", "gene"]].drop_duplicates()
    found = links.merge(true, on=["peak", "gene"])
    assert len(found) / len(links) > 0.7
    assert slot["params"]["penalty"] in slot["params"]["cross_validation"]["penalty"].to_numpy()


def test_the_same_seed_gives_the_same_network_whatever_the_size_of_weights(regulated):
    mdata, prior = regulated
    first = mdata.uns["regulons"]
    again = refit(mdata, prior=prior.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(first["edges"], again["edges"])
    weighted = refit(mdata, prior=prior.assign(weight=7.5 * prior["weight"]))
    pd.testing.assert_frame_equal(first["edges"], weighted["edges"])
    other = refit(mdata, prior=prior, random_state=1)
    assert not np.array_equal(first["members"]["exponent"], other["members"]["exponent"])


def test_the_slot_survives_a_file(regulated, tmp_path):
    mdata, _ = regulated
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "x.h5mu")
        read = mudata.read_h5mu(tmp_path / "x.h5mu")
    slot, before = read.uns["regulons"], mdata.uns["regulons"]
    pd.testing.assert_frame_equal(slot["edges"], before["edges"], check_categorical=False)
    mm.tl.perturb(read, "GATA1", n_null=5)
    one, other = read.uns["perturb"]["GATA1_knockout"], mdata.copy()
    mm.tl.perturb(other, "GATA1", n_null=5)
    pd.testing.assert_frame_equal(
        one["effects"], other.uns["perturb"]["GATA1_knockout"]["effects"], check_categorical=False
    )


def test_without_a_prior_all_is_covariation_and_it_says_so(regulated, caplog):
    mdata, _ = regulated
    regulators = ["GATA1", "SPI1", "CEBPA", "DECOY1"]
    slot = refit(mdata, regulators=regulators, n_boot=5, atac=False, prot=False)
    assert set(slot["edges"]["evidence"]) == {"covariation"}
    assert set(slot["edges"]["source"]) <= set(regulators)
    assert "covariation alone" in caplog.text
    assert set(slot["edges"]["target_modality"]) == {"rna"}
    everything = refit(mdata, n_boot=5, atac=False, prot=False)
    assert len(set(everything["edges"]["source"])) > 50


def test_motifs_in_linked_peaks_are_evidence(regulated):
    mdata, prior = regulated
    links = mdata.uns["regulons"]["links"]
    hit = links[links["gene"] == "KLF1"].iloc[0]
    motifs = pd.DataFrame({"peak": [hit["peak"]], "source": ["GATA1"]})
    prior = prior[~((prior["source"] == "GATA1") & (prior["target"] == "KLF1"))]
    slot = refit(mdata, prior=prior, motifs=motifs, n_boot=5)
    edges = slot["edges"]
    mine = edges[(edges["source"] == "GATA1") & edges["target"].isin(["KLF1", hit["peak"]])]
    assert set(mine["evidence"].astype(str)) == {"motif+peak"}
    assert slot["params"]["n_prior_edges"] == prior["target"].isin(mdata["rna"].var_names).sum()


def test_what_repeats_in_a_prior_does_not_depend_on_its_order(regulated):
    mdata, prior = regulated
    unknown = prior.assign(weight=np.nan)
    conflict = prior.iloc[[0]].assign(weight=-prior["weight"].iloc[0])
    doubled = pd.concat([prior.iloc[1:], unknown.iloc[1:], prior.iloc[[0]], conflict], ignore_index=True)
    plain = pd.concat([unknown.iloc[[0]], prior.iloc[1:]], ignore_index=True)
    expected = refit(mdata, prior=plain, n_boot=5)["edges"]
    for order in (doubled, doubled[::-1]):
        pd.testing.assert_frame_equal(refit(mdata, prior=order, n_boot=5)["edges"], expected)


def test_tables_that_match_nothing_are_warned_of(regulated, caplog):
    mdata, prior = regulated
    peaks = mdata["atac"].var_names.str.replace("-", ":", n=1)
    motifs = pd.DataFrame({"peak": peaks, "source": "GATA1"})
    refit(mdata, prior=prior.assign(target=prior["target"].str.lower()), motifs=motifs, n_boot=5)
    assert f"prior: none of its {len(prior)} rows joins one of the regulators to a gene" in caplog.text
    assert "motifs: none of its 200 rows joins one of the regulators to a linked peak" in caplog.text
    assert f"column 'peak' has '{peaks[0]}'" in caplog.text
    assert f"modality 'atac' '{mdata['atac'].var_names[0]}'" in caplog.text
    caplog.clear()
    other = mdata.copy()
    other["rna"].var["chrom"] = other["rna"].var["chrom"].astype(str).str.removeprefix("chr")
    mm.tl.regulons(other, prior=prior, n_boot=5)
    assert "genes and peaks have no chromosome in common ('1', " in caplog.text
    assert "joins one of the regulators" not in caplog.text


def test_donors_and_missing_positions(regulated, caplog):
    mdata, prior = regulated
    copy = mdata.copy()
    copy["atac"].var_names = [f"peak{i}" for i in range(copy["atac"].n_vars)]
    copy["atac"].var = copy["atac"].var[[]]
    with override_pull_on_update():
        copy.update()
    copy.obs["six"] = np.resize(list("abcdef"), copy.n_obs)
    mm.tl.regulons(copy, prior=prior, donor_key="six", n_boot=5)
    assert len(copy.uns["regulons"]["links"]) == 0
    assert "no genome positions" in caplog.text
    assert copy.uns["regulons"]["params"]["donor_key"] == "six"


def test_a_modality_of_the_donors_of_one_half_only(regulated, caplog):
    mdata, prior = regulated
    donors = np.resize(list("abcdef"), mdata.n_obs)

    def mosaic(measured):
        with override_pull_on_update():
            made = MuData(
                {"rna": mdata["rna"].copy(), "prot": mdata["prot"][np.isin(donors, measured)].copy()}
            )
        made.obs["six"] = pd.Series(donors, index=mdata.obs_names)[made.obs_names]
        made.obsm["X_pca"] = np.random.default_rng(0).standard_normal((made.n_obs, 5))
        return made

    for seed in range(3):
        made = mosaic(["a", "b"])
        mm.tl.regulons(made, prior=prior, donor_key="six", use_rep="X_pca", n_boot=5, random_state=seed)
    assert "across cells, not donors" not in caplog.text
    mm.tl.regulons(mosaic(["a"]), prior=prior, donor_key="six", use_rep="X_pca", n_boot=5)
    assert "so penalties are validated across cells, not donors" in caplog.text
    alone = mosaic(["a"])
    alone.mod["prot"] = alone["prot"][:1].copy()
    with override_pull_on_update():
        alone.update()
    with pytest.raises(ValueError, match=r"no two have 'rna', 'prot' both.*`prot=False`"):
        mm.tl.regulons(alone, prior=prior, use_rep="X_pca", n_boot=5)


def test_a_regulator_with_its_modality_that_is_not_highly_variable(regulated):
    mdata = regulated[0].copy()
    for role in ("rna", "prot"):
        mdata[role].var["highly_variable"] = True
    protein = mdata["prot"].var_names[2]
    mdata["rna"].var.loc["GATA1", "highly_variable"] = False
    mdata["prot"].var.loc[protein, "highly_variable"] = False
    named = ["rna:GATA1", "SPI1", f"adt:{protein}"]
    mm.tl.regulons(mdata, regulators=named, n_boot=5)
    assert set(mdata.uns["regulons"]["regulators"]["feature"]) == {"GATA1", "SPI1", protein}


def test_cells_without_a_modality_need_a_joint_embedding(regulated):
    mdata, prior = regulated
    with override_pull_on_update():
        mosaic = MuData({"rna": mdata["rna"].copy(), "atac": mdata["atac"][:400].copy()})
    mosaic.uns.pop("regulons", None)
    with pytest.raises(ValueError, match=r"100 cells lack modality 'atac'.*mm\.tl\.integrate"):
        mm.tl.regulons(mosaic, prior=prior)
    mosaic.obsm["X_mmopt"] = np.random.default_rng(0).standard_normal((500, 5))
    mm.tl.regulons(mosaic, prior=prior, n_boot=5)
    with pytest.raises(KeyError, match="use_rep='X_pca'"):
        mm.tl.regulons(mosaic, prior=prior, use_rep="X_pca")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"prior": "trrust"}, TypeError, "prior: a DataFrame"),
        ({"prior": pd.DataFrame({"tf": ["A"]})}, ValueError, "no column 'source', 'target'; there are 'tf'"),
        ({"prior": pd.DataFrame({"source": [], "target": []})}, ValueError, "no rows"),
        (
            {"prior": pd.DataFrame({"source": ["Gata1"], "target": ["KLF1"]})},
            ValueError,
            r"differ in case, such as 'Gata1' and 'GATA1': convert the prior, `prior\.assign\(.*str\.upper\(\)",
        ),
        ({"regulators": []}, ValueError, "the list is empty"),
        ({"regulators": ["GATA11"]}, KeyError, "nearest: 'GATA1'"),
        ({"n_boot": 2}, ValueError, "n_boot must be at least 5"),
        ({"rna": False}, TypeError, "modality"),
        (
            {"atac": False, "motifs": pd.DataFrame({"peak": ["p"], "source": ["GATA1"]})},
            ValueError,
            "no ATAC modality",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(regulated, kwargs, error, message):
    if kwargs.get("rna") is False:
        error, message = ValueError, "no RNA modality"
    with pytest.raises(error, match=message):
        mm.tl.regulons(regulated[0].copy(), **kwargs)


def test_scaled_data_are_refused(regulated):
    mdata, prior = regulated
    scaled = mdata.copy()
    values = scaled["rna"].X.toarray()
    scaled["rna"].X = (values - values.mean(0)) / (values.std(0) + 1)
    with pytest.raises(ValueError, match=r"z-scored.*raw counts are needed"):
        mm.tl.regulons(scaled, prior=prior)


def test_data_that_carry_no_network_are_refused(regulated):
    mdata, prior = regulated
    few = mdata[:9].copy()
    with pytest.raises(ValueError, match=r"needs 10 cells.*there are 9"):
        mm.tl.regulons(few, prior=prior)
    unknown = mdata.copy()
    unknown.obs["donor"] = unknown.obs["donor"].astype(object)
    unknown.obs.loc[unknown.obs_names[:3], "donor"] = None
    with pytest.raises(ValueError, match="'donor' has no value for 3 cells"):
        mm.tl.regulons(unknown, prior=prior, donor_key="donor")
    unmarked = mdata.copy()
    unmarked["prot"].var["highly_variable"] = False
    with pytest.raises(ValueError, match=r"'prot': var\['highly_variable'\] marks no feature.*`prot=False`"):
        mm.tl.regulons(unmarked, prior=prior)


def test_a_network_that_predicts_nothing_says_so_and_so_does_what_is_computed_with_it(regulated, caplog):
    mdata, prior = regulated
    slot = mdata.uns["regulons"]
    rna = (slot["features"]["modality"] == "rna").to_numpy()
    share = (slot["features"].loc[rna, "held_out_r2"] > 0.3).mean()
    assert slot["params"]["predictable"] == pytest.approx(share)
    assert share > 0.3
    rng, rna = np.random.default_rng(0), mdata["rna"].copy()
    rna.X = np.stack(
        [rng.permutation(column) for column in rna.X.toarray().T], 1
    )  # genes know nothing of each other
    noise = MuData({"rna": rna})
    mm.tl.regulons(noise, prior=prior, n_boot=5)
    assert "little in these counts to learn a network from" in caplog.text
    assert noise.uns["regulons"]["params"]["predictable"] < 0.05
    gene = prior["source"].iloc[0]
    with pytest.warns(UserWarning, match="of the genes in held-out cells: effects are mostly noise"):
        mm.tl.perturb(noise, gene)
    caplog.clear()
    mm.tl.screen(noise, [gene], progress_bar=False)
    assert "of the genes in held-out cells: effects are mostly noise" in caplog.text


def test_genes_that_are_not_there_are_not_predicted(regulated, caplog):
    mdata, prior = regulated
    rng, rna = np.random.default_rng(0), mdata["rna"].copy()
    values = np.stack([rng.permutation(column) for column in rna.X.toarray().T], 1)
    silent = rna.var_names[~rna.var_names.isin([*prior["source"], *prior["target"]])][:40]
    values[:, rna.var_names.isin(silent)] = 0
    rna.X = values
    noise = MuData({"rna": rna})
    mm.tl.regulons(noise, prior=prior, n_boot=5)
    slot = noise.uns["regulons"]
    assert slot["params"]["predictable"] < 0.05
    assert "little in these counts to learn a network from" in caplog.text
    r2 = slot["features"].set_index("feature")["held_out_r2"]
    assert set(r2.index[r2.isna()]) == set(silent)


def test_how_much_of_the_evidence_the_data_confirm_beside_chance(regulated, caplog):
    mdata, prior = regulated
    table = mdata.uns["regulons"]["regulators"].set_index("feature")
    genes = prior[prior["target"].isin(mdata["rna"].var_names)]
    assert table["n_edges"].to_dict() == genes["source"].value_counts().reindex(table.index).to_dict()
    true = table.drop(index="DECOY1")
    assert true["n_confirmed"].sum() > 2 * true["n_by_chance"].sum()
    assert true["doubt"].mean() < 0.1 < 0.5 < table.loc["DECOY1", "doubt"]
    rng = np.random.default_rng(1)
    targets = mdata["rna"].var_names[~mdata["rna"].var_names.isin(prior["source"])]
    elsewhere = prior.assign(target=rng.choice(targets, len(prior)))
    other = mdata.copy()
    mm.tl.regulons(other, prior=elsewhere, n_boot=5)
    assert "it says little about who regulates what" in caplog.text
    caplog.clear()
    mm.tl.regulons(other, prior=prior, n_boot=5)
    assert "it says little" not in caplog.text
    with pytest.warns(UserWarning, match="of the 7 edges that prior and motifs give DECOY1"):
        mm.tl.perturb(other, "DECOY1", n_null=5)
    mm.tl.perturb(other, "GATA1", n_null=5)
    assert "drawn at random" not in " ".join(other.uns["perturb"]["GATA1_knockout"]["warnings"])


def test_a_source_may_be_addressed_by_any_usual_name_of_its_modality(regulated):
    from mmopt.tl._features import one_spelling

    mdata, prior = regulated
    modalities = {"rna": "rna", "prot": "prot"}
    asked = ["adt:CD4", "protein:CD4", "prot:CD4", "rna:GATA1", "GATA1", "x:CD4"]
    expected = ["prot:CD4", "prot:CD4", "prot:CD4", "GATA1", "GATA1", "x:CD4"]
    assert [one_spelling(s, mdata, modalities) for s in asked] == expected
    protein = mdata["prot"].var_names[0]
    more = pd.DataFrame(
        {"source": [f"adt:{protein}"] * 3, "target": ["GENE3", "GENE5", "GENE8"], "weight": 1}
    )
    slot = refit(mdata, prior=pd.concat([prior, more]), n_boot=5)
    assert slot["regulators"].query("feature == @protein")["n_edges"].tolist() == [3]


def test_times_change_the_network_and_their_unit_does_not(regulated):
    mdata, prior = regulated
    timed = mdata.copy()
    timed.obs["hours"] = 24.0 * timed.obs["time"].to_numpy(dtype=float) - 5
    days, hours = (refit(timed, prior=prior, time_key=key) for key in ("time", "hours"))
    assert (days["params"]["time_key"], hours["params"]["time_key"]) == ("time", "hours")
    np.testing.assert_allclose(days["members"]["weights"], hours["members"]["weights"], rtol=1e-4, atol=1e-6)
    plain = mdata.uns["regulons"]
    assert plain["params"]["time_key"] == ""
    assert days["edges"].shape != plain["edges"].shape or not np.allclose(
        days["edges"]["weight"], plain["edges"]["weight"], atol=1e-3
    )
    truth = mdata.uns["truth"]["edges"]
    known = days["edges"].merge(truth, on=["source", "target"])
    known = known[(known["evidence"] != "covariation") & (known["target_modality"] == "rna")]
    assert (np.sign(known["weight"]) == known["sign"]).mean() > 0.8


def test_cells_without_a_time_are_as_without_times(regulated):
    mdata, prior = regulated
    partly = mdata.copy()
    partly.obs["partly"] = partly.obs["time"].where(partly.obs["time"] < 3).astype(float)
    some = refit(partly, prior=prior, time_key="partly")
    assert np.isfinite(some["members"]["weights"]).all()


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (lambda t: t * 0, ValueError, "1 time point"),
        (lambda t: np.linspace(0, 1, len(t)), ValueError, "is a pseudotime: cells are put in its order"),
        (
            lambda t: np.where(np.arange(len(t)) < 5, 99, t),
            ValueError,
            r"fewer than 50 cells .* these points$",
        ),
    ],
)
def test_times_that_say_nothing_of_change_are_refused(regulated, column, error, message):
    mdata, prior = regulated
    odd = mdata.copy()
    odd.obs["odd"] = column(odd.obs["time"].to_numpy(dtype=float))
    with pytest.raises(error, match=message):
        refit(odd, prior=prior, time_key="odd")
    with pytest.raises(KeyError, match="nowhere"):
        refit(mdata, prior=prior, time_key="nowhere")

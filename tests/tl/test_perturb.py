import re
import warnings
from types import SimpleNamespace

import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt._compat import override_pull_on_update


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


def run(mdata, *args, **kwargs):
    kwargs = {"n_null": 5, "copy": True} | kwargs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(mm.tl.perturb(mdata, *args, **kwargs).uns["perturb"].values())[-1]


def of_all(result, modality="rna"):
    effects = result["effects"]
    here = (effects["group"] == "all") & (effects["modality"] == modality)
    return effects[here.to_numpy()].set_index("feature")


@pytest.mark.parametrize(
    ("gene", "mode"), [("GATA1", "knockout"), ("SPI1", "knockout"), ("GATA1", "overexpress")]
)
def test_effects_go_where_the_truth_goes_in_all_modalities(mdata, gene, mode):
    result = run(mdata, gene, mode=mode)
    truth = mm.datasets.truth_effect(mdata, (gene, mode), regime="acute")
    truth = truth[truth["group"] == "all"]
    for modality in ("rna", "atac", "prot"):
        expected = truth[truth["modality"] == modality].set_index("feature")["delta"]
        got = of_all(result, modality)
        free = ~got["direct"].to_numpy()
        r = np.corrcoef(got["delta"][free], expected.reindex(got.index)[free])[0, 1]
        assert r > 0.5, modality
        changed = free & (expected.reindex(got.index).abs() > 0.15).to_numpy()
        agree = np.sign(got["delta"][changed]) == np.sign(expected.reindex(got.index)[changed])
        assert agree.mean() > 0.75, modality
        inside = expected.reindex(got.index).between(got["q05"], got["q95"])
        assert inside[changed].mean() > 0.6, modality


def test_what_is_written(mdata):
    mdata.obs["dpt_pseudotime"] = mdata.obs["time"] / 8
    before = {m: mdata[m].X.copy() for m in mdata.mod}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert mm.tl.perturb(mdata, "GATA1", groupby="cell_type", n_null=5) is None
    result = mdata.uns["perturb"]["GATA1_knockout"]
    effects, groups = result["effects"], result["groups"]
    names = ["all", *sorted(mdata.obs["cell_type"].unique())]
    assert list(groups["group"]) == names
    assert groups["n_cells"].iloc[0] == mdata.n_obs == groups["n_cells"].iloc[1:].sum()
    assert len(effects) == len(names) * sum(a.n_vars for a in mdata.mod.values())
    free = effects[~effects["direct"].to_numpy()]
    assert free.drop(columns=["modality", "feature", "group", "decoded"]).notna().all(axis=None)
    assert free["decoded"].isna().all()  # without a model
    assert ((free["q05"] <= free["delta"]) & (free["delta"] <= free["q95"])).all()
    assert free["null_p"].between(0, 1, inclusive="right").all()
    assert (free["padj"] >= free["null_p"] - 1e-12).all()
    np.testing.assert_array_equal(
        (free["null_p"] < 0.05) & (free["delta"].abs() <= free["null95"] * 0.98), False
    )
    direct = effects[effects["direct"].to_numpy()]
    assert set(direct["feature"]) == {"GATA1"}
    assert (direct["delta"] < 0).all()
    assert groups["perturbation_score"].abs().max() <= 1
    assert mdata.obs["perturb_score_GATA1_knockout"].notna().mean() > 0.5
    assert groups.loc[0, "matched_p"] <= 1
    for name, matrix in before.items():
        assert (matrix != mdata[name].X).nnz == 0
    # the effect on everyone is that on the groups, as large as they are
    wide = effects[effects["modality"] == "rna"].pivot(index="group", columns="feature", values="delta")
    weights = groups.set_index("group")["n_cells"].iloc[1:] / mdata.n_obs
    np.testing.assert_allclose(weights @ wide.loc[weights.index], wide.loc["all"], atol=1e-6)


def test_a_decoy_does_less_than_a_regulator_and_a_gene_without_edges_nothing(mdata):
    true, decoy = (of_all(run(mdata, g)) for g in ("GATA1", "DECOY1"))
    size = [r.loc[~r["direct"], "delta"].abs().mean() for r in (true, decoy)]
    assert size[1] < 0.4 * size[0]
    alone = of_all(run(mdata, "GENE9", on_missing="zero"))
    assert alone.loc["GENE9", "delta"] < 0
    assert (alone["delta"].drop("GENE9") == 0).all()
    assert (alone["sd"].drop("GENE9") == 0).all()


def test_fragments_from_anywhere_do_not_make_effects_small(regulated):
    same = regulated[0].uns["truth"]["parameters"]
    blurred = mm.datasets.simulate_trimodal(**same | {"atac_background": 0.6})
    mm.tl.regulons(blurred, prior=regulated[1], n_boot=8)
    for gene in ("GATA1", "SPI1"):
        clean, noisy = (of_all(run(m, gene)) for m in (regulated[0], blurred))
        free = ~clean["direct"]
        assert noisy.loc[free, "delta"].abs().mean() > 0.8 * clean.loc[free, "delta"].abs().mean()


def test_seeds_and_the_order_of_features(mdata):
    one, two = run(mdata, "GATA1"), run(mdata, "GATA1")
    pd.testing.assert_frame_equal(one["effects"], two["effects"])
    shuffled = mdata.copy()
    order = np.random.default_rng(0).permutation(shuffled["rna"].n_vars)
    shuffled.mod["rna"] = shuffled["rna"][:, order].copy()
    with override_pull_on_update():
        shuffled.update()
    np.testing.assert_allclose(of_all(run(shuffled, "GATA1"))["delta"], of_all(one)["delta"], atol=1e-6)


def test_doses_are_in_order_and_doubles_hold_both(mdata):
    half = of_all(run(mdata, "GATA1", mode="knockdown", level=0.5))["delta"]
    most = of_all(run(mdata, "GATA1", mode="knockdown", level=1.0))["delta"]
    whole = of_all(run(mdata, "GATA1"))["delta"]
    np.testing.assert_allclose(most, whole, atol=1e-6)
    assert half.abs().mean() < whole.abs().mean()
    double = of_all(run(mdata, {"GATA1": 0.0, "SPI1": "1.5x"}))
    assert set(double.index[double["direct"]]) == {"GATA1", "SPI1"}
    assert double.loc["GATA1", "delta"] < 0 < double.loc["SPI1", "delta"]
    alone = [of_all(run(mdata, {gene: value}))["delta"] for gene, value in (("GATA1", 0.0), ("SPI1", "1.5x"))]
    free = double[~double["direct"]]
    np.testing.assert_allclose(
        free["epistasis"], (double["delta"] - alone[0] - alone[1])[free.index], atol=1e-9
    )
    assert (free["epistasis_q05"] <= free["epistasis_q95"]).all() and free["epistasis"].abs().max() > 0.01
    assert double.loc[["GATA1", "SPI1"], "epistasis"].isna().all()
    fixed = of_all(run(mdata, "GATA1", mode="set", level=0.0))
    np.testing.assert_allclose(fixed["delta"], whole, atol=1e-6)
    steady = of_all(run(mdata, "GATA1", n_steps="steady"))["delta"]
    long = of_all(run(mdata, "GATA1", n_steps=np.int64(80)))["delta"]
    assert np.corrcoef(steady, long)[0, 1] > 0.99


def test_names_of_results(mdata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for what in ("rna:GATA1", ["GATA1", "SPI1"], [("GATA1", "overexpress"), "SPI1"]):
            mm.tl.perturb(mdata, what, n_null=5)
        mm.tl.perturb(mdata, "SPI1", n_null=5, key_added="mine/yours")
    assert list(mdata.uns["perturb"]) == [
        "rna:GATA1_knockout",
        "GATA1+SPI1_knockout",
        "GATA1_overexpress+SPI1_knockout",
        "mine_yours",
    ]


def test_a_closed_promoter_lowers_its_gene_and_what_follows(mdata):
    links = mdata.uns["regulons"]["links"]
    promoter = links[(links["gene"] == "GATA1") & (links["distance"] < 1000)]["peak"].iloc[0]
    result = run(mdata, promoter, mode="block")
    rna = of_all(result)
    assert rna.loc["GATA1", "delta"] < -0.1
    assert not rna["direct"].any()
    assert of_all(result, "atac").loc[promoter, "direct"]
    knockout = of_all(run(mdata, "GATA1"))["delta"].drop("GATA1")
    assert np.corrcoef(knockout, rna["delta"].drop("GATA1"))[0, 1] > 0.6


def test_a_blocked_protein_acts_only_through_an_explicit_edge(regulated):
    mdata, prior = regulated
    protein = mdata["prot"].var_names[0]
    with pytest.raises(ValueError, match=r"no outgoing edge.*on_missing='zero'"):
        mm.tl.perturb(mdata.copy(), protein, mode="block")
    edge = pd.DataFrame({"source": [f"prot:{protein}"] * 2, "target": ["GENE3", "GENE5"], "weight": [1, 1]})
    signalling = mdata.copy()
    mm.tl.regulons(signalling, prior=pd.concat([prior, edge]), n_boot=5)
    found = signalling.uns["regulons"]["edges"].query("source_modality == 'prot'")
    assert set(found["source"]) == {protein}
    rna = of_all(run(signalling, f"prot:{protein}", mode="block"))
    assert (rna["delta"] != 0).any()


def test_the_protein_of_a_knocked_out_gene_falls_with_it(mdata):
    protein = mdata["prot"].var.query("gene == 'CD34' or gene == 'KIT'").index[0]
    gene = mdata["prot"].var.loc[protein, "gene"]
    result = of_all(run(mdata, gene, on_missing="zero"), "prot")
    assert result.loc[protein, "direct"]
    assert result.loc[protein, "delta"] < 0


def test_cells_can_be_chosen(mdata):
    some = mdata.obs_names[(mdata.obs["cell_type"] == "progenitor").to_numpy()]
    result = run(mdata, "GATA1", cells=some)
    assert result["groups"]["n_cells"].tolist() == [len(some)]
    grouped = run(mdata, "GATA1", groupby="cell_type")
    there = grouped["groups"].set_index("group").loc["progenitor", "n_cells"]
    assert there == len(some)
    mask = mdata.obs_names.isin(some)
    pd.testing.assert_frame_equal(run(mdata, "GATA1", cells=mask)["effects"], result["effects"])
    with pytest.raises(KeyError, match=r"cells: not in mdata\.obs_names: 'nobody'"):
        mm.tl.perturb(mdata, "GATA1", cells=["nobody"])
    with pytest.raises(ValueError, match="none was chosen"):
        mm.tl.perturb(mdata, "GATA1", cells=np.zeros(mdata.n_obs, bool))


def test_results_survive_a_file(mdata, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.perturb(mdata, ["GATA1", "SPI1"], groupby="cell_type", per_cell="rna", n_null=5)
        with override_pull_on_update():
            mdata.write_h5mu(tmp_path / "x.h5mu")
            read = mudata.read_h5mu(tmp_path / "x.h5mu")
    layer = "delta_GATA1+SPI1_knockout"
    np.testing.assert_array_equal(read["rna"].layers[layer], mdata["rna"].layers[layer])
    for part in ("effects", "groups", "states"):
        pd.testing.assert_frame_equal(
            read.uns["perturb"]["GATA1+SPI1_knockout"][part],
            mdata.uns["perturb"]["GATA1+SPI1_knockout"][part],
            check_categorical=False,
            check_dtype=False,
        )


REFUSED = [
    (("GATA11",), {}, KeyError, r"no feature 'GATA11'.*nearest: 'GATA1'"),
    (("GATA1+SPI1",), {}, KeyError, r"several together, give a list: \['GATA1', 'SPI1'\]"),
    (("GATA1+SPI11",), {}, KeyError, "no feature 'GATA1\\+SPI11' in .*nearest"),
    ((7,), {}, TypeError, "a feature, a list or a dict"),
    (([["GATA1"], ["SPI1"]],), {}, TypeError, r"mm\.tl\.screen"),
    (([],), {}, ValueError, "at least one feature"),
    ((["GATA1", "rna:GATA1"],), {}, ValueError, "there twice"),
    (("GATA1",), {"mode": "delete"}, ValueError, "mode must be one of 'knockout'"),
    (("GATA1",), {"mode": "block"}, ValueError, "is a gene: use mode='knockout'"),
    (("GATA1",), {"mode": "set"}, ValueError, "needs `level=`"),
    (("GATA1",), {"level": 0.5}, ValueError, "takes no level"),
    (("GATA1",), {"mode": "knockdown", "level": 1.5}, ValueError, "share removed"),
    (({"GATA1": "much"},), {}, ValueError, "neither a mode nor a multiple"),
    (
        ("GATA1",),
        {"mode": "overexpress", "level": 3},
        ValueError,
        "beyond twice what was observed.*allow_extrapolation",
    ),
    (
        ({"GATA1": 1e6},),
        {},
        ValueError,
        r"1e\+06 is .* times its 99.9 %.*at most 2 times.*allow_extrapolation",
    ),
    (("GENE9",), {}, ValueError, "no outgoing edge.*on_missing='zero'"),
    (("GATA1",), {"on_missing": "ignore"}, ValueError, "on_missing must be"),
    (("GATA1",), {"n_steps": 0}, ValueError, "n_steps must be"),
    (("GATA1",), {"n_null": 1}, ValueError, "n_null must be at least 5"),
    (("GATA1",), {"groupby": "cluster"}, KeyError, "no column 'cluster'"),
    (("GATA1",), {"pseudotime_key": "age"}, KeyError, "no column 'age'"),
    (("prot:GATA1",), {}, KeyError, "no feature 'GATA1' in 'prot'"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "message"), REFUSED)
def test_what_has_no_answer_is_refused(mdata, args, kwargs, error, message):
    with pytest.raises(error, match=message):
        mm.tl.perturb(mdata, *args, **kwargs)
    assert "perturb" not in mdata.uns


def test_refusals_that_need_other_data(mdata):
    protein, peak = mdata["prot"].var_names[0], mdata["atac"].var_names[0]
    with pytest.raises(ValueError, match="can be blocked, which is not a knock-out of its gene"):
        mm.tl.perturb(mdata, f"prot:{protein}")
    with pytest.raises(ValueError, match="can be closed: use mode='block'"):
        mm.tl.perturb(mdata, peak)
    linked = set(mdata.uns["regulons"]["links"]["peak"])
    free = next(p for p in mdata["atac"].var_names if p not in linked)
    with pytest.raises(ValueError, match="is linked to no gene"):
        mm.tl.perturb(mdata, free, mode="block")
    without = mdata.copy()
    del without.uns["regulons"]
    with pytest.raises(KeyError, match=r"no regulatory network.*call `mm\.tl\.regulons"):
        mm.tl.perturb(without, "GATA1")
    fewer = mdata.copy()
    fewer.mod["rna"] = fewer["rna"][:, 5:].copy()
    with override_pull_on_update():
        fewer.update()
    with pytest.raises(ValueError, match=r"5 features of the network are gone.*mm\.tl\.regulons"):
        mm.tl.perturb(fewer, "GATA1")
    named = mdata.copy()
    named.obs["type"] = "all"
    with pytest.raises(ValueError, match="a group is called 'all'"):
        mm.tl.perturb(named, "GATA1", groupby="type")


def test_a_modality_that_the_network_lacks_is_named(regulated):
    mdata, prior = regulated[0].copy(), regulated[1]
    mm.tl.regulons(mdata, prior=prior, atac=False, n_boot=5)
    peak = mdata["atac"].var_names[0]
    with pytest.raises(
        ValueError,
        match=r"knows no atac modality, only 'rna', 'prot'; call `mm\.tl\.regulons\(mdata, atac=\.\.\.\)`",
    ):
        mm.tl.perturb(mdata, f"atac:{peak}", mode="block")


def test_a_name_in_two_modalities_must_be_told_apart(regulated):
    mdata, prior = regulated
    both = mdata.copy()
    both["prot"].var_names = ["GATA1", *both["prot"].var_names[1:]]
    with override_pull_on_update():
        both.update()
    mm.tl.regulons(both, prior=prior, n_boot=5)
    with pytest.raises(ValueError, match="several modalities; say 'rna:GATA1' or 'prot:GATA1'"):
        mm.tl.perturb(both, "GATA1")
    assert of_all(run(both, "rna:GATA1")).loc["GATA1", "direct"]


def test_what_is_not_expressed_cannot_be_knocked_out(regulated):
    mdata, prior = regulated
    silent = mdata.copy()
    values = silent["rna"].X.toarray()
    values[3:, silent["rna"].var_names.get_loc("GFI1")] = 0
    silent["rna"].X = values
    mm.tl.regulons(silent, prior=prior, n_boot=5)
    with pytest.raises(ValueError, match=r"counted in [0-3] of 500 cells: it is not expressed"):
        mm.tl.perturb(silent, "GFI1")
    with pytest.raises(ValueError, match="never seen; `allow_extrapolation=True`"):
        mm.tl.perturb(silent, "GFI1", mode="overexpress")
    assert run(silent, "GFI1", mode="overexpress", allow_extrapolation=True, on_missing="zero")


def test_where_a_gene_is_not_expressed_is_said(mdata):
    types = mdata.obs["cell_type"]
    silent = types.value_counts().index[0]
    counts = mdata["rna"].X.toarray()
    counts[(types == silent).to_numpy(), mdata["rna"].var_names.get_loc("GATA1")] = 0
    mdata["rna"].X = counts
    said = rf"GATA1 is hardly expressed in .*'{silent}'.* knockout does there is read off neighbouring cells"
    with pytest.warns(UserWarning, match=said):
        mm.tl.perturb(mdata, ["SPI1", "GATA1"], groupby="cell_type", n_null=5)
    few = types.value_counts().index[-1]
    result = mdata.uns["perturb"]["SPI1+GATA1_knockout"]
    # five of its eleven cells have a count: ten would be too much to ask of it
    assert not any(r.startswith("GATA1 is hardly") and few in r for r in result["warnings"])
    detected = result["groups"].set_index("group")["detected"]
    assert detected[silent] == 0
    assert detected["all"] == pytest.approx((counts[:, mdata["rna"].var_names.get_loc("GATA1")] > 0).mean())
    raised = run(mdata, "GATA1", mode="overexpress", groupby="cell_type")["warnings"]
    assert not any("expressed in" in remark for remark in raised)


def test_what_was_left_out_of_the_network_is_told(regulated):
    mdata, prior = regulated
    marked = mdata.copy()
    marked["rna"].var["highly_variable"] = [g != "GENE9" for g in marked["rna"].var_names]
    mm.tl.regulons(marked, prior=prior, n_boot=5)
    with pytest.raises(KeyError, match="'GENE9' is in modality 'rna' but not in the network"):
        mm.tl.perturb(marked, "GENE9")


def test_matched_regulators_are_scored_by_the_same_members(mdata):
    weights = mdata.uns["regulons"]["members"]["weights"]
    mdata.uns["regulons"]["members"]["weights"] = np.where(np.arange(len(weights))[:, None] < 2, 0, weights)
    # two members of which no regulator has an effect: a decoy's must not seem large beside them
    assert run(mdata, "DECOY1")["groups"]["matched_p"].iloc[0] > 0.5


def test_cells_pushed_out_of_what_was_seen_are_reported(mdata):
    with pytest.warns(UserWarning, match=r"GATA1_knockout: .* of the cells of .* lie beyond") as caught:
        mm.tl.perturb(mdata, "GATA1", groupby="cell_type", n_null=5)
    assert caught[0].filename == __file__  # whose call it was
    result = mdata.uns["perturb"]["GATA1_knockout"]
    assert (result["groups"]["ood_fraction"] > 0.1).any()
    assert any("lie beyond" in w for w in result["warnings"])


def test_changes_beyond_what_was_seen_are_reported(mdata):
    members = mdata.uns["regulons"]["members"]
    members["weights"] = 20 * members["weights"]
    with pytest.warns(UserWarning, match=r"\d+% of the changes of all lie beyond what was observed"):
        mm.tl.perturb(mdata, "GATA1", mode="overexpress", n_null=5)
    assert mdata.uns["perturb"]["GATA1_overexpress"]["groups"].loc[0, "clip_fraction"] > 0.1


def test_with_a_model_cells_move_in_its_embedding(fitted):
    source, model = fitted
    mdata = source.copy()
    edges = mdata.uns["truth"]["edges"]
    mm.tl.regulons(mdata, prior=edges[["source", "target", "sign"]], n_boot=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.perturb(mdata, "GATA1", model=model, groupby="cell_type", n_null=5)
        nothing = {"on_missing": "zero", "groupby": "cell_type", "key_added": "nothing"}
        mm.tl.perturb(mdata, "GENE9", model=model, n_null=5, **nothing)
    result = mdata.uns["perturb"]["GATA1_knockout"]
    moved, before = mdata.obsm["X_mmopt_GATA1_knockout"], model.get_latent_representation()
    assert moved.shape == before.shape
    shift = np.linalg.norm(moved - before, axis=1)
    assert np.median(shift) > 0
    assert np.median(np.linalg.norm(mdata.obsm["X_mmopt_nothing"] - before, axis=1)) < np.median(shift)
    assert result["groups"]["agreement"].between(-1, 1).all()
    mine = result["effects"].query("group == 'all' and not direct and decoded == decoded")
    cosine = (
        (mine["delta"] * mine["decoded"]).sum()
        / np.linalg.norm(mine["delta"])
        / np.linalg.norm(mine["decoded"])
    )
    assert result["groups"].loc[0, "agreement"] == pytest.approx(cosine)
    assert set(mine["modality"]) == set(mdata.mod)
    states, still = (mdata.uns["perturb"][key]["states"] for key in ("GATA1_knockout", "nothing"))
    np.testing.assert_allclose(states.groupby("group")["after"].sum(), 1)
    pd.testing.assert_series_equal(states["before"], still["before"])
    assert still["delta"].abs().mean() < states["delta"].abs().mean()
    assert (states["q05"] < states["q95"]).any()
    assert result["groups"].set_index("group").loc["all", "agreement"] > 0


def evident(mdata, n_confirmed, by_chance, doubt):
    """Say of GATA1 that so many of its ten edges are confirmed, and of every other regulator eight, and by chance so many of each."""
    slot = mdata.uns["regulons"]
    mine = slot["regulators"]["feature"] == "GATA1"
    slot["regulators"] = slot["regulators"].assign(
        n_edges=10,
        n_confirmed=np.where(mine, n_confirmed, 8),
        n_by_chance=by_chance,
        doubt=np.where(mine, doubt, 0.0),
    )


@pytest.mark.parametrize("key", ["regulons", "twin"])
@pytest.mark.parametrize(
    ("n_confirmed", "by_chance", "doubt", "expected"),
    [
        (
            0,
            3.0,
            0.0,
            "confirm 0 of the 10 edges .* GATA1, and 7 of a regulator on average: .* no evidence of none",
        ),
        (1, 3.0, 0.9, "confirm 1 of the 10 edges .* GATA1, about as many as of edges drawn at random"),
        (8, 3.0, 0.0, None),
        (0, 7.5, 0.0, None),  # where the prior says nothing of any, nobody is believed fewer edges
    ],
)
def test_how_little_is_known_of_a_regulator_is_said(twinned, key, n_confirmed, by_chance, doubt, expected):
    mdata = twinned.copy()
    evident(mdata, n_confirmed, by_chance, doubt)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if key == "regulons":
            mm.tl.perturb(mdata, ["GATA1", "SPI1"], n_null=5)
        else:
            interventions = [("GATA1", "knockout", 2, 6), ("SPI1", "knockout", 2, 6)]
            mm.tl.simulate(mdata, start={"time": 0}, interventions=interventions, progress_bar=False)
    said = [str(w.message) for w in caught if "edges that prior and motifs give" in str(w.message)]
    assert len(said) == (expected is not None)  # once, and nothing of SPI1
    if expected:
        assert re.search(expected, said[0])


def test_other_regulators_are_knocked_down_by_the_same_share(mdata):
    """Whatever little is removed, of all: how the gene compares with the others is not made of the size of the dose."""
    slight = run(mdata, "GATA1", mode="knockdown", level=0.01)["groups"].loc[0, "matched_p"]
    much = run(mdata, "GATA1", mode="knockdown", level=0.9)["groups"].loc[0, "matched_p"]
    assert abs(slight - much) <= 0.2


def test_two_of_which_one_regulates_are_compared_with_no_single_one(mdata):
    target = next(g for g in mdata["rna"].var_names if g not in set(mdata.uns["truth"]["edges"]["source"]))
    pair = run(mdata, ["GATA1", f"rna:{target}"], on_missing="zero", random_state=2**40)
    assert pair["groups"]["matched_p"].isna().all()


def test_most_cells_of_large_data_are_not_moved_without_a_model(mdata, monkeypatch):
    from mmopt.tl import _reference

    whole = run(mdata, "GATA1", groupby="cell_type")["groups"]
    monkeypatch.setattr(_reference, "_MOST", 100)
    monkeypatch.setattr(_reference, "_EACH", 20)
    moved = []
    shift = _reference.Shift.outside
    monkeypatch.setattr(_reference.Shift, "outside", lambda self: moved.append(len(self.rows)) or shift(self))
    some = run(mdata, "GATA1", groupby="cell_type")["groups"]
    assert moved[0] < 0.6 * mdata.n_obs
    assert some["n_cells"].tolist() == whole["n_cells"].tolist()
    assert some["ood_fraction"].notna().all()
    stage = SimpleNamespace(groups={"all": np.arange(1000), "few": np.arange(990, 1000)})
    drawn, of_all = _reference.some_cells(stage, 0)
    assert len(of_all) == 100 and set(stage.groups["few"]) <= set(
        drawn
    )  # small groups are in, but not among those of all
    assert (some["ood_fraction"] - whole["ood_fraction"]).abs().iloc[0] < 0.2

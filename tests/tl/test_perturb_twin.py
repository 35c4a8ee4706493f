"""``perturb(method="twin")``: a gene is held along the lines by which the cells came to be."""

import warnings

import numpy as np
import pandas as pd
import pytest

import mmopt as mm


def run(mdata, what="GATA1", **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.perturb(mdata, what, **({"method": "twin", "n_null": 5, "key_added": "p"} | kwargs))
    return mdata.uns["perturb"]["p"]


@pytest.fixture
def mdata(twinned):
    return twinned.copy()


def test_effects_go_where_the_truth_goes(mdata):
    mdata.obs["when"] = mdata.obs["time"].astype(str)
    result = run(mdata, groupby="when", per_cell="rna")
    of_cells = pd.DataFrame(mdata["rna"].layers["delta_p"], columns=mdata["rna"].var_names)
    effects = result["effects"]
    assert set(effects["modality"]) == {"rna", "atac", "prot"}
    network = run(mdata, groupby="when", method="network")
    assert list(effects) == list(network["effects"])
    assert list(result["groups"]) == list(network["groups"])
    assert network["params"]["method"] == "network"
    assert (result["params"]["method"], result["params"]["n_steps"]) == ("twin", "course")
    free = effects[~effects["direct"].to_numpy()]
    assert free[["delta", "sd", "q05", "q95", "prob_up", "null_p", "padj"]].notna().all(axis=None)
    everyone = effects[effects["group"] == "all"].set_index(["modality", "feature"])
    truth = mm.datasets.truth_effect(mdata, "GATA1", groupby=None).set_index(["modality", "feature"])["delta"]
    for modality, n in (("rna", 15), ("atac", 30), ("prot", 5)):
        true = truth[modality].drop("GATA1", errors="ignore")
        got, largest = everyone.loc[modality].loc[true.index], true.abs().nlargest(n).index
        assert np.corrcoef(got["delta"], true)[0, 1] > 0.7, modality
        assert (np.sign(got["delta"]) == np.sign(true))[largest].mean() > 0.75, modality
        inside = true.between(got["q05"], got["q95"])
        assert inside[largest].mean() > 0.6, modality
        assert inside.mean() > 0.85, modality
    # other lines of ancestors of more cells, and so about the same
    of_genes = everyone.loc["rna", "delta"]
    assert np.corrcoef(of_cells.mean()[of_genes.index], of_genes)[0, 1] > 0.9
    np.testing.assert_allclose(result["states"].groupby("group")["after"].sum(), 1)
    # a cell of the first time point had no time to lose more than the gene and what follows it at once; a late one had
    norm = result["groups"].set_index("group")["shift_norm"]
    assert norm["8"] > norm["0"]
    assert mdata.uns["perturb"]["p"]["groups"].set_index("group").loc["all", "n_cells"] == mdata.n_obs


def test_a_knock_down_is_less_than_a_knock_out(mdata):
    norm = {}
    for mode, level in (("knockout", None), ("knockdown", 0.5), ("knockdown", 1.0)):
        result = run(mdata, mode=mode, level=level, cells=(mdata.obs["time"] == 8).to_numpy())
        norm[mode, level] = result["groups"]["shift_norm"].iloc[0]
    assert 0 < norm["knockdown", 0.5] < norm["knockout", None]
    assert norm["knockdown", 1.0] == pytest.approx(norm["knockout", None], rel=1e-3)


def test_cells_without_a_time_are_left_out(mdata):
    lost = np.flatnonzero(mdata.uns["twin"]["point"] == 4)[:30]
    mdata.uns["twin"]["point"] = mdata.uns["twin"]["point"].copy()
    plans = mdata.uns["twin"]["members"]
    kept = ~np.isin(np.flatnonzero(mdata.uns["twin"]["point"] == 4), lost)
    mdata.uns["twin"]["members"] = {
        name: member
        | {
            "couplings": member["couplings"]
            | {"interval3": member["couplings"]["interval3"].tocsc()[:, kept].tocsr()}
        }
        for name, member in plans.items()
    }
    mdata.uns["twin"]["point"][lost] = -1
    with pytest.warns(UserWarning, match="30 cells without a time are left out"):
        mm.tl.perturb(mdata, "GATA1", method="twin", n_null=5, key_added="p")
    assert mdata.uns["perturb"]["p"]["groups"]["n_cells"].iloc[0] == mdata.n_obs - 30
    with pytest.raises(ValueError, match="none has a time"):
        run(mdata, cells=list(mdata.obs_names[lost]))


def test_a_screen_gives_each_perturbation_what_it_has_alone(mdata):
    chosen = {"n_members": 100, "n_cells": 300, "random_state": 3, "progress_bar": False}
    table = mm.tl.screen(mdata, ["GATA1", ["GATA1", "SPI1"]], method="twin", **chosen)
    assert mdata.uns["screen"]["params"]["method"] == "twin"
    assert set(table["perturbation"]) == {"GATA1_knockout", "GATA1+SPI1_knockout"}
    alone = run(mdata, random_state=3)["effects"]
    screened = table[table["perturbation"] == "GATA1_knockout"]
    for column in ("delta", "sd"):
        np.testing.assert_allclose(screened[column], alone[column], rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same(mdata):
    first, second = (run(mdata, random_state=3)["effects"] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_refusals(mdata):
    with pytest.raises(ValueError, match="method must be one of 'network', 'twin', got 'linear'"):
        run(mdata, method="linear")
    with pytest.raises(ValueError, match="n_steps belongs to method='network'"):
        run(mdata, n_steps=3)
    with pytest.raises(ValueError, match="interval='conformal' calibrates method='network'"):
        run(mdata, interval="conformal")
    with pytest.raises(ValueError, match="method must be one of 'network', 'twin', got 'linear'"):
        mm.tl.screen(mdata, method="linear")
    del mdata.uns["twin"]
    with pytest.raises(KeyError, match=r"no twin in mdata\.uns\['twin'\].*call `mm\.tl\.twin"):
        run(mdata)

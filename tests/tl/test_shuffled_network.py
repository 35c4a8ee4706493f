"""Predictions made again, and with shuffled targets, from what a stored result says of itself."""

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.tl._repeated import repeat, stored_results
from mmopt.tl._shuffled_network import by_shuffled_networks


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


def perturbed(mdata, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.perturb(mdata, *args, **({"n_null": 5, "key_added": "p"} | kwargs))
    return mdata.uns["perturb"]["p"]


def of_all(effects, modality="rna"):
    here = (effects["group"].astype(str) == "all") & (effects["modality"].astype(str) == modality)
    return effects[here].set_index("feature")["delta"]


def check(mdata, result, role="rna"):
    again = repeat(mdata, result, role)
    for name in again.jobs:
        mine = result["effects"]
        mine = mine[mine["perturbation"] == name] if "perturbation" in mine else mine
        np.testing.assert_allclose(again.effects(name), of_all(mine, role)[again.features], atol=1e-6)
    return again


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("GATA1",), {"groupby": "cell_type"}),
        ((["GATA1", "SPI1"],), {"n_steps": 4, "random_state": 3}),
        (({"GATA1": "1.5x", "SPI1": 0.0},), {"n_steps": "steady"}),
        (("GATA1",), {"mode": "knockdown", "level": 0.3, "cells": slice(100, 300)}),
        (("peak",), {"mode": "block"}),
    ],
)
def test_a_result_can_be_repeated(mdata, args, kwargs):
    if isinstance(kwargs.get("cells"), slice):
        kwargs = kwargs | {"cells": mdata.obs_names[kwargs["cells"]]}
    if args == ("peak",):
        args = (mdata.uns["regulons"]["links"]["peak"].iloc[0],)
    result = perturbed(mdata, *args, **kwargs)
    for role in ("rna", "atac", "prot"):
        check(mdata, result, role)


def test_screens_and_pasts_can_be_repeated(twinned):
    mdata = twinned.copy()
    few = {"n_members": 4, "n_cells": 30, "progress_bar": False}
    mm.tl.screen(mdata, ["GATA1", ["SPI1", "GATA1"]], mode="overexpress", groupby="cell_type", **few)
    assert mdata.uns["screen"]["interventions"]["perturbation"].tolist() == [
        "GATA1_overexpress",
        *["SPI1+GATA1_overexpress"] * 2,
    ]
    again = check(mdata, mdata.uns["screen"])
    assert len(again.members) == 4
    check(mdata, perturbed(mdata, "GATA1", method="twin", random_state=2))


def test_targets_are_shuffled_as_if_the_network_had_been_stored_so(mdata):
    again = check(mdata, perturbed(mdata, "GATA1"))
    order = again.scene.shuffled(np.random.default_rng(0))
    assert (order != np.arange(len(order))).any()
    other = mdata.copy()
    members = other.uns["regulons"]["members"]
    rna = members["target"] < mdata["rna"].n_vars  # genes only: the scene knows no other targets
    members["target"] = np.where(rna, order[np.where(rna, members["target"], 0)], members["target"])
    expected = of_all(perturbed(other, "GATA1")["effects"])[again.features]
    np.testing.assert_allclose(again.effects("GATA1_knockout", order=order), expected, atol=1e-6)


def found(mdata, predicted):
    """Which perturbations get a prediction from shuffled networks."""
    features = mdata["rna"].var_names
    hits = {"GATA1": (("GATA1", ""),), "SPI1": (("SPI1", "knockout"),)}
    prediction = np.stack([of_all(predicted[g]).reindex(features) for g in hits])
    rng = np.random.default_rng(0)
    chance = by_shuffled_networks(mdata, "rna", "rna", features, prediction, hits, set(), rng)
    known = np.isfinite(chance).all((0, 2))
    # no two networks are alike
    assert all(len(np.unique(chance[:, i].round(9), axis=0)) == len(chance) for i in np.flatnonzero(known))
    return known.tolist()


def test_a_prediction_is_known_by_its_values(mdata, regulated, tmp_path, monkeypatch):
    monkeypatch.setattr("mmopt.tl._shuffled_network._NETWORKS", 2)
    monkeypatch.setattr("mmopt.tl._shuffled_network._MEMBERS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for gene in ("GATA1", "SPI1"):
            mm.tl.perturb(mdata, gene, n_null=5)
    assert len(stored_results(mdata)) == 2
    predicted = {g: mdata.uns["perturb"][f"{g}_knockout"]["effects"] for g in ("GATA1", "SPI1")}
    assert found(mdata, predicted) == [True, True]
    elsewhere = predicted | {"SPI1": predicted["SPI1"].assign(delta=1.01 * predicted["SPI1"]["delta"])}
    assert found(mdata, elsewhere) == [True, False]
    top = predicted | {"GATA1": predicted["GATA1"].query("abs(delta) > 0.1")}
    assert found(mdata, top) == [True, True]
    assert found(mdata, predicted | {"SPI1": predicted["SPI1"].assign(delta=0.0)}) == [True, False]
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "x.h5mu")
        read = mudata.read_h5mu(tmp_path / "x.h5mu")
    assert found(read, predicted) == [True, True]
    fewer = mdata[100:].copy()  # some of the cells are gone
    assert found(fewer, predicted) == [False, False]
    mm.tl.regulons(mdata, prior=regulated[1].iloc[::2], n_boot=5)  # another network than it was
    assert found(mdata, predicted) == [False, False]
    del mdata.uns["regulons"]
    assert found(mdata, predicted) == [False, False]


def test_both_nulls_stand_beside_where_only_some_predictions_are_known(mdata):
    predicted = mm.tl.screen(mdata, ["GATA1", "SPI1"], n_members=3, progress_bar=False)
    truth = pd.concat(
        mm.datasets.truth_effect(mdata, g, groupby=None).assign(perturbation=g) for g in ("GATA1", "SPI1")
    )
    mine = predicted["perturbation"] == "GATA1_knockout"
    mixed = predicted.assign(delta=np.where(mine, predicted["delta"], 2 * predicted["delta"]))
    scores = mm.tl.evaluate_perturbation(mdata, mixed, truth)
    by_method = scores.groupby("method", sort=False)["perturbation"].agg(list)
    assert by_method["shuffled_targets"] == ["GATA1"]
    assert by_method["shuffled_features"] == ["SPI1"]

import warnings

import mudata
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from mmopt.datasets import Kinetics, krumsiek2011, random_network, simulate_trimodal, toy

SMALL = {"n_genes": 60, "n_peaks": 80, "n_proteins": 6}


@pytest.fixture(scope="module")
def data():
    return toy()


def same(one, two):
    """Whether two nested slots hold the same."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            same(one[key], two[key])
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, two)
    else:
        np.testing.assert_array_equal(one, two)


def assert_same_data(one, two):
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert list(one.mod) == list(two.mod)
    for name in one.mod:
        pd.testing.assert_frame_equal(one[name].var, two[name].var)
        assert one[name].obs_names.equals(two[name].obs_names)
        assert (one[name].X != two[name].X).nnz == 0
    same(one.uns["truth"], two.uns["truth"])


def test_toy_is_what_it_says(data):
    assert data.n_obs == 1200
    assert {name: m.shape for name, m in data.mod.items()} == {
        "rna": (1200, 300),
        "atac": (1020, 600),
        "prot": (960, 20),
    }
    assert list(data.obs) == ["time", "donor", "cell_type", "fate"]
    assert data.obs["donor"].value_counts().tolist() == [600, 600]
    assert data.obs["time"].value_counts().to_dict() == dict.fromkeys((0, 2, 4, 6, 8), 240)
    for name in data.mod:
        x = data[name].X
        assert isinstance(x, sparse.csr_matrix)
        assert x.dtype == np.float32
        assert (x.data == np.rint(x.data)).all()
        assert (x.data > 0).all()
        assert (x.sum(0) > 0).all()
        assert (x.sum(1) > 0).all()


def test_cells_leave_the_progenitor_and_reach_every_fate(data):
    share = pd.crosstab(data.obs["time"], data.obs["cell_type"], normalize="index")
    assert share.loc[0, "progenitor"] > 0.85
    assert share.loc[8, "progenitor"] < 0.05
    assert share["progenitor"].is_monotonic_decreasing
    fates = krumsiek2011().fates
    assert (share.loc[8, fates] > 0.12).all()
    assert (data.obs["fate"].value_counts(normalize=True)[fates] > 0.15).all()
    assert (data.obs["cell_type"].value_counts() >= 20).all()
    late = data.obs[(data.obs["time"] == 8) & data.obs["cell_type"].isin(fates)]
    assert (late["cell_type"].astype(str) == late["fate"].astype(str)).mean() > 0.95


def accuracy(representation, labels):
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_score(KNeighborsClassifier(15), representation, labels, cv=folds).mean()


def test_each_modality_tells_the_cell_types_apart_but_not_perfectly(data):
    def labels(name):
        return data.obs.loc[data[name].obs_names, "cell_type"].astype(str)

    rna = data["rna"].X.toarray()
    rna = np.log1p(1e4 * rna / rna.sum(1, keepdims=True))
    assert (
        0.8
        < accuracy(TruncatedSVD(20, random_state=0).fit_transform(rna - rna.mean(0)), labels("rna"))
        < 0.97
    )
    atac = data["atac"].X.toarray()
    atac = np.log1p(1e4 * atac / atac.sum(1, keepdims=True) / (atac > 0).mean(0))
    lsi = TruncatedSVD(20, random_state=0).fit_transform(atac)[:, 1:]
    assert accuracy(lsi, labels("atac")) > 0.75
    prot = np.log1p(data["prot"].X.toarray())
    assert accuracy(prot - prot.mean(1, keepdims=True), labels("prot")) > 0.7


def test_it_survives_the_file(data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mudata 0.3 announces 0.4
        data.write_h5mu(tmp_path / "toy.h5mu")
        assert_same_data(data, mudata.read_h5mu(tmp_path / "toy.h5mu"))


def test_no_warning_and_no_global_random_state():
    before = np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        simulate_trimodal(30, **SMALL, missing={"atac": 0.3})
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@settings(max_examples=10, deadline=None)
@given(
    n_cells=st.integers(1, 60),
    times=st.lists(st.floats(0, 6), min_size=1, max_size=3, unique=True).map(sorted),
    shares=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    n_donors=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_whatever_is_asked_for_comes_out_whole_and_again(n_cells, times, shares, n_donors, seed):
    assume(round(max(shares) * n_cells) < n_cells)

    def made():
        return simulate_trimodal(
            n_cells,
            **SMALL,
            times=times,
            missing={"atac": shares[0], "prot": shares[1]},
            n_donors=n_donors,
            kinetics=Kinetics(step=0.08, chromatin=5.0),
            random_state=seed,
        )

    one = made()
    assert one.n_obs == n_cells
    assert one["rna"].n_obs == n_cells
    assert one["atac"].n_obs == n_cells - round(shares[0] * n_cells)
    assert one["prot"].n_obs == n_cells - round(shares[1] * n_cells)
    assert set(one.obs["time"]) <= set(times)
    for name in one.mod:
        x = one[name].X
        assert np.isfinite(x.data).all()
        assert (x.data >= 0).all()
        assert (x.data == np.rint(x.data)).all()
    assert_same_data(one, made())


def test_another_seed_is_another_data_set():
    one, two = (simulate_trimodal(50, **SMALL, random_state=s)["rna"].X for s in (0, 1))
    assert (one != two).nnz


def test_cells_without_rna_are_still_in_obs():
    mdata = simulate_trimodal(100, **SMALL, missing={"rna": 0.4})
    assert mdata["rna"].n_obs == 60
    assert mdata.n_obs == 100
    assert mdata.obs.notna().all().all()
    whole = simulate_trimodal(100, **SMALL)
    pd.testing.assert_frame_equal(mdata.obs.loc[whole.obs_names], whole.obs)


def test_mosaic_of_donors():
    mdata = simulate_trimodal(90, **SMALL, n_donors=3, missing="mosaic")
    donors = {m: set(mdata.obs.loc[mdata[m].obs_names, "donor"]) for m in mdata.mod}
    assert donors == {
        "rna": {"donor1", "donor2", "donor3"},
        "atac": {"donor1", "donor3"},
        "prot": {"donor1", "donor2"},
    }


def test_a_users_edges_and_a_random_network_are_simulated():
    edges = pd.DataFrame(
        {"source": ["A", "B", "A", "B"], "target": ["B", "A", "X", "Y"], "weight": [-2.0, -2.0, 1.0, 1.0]}
    )
    toggle = simulate_trimodal(300, network=edges, n_genes=40, n_peaks=60, n_proteins=4)
    assert {"A", "B", "X", "Y"} <= set(toggle["rna"].var_names)
    assert toggle.obs["fate"].value_counts().filter(like="fate").gt(30).sum() >= 2
    random = simulate_trimodal(200, network=random_network(9, 3, random_state=1), **SMALL)
    assert set(random.obs["fate"]) >= {"fate1", "fate2", "fate3"}


def test_interventions_keep_the_cells_and_are_labelled():
    free = simulate_trimodal(300, **SMALL)
    held = simulate_trimodal(
        300, **SMALL, interventions=[("GATA1", "knockout"), ("SPI1", "overexpress", 2, 6)]
    )
    assert (held.obs["perturbation"] == "GATA1_knockout+SPI1_overexpress").all()
    pd.testing.assert_frame_equal(held.obs[["time", "donor"]], free.obs[["time", "donor"]])
    assert held["rna"][:, "GATA1"].X.nnz == 0
    assert free["rna"][:, "GATA1"].X.nnz > 0
    assert not held.obs["cell_type"].isin(["erythrocyte", "megakaryocyte"]).any()
    assert held.uns["truth"]["interventions"]["start"].tolist() == [0.0, 2.0]
    assert "perturbation" not in free.obs


def test_depth_and_house_keeping():
    mdata = simulate_trimodal(300, **SMALL, depth={"rna": 4000}, housekeeping=1.0, dropout=0.0)
    assert np.median(np.asarray(mdata["rna"].X.sum(1))) == pytest.approx(4000, rel=0.15)
    kinds = mdata.uns["truth"]["genes"]["kind"].value_counts()
    assert kinds["housekeeping"] == 60 - 11 - 12 - 8


def test_unspliced_rna_is_counted_beside_the_same_cells():
    plain = simulate_trimodal(300, **SMALL, missing={"rna": 0.2})
    mdata = simulate_trimodal(300, **SMALL, missing={"rna": 0.2}, unspliced=0.3)
    for modality in mdata.mod:
        assert (mdata[modality].X != plain[modality].X).nnz == 0
    layers = mdata["rna"].layers
    assert (layers["spliced"] != mdata["rna"].X).nnz == 0
    assert not plain["rna"].layers
    unspliced = layers["unspliced"].sum() / (layers["unspliced"].sum() + mdata["rna"].X.sum())
    assert unspliced == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"unspliced": 1.0}, ValueError, "unspliced must be below 1"),
        ({"unspliced": 0.2, "interventions": "GATA1"}, ValueError, "under interventions is not simulated"),
        ({"n_cells": 0}, ValueError, "n_cells must be an integer of at least 1, got 0"),
        ({"n_cells": 10.0}, ValueError, "n_cells must be an integer"),
        ({"n_donors": 0}, ValueError, "n_donors must be"),
        ({"n_decoys": -1}, ValueError, "n_decoys must be an integer of at least 0"),
        ({"random_state": None}, ValueError, "random_state must be"),
        ({"housekeeping": 1.5}, ValueError, "housekeeping must be a number from 0 to 1"),
        ({"dropout": -0.1}, ValueError, "dropout must be"),
        ({"atac_background": 1.1}, ValueError, "atac_background must be a number from 0 to 1"),
        ({"batch_effect": np.inf}, ValueError, "batch_effect must be a number of at least 0"),
        ({"times": (4, 2)}, ValueError, "strictly increasing"),
        ({"times": (2, 2)}, ValueError, "strictly increasing"),
        ({"times": (-1, 2)}, ValueError, "not negative"),
        ({"times": ()}, ValueError, "times must be days"),
        ({"depth": {"adt": 100}}, ValueError, "depth: no modality 'adt'"),
        ({"depth": {"rna": 0}}, ValueError, "counts per cell of rna must be positive"),
        ({"missing": {"atac": 2}}, ValueError, "missing"),
        ({"missing": {"atac": 0.98}}, ValueError, "no cell of 20 is left with atac"),
        ({"network": {"A": "B"}}, TypeError, "DataFrame of edges, got dict"),
        ({"network": pd.DataFrame({"source": ["A"]})}, ValueError, "column target missing"),
        ({"n_genes": 10}, ValueError, "n_genes=10 is too small"),
        ({"interventions": "GATA9"}, KeyError, "no gene 'GATA9' in the simulation; nearest: 'GATA"),
        (
            {"interventions": ("GATA1", "delete")},
            ValueError,
            "mode of GATA1 must be one of knockout, overexpress",
        ),
        ({"interventions": ("GATA1", "knockout", 4, 2)}, ValueError, "0 <= start < stop"),
        ({"interventions": ("GATA1", "knockout", 4)}, TypeError, r"\(gene, mode, start, stop\)"),
        (
            {"interventions": ["GATA1", ("GATA1", "overexpress", 2, 4)]},
            ValueError,
            "clamped twice at the same time",
        ),
    ],
)
def test_refusals(bad, error, message):
    with pytest.raises(error, match=message):
        simulate_trimodal(**{"n_cells": 20, **SMALL, **bad})

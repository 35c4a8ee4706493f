import warnings

import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.tl._scene import members_of, set_stage

NAMES = {"rna": "expr", "atac": "open", "prot": "surface"}


@pytest.fixture(scope="module")
def renamed(regulated):
    """The data of ``regulated`` with modalities that no usual name finds, and one that would be taken for RNA."""
    source, prior = regulated
    with override_pull_on_update():
        other = mudata.MuData(
            {name: source[role].copy() for role, name in NAMES.items()} | {"gex": source["rna"][:, :5].copy()}
        )
    for column in ("cell_type", "time"):
        other.obs[column] = source.obs[column]
    mm.tl.regulons(other, prior=prior, n_boot=8, **NAMES)
    return other


def test_a_network_with_modalities_of_any_name_can_be_used(renamed, regulated):
    mdata, usual = renamed.copy(), regulated[0].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for each in (mdata, usual):
            mm.tl.perturb(each, "GATA1", n_null=5)
    one, other = (m.uns["perturb"]["GATA1_knockout"] for m in (mdata, usual))
    np.testing.assert_allclose(one["effects"]["delta"], other["effects"]["delta"], atol=1e-6)
    assert one["params"]["modalities"] == NAMES
    same = [mm.tl.screen(m, ["GATA1"], n_members=3, progress_bar=False)["delta"] for m in (mdata, usual)]
    np.testing.assert_allclose(*same, atol=1e-6)
    quick = {"groupby": "cell_type", "max_factors": 1, "optimizers": (), "n_null": 19}
    ranked = [mm.tl.reprogram(m, "monocyte", "erythrocyte", **quick)["progress"] for m in (mdata, usual)]
    np.testing.assert_allclose(*ranked, atol=1e-6)
    assert set_stage(mdata, regulons="regulons", groupby=None).features.find("expr:GATA1", mdata) >= 0


def test_a_twin_asks_for_no_name_and_a_simulation_for_those_no_network_knows(renamed):
    mdata = renamed.copy()
    mdata.obsm["X_pca"] = np.random.default_rng(0).standard_normal((500, 4))
    del mdata.mod["gex"]
    with override_pull_on_update():
        mdata.update()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mm.tl.twin(mdata, time_key="time", use_rep="X_pca", n_steps=3, progress_bar=False)
        quick = {"start": {"time": 0}, "n_cells": 20, "n_times": 2, "progress_bar": False}
        mm.tl.simulate(mdata, interventions=["GATA1"], features=["KLF1"], **quick)
        del mdata.uns["regulons"]
        with pytest.raises(ValueError, match="name them with `rna=`"):
            mm.tl.simulate(mdata, **quick)
        mm.tl.simulate(mdata, rna="expr", features=["KLF1"], **quick)
        assert set(mdata.uns["simulate"]["features"]["modality"]) == {"expr"}
        judged = mm.tl.evaluate_twin(
            mdata,
            time_key="time",
            hold_out=2,
            use_rep="X_pca",
            rna="expr",
            n_members=1,
            n_steps=3,
            progress_bar=False,
        )
    assert set(judged["space"]) == {"embedding", "genes"}


def test_a_mask_with_an_index_is_read_by_it(regulated):
    mdata = regulated[0].copy()
    mask = mdata.obs["cell_type"] == "progenitor"
    shuffled = mask.sample(frac=1, random_state=0)
    for given in (shuffled, shuffled.astype("boolean")):
        np.testing.assert_array_equal(members_of(mdata, given), mask)
    np.testing.assert_array_equal(members_of(mdata, pd.array(mask, dtype="boolean")), mask)
    with pytest.raises(KeyError, match=r"cells: the index of the mask lacks 1 cells .*mdata\.obs_names"):
        members_of(mdata, shuffled[1:])
    with pytest.raises(KeyError, match="names that repeat"):
        members_of(mdata, pd.concat([shuffled, shuffled]))
    with pytest.raises(ValueError, match=r"cells: the mask has missing values.*fillna"):
        members_of(mdata, shuffled.astype("boolean").where(shuffled.index != mdata.obs_names[3]))
    quick = {"max_factors": 1, "optimizers": (), "n_null": 19}
    target = mdata.obs["cell_type"] == "erythrocyte"
    ends = [(shuffled, target.sample(frac=1, random_state=1)), (mask.to_numpy(), target.to_numpy())]
    one, other = (mm.tl.reprogram(mdata, *each, **quick) for each in ends)
    pd.testing.assert_frame_equal(one, other)


def test_a_simulation_starts_from_a_mask_by_its_index(twinned):
    from mmopt.tl._members import restore
    from mmopt.tl._starts import find_start

    course, _ = restore(twinned, "twin")
    mask = twinned.obs["time"] == 0
    mask[mask[mask].index[20:]] = False
    start = find_start(twinned, course, mask.sample(frac=1, random_state=0), "time")
    np.testing.assert_array_equal(start.mass > 0, mask[course.point == 0])


def test_pools_are_found_where_the_network_found_them(regulated):
    mdata, prior = regulated[0].copy(), regulated[1]
    where = lambda m: set_stage(m, regulons="regulons", groupby=None).profiles.embedding  # noqa: E731
    assert mdata.uns["regulons"]["params"]["use_rep"] == "principal components"
    before = where(mdata)
    mdata.obsm["X_mmopt"] = np.random.default_rng(0).standard_normal((500, 5))
    np.testing.assert_array_equal(where(mdata), before)
    old = mdata.copy()
    old.uns["regulons"]["params"]["use_rep"] = ""  # as in files of before
    np.testing.assert_array_equal(where(old), mdata.obsm["X_mmopt"])
    mm.tl.regulons(mdata, prior=prior, n_boot=5)
    assert mdata.uns["regulons"]["params"]["use_rep"] == "X_mmopt"
    np.testing.assert_array_equal(where(mdata), mdata.obsm["X_mmopt"])
    del mdata.obsm["X_mmopt"]
    with pytest.raises(
        KeyError, match=r"pooled in mdata\.obsm\['X_mmopt'\], which is gone.*mm\.tl\.regulons"
    ):
        mm.tl.perturb(mdata, "GATA1")

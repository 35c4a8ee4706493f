"""Data go when their last user lets go of them, and not before."""

import copy
import gc
import weakref

from leaks import measure

from mmopt.models import TriVI


def test_models_and_data_are_let_go(make_mosaic, make_model):
    mdata = make_mosaic()
    model = make_model(mdata)
    uuid, number = mdata.uns["_scvi_uuid"], model.id
    refs = [weakref.ref(x) for x in (mdata, model, model.module)]
    del mdata
    gc.collect()
    assert refs[0]() is model.adata  # a model holds its data
    assert uuid in TriVI._setup_adata_manager_store
    del model
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3
    assert uuid not in TriVI._setup_adata_manager_store
    assert number not in TriVI._per_instance_manager_store


def test_data_that_a_model_was_asked_about_are_let_go(fitted, make_mosaic):
    before = len(fitted._per_instance_manager_store[fitted.id])
    for seed in range(3):
        fitted.get_latent_representation(make_mosaic(seed=seed))
    gc.collect()
    assert len(fitted._per_instance_manager_store[fitted.id]) <= before + 1


def test_a_copy_that_is_set_up_outlives_the_original(make_mosaic, make_model):
    mdata = make_mosaic()
    TriVI.setup_mudata(mdata, batch_key="donor")
    other = mdata.copy()  # has the same mark
    TriVI.setup_mudata(other, batch_key="donor")
    del mdata
    gc.collect()
    assert TriVI(other, n_latent=2, n_hidden=8).adata is other


def test_a_copied_setup_has_the_same_data(fitted):
    again = copy.copy(fitted.adata_manager)
    assert again.adata is fitted.adata
    assert again.registry == fitted.adata_manager.registry


def test_some_fits_leave_nothing():
    """``python tests/leaks.py`` makes fifty and looks at the memory, too."""
    table = measure(2, n_warm_up=1)
    assert (table["objects"] == 0).all()
    assert table["files"].nunique() == 1

"""What the getters' answers are called; what they say is tested with the model."""

import numpy as np
import pytest

ALL = ("rna", "atac", "prot")


def test_columns_have_names(fitted):
    names = fitted.get_var_names()
    assert list(names) == list(ALL)
    for m in ALL:
        assert list(names[m]) == list(fitted.adata[m].var_names)
        assert len(names[m]) == fitted.get_normalized(m).shape[1]


def test_features_that_are_not_modelled_have_no_name(make_mosaic, make_model):
    mdata = make_mosaic()
    mdata["rna"].var["highly_variable"] = np.arange(mdata["rna"].n_vars) < 5
    assert list(make_model(mdata).get_var_names()["rna"]) == list(mdata["rna"].var_names[:5])


def test_the_name_in_other_models_leads_here(fitted):
    with pytest.raises(TypeError, match=r"ask `get_normalized\("):
        fitted.get_normalized_expression()

"""What the getters' answers are called; what they say is tested with the model."""

import numpy as np
import pytest
from mudata import MuData

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


def test_a_batch_is_named_as_in_its_column(make_mosaic, make_model):
    """Whole numbers are registered without their decimals."""
    mdata = make_mosaic()
    mdata.obs["donor"] = np.where(mdata.obs["donor"] == "a", 0.0, 1.0)
    model = make_model(mdata)
    model.is_trained_ = True
    found = model.get_normalized("prot", transform_batch=np.float64(1))
    np.testing.assert_array_equal(found, model.get_normalized("prot", transform_batch="1"))


class _Endless(Exception):
    pass


class TestDataAndModalitiesInEachOthersPlace:
    @pytest.fixture
    def mdata(self, fitted, monkeypatch):
        """Data that say when they are gone through, as they would be for ever."""

        def endless(self, index):
            raise _Endless

        monkeypatch.setattr(MuData, "__getitem__", endless)
        return fitted.adata

    @pytest.mark.parametrize(
        "ask",
        [
            lambda model, given: model.get_normalized("rna", given),
            lambda model, given: model.get_predictive_interval("prot", given),
            lambda model, given: model.get_latent_representation(given=given),
        ],
    )
    def test_data_as_modalities(self, fitted, mdata, ask):
        with pytest.raises(TypeError, match=r"given= takes names of modalities, not MuData.*`mdata=`"):
            ask(fitted, mdata)

    def test_others_that_are_no_names(self, fitted):
        for given in (fitted.adata["rna"], 1, ["rna", 1]):
            with pytest.raises(TypeError, match="given= takes names"):
                fitted.get_normalized("prot", given)

    def test_collections_of_names(self, fitted):
        expected = fitted.get_latent_representation(given=["rna", "prot"])
        for given in ({"rna", "prot"}, np.array(["rna", "prot"]), {"rna": 1, "prot": 2}.keys()):
            np.testing.assert_array_equal(fitted.get_latent_representation(given=given), expected)

    def test_a_modality_as_data(self, fitted):
        with pytest.raises(TypeError, match=r"a MuData is needed, not 'rna'.*`given=`"):
            fitted.get_latent_representation("rna")

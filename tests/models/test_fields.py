"""What setting a model up, and giving it other data later, accepts and refuses."""

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp


@pytest.fixture(scope="module")
def setup():
    from mmopt.models import TriVI

    return TriVI.setup_mudata


def spoil(mdata, modality, change):
    x = mdata[modality].X.toarray()
    change(x)
    mdata[modality].X = x
    return mdata


def registry(mdata):
    from mmopt.models import TriVI

    fields = TriVI._setup_adata_manager_store[mdata.uns["_scvi_uuid"]].registry["field_registries"]
    return {key: dict(field["state_registry"]) for key, field in fields.items()}


class TestSetup:
    def test_registers_features_by_name_and_batches_by_label(self, setup, make_mosaic):
        mdata = make_mosaic()
        setup(mdata, batch_key="donor")
        found = registry(mdata)
        assert [m for m in found if m != "batch"] == ["rna", "atac", "prot"]
        assert found["prot"] == {
            "modality": "prot",
            "layer": None,
            "source": None,
            "features": list(mdata["prot"].var_names),
            "absent": False,
        }
        assert found["batch"] == {"categorical_mapping": ["a", "b"], "original_key": "donor"}

    def test_modalities_are_found_named_or_left_out(self, setup, make_mosaic):
        mdata = make_mosaic(lacking=False)
        mdata.mod["genes"] = mdata.mod.pop("rna")
        mdata.mod["ADT"] = mdata.mod.pop("prot")
        setup(mdata)
        assert {k: v["modality"] for k, v in registry(mdata).items() if k != "batch"} == {
            "atac": "atac",
            "prot": "ADT",
        }
        setup(mdata, rna="genes", atac=False)
        assert {k: v["modality"] for k, v in registry(mdata).items() if k != "batch"} == {
            "rna": "genes",
            "prot": "ADT",
        }

    @pytest.mark.parametrize("where", ["modalities", "one modality"])
    def test_batch_may_stand_in_a_modality(self, setup, make_mosaic, where):
        mdata = make_mosaic(lacking=where == "modalities")
        if where == "one modality":
            for m in ("rna", "atac"):
                del mdata[m].obs["sample"]
        setup(mdata, batch_key="sample")
        assert registry(mdata)["batch"]["categorical_mapping"] == ["a", "b"]

    def test_one_batch_goes_on_and_says_so(self, setup, make_mosaic, caplog):
        mdata = make_mosaic()
        mdata.obs["donor"] = "only"
        with caplog.at_level(logging.INFO, "mmopt"):
            setup(mdata, batch_key="donor")
        assert "one category only" in caplog.text
        assert registry(mdata)["batch"]["categorical_mapping"] == ["only"]

    def test_batches_may_be_numbers_or_categories(self, setup, make_mosaic):
        mdata = make_mosaic()
        mdata.obs["lane"] = np.arange(mdata.n_obs) % 3
        setup(mdata, batch_key="lane")
        assert registry(mdata)["batch"]["categorical_mapping"] == ["0", "1", "2"]
        mdata.obs["lane"] = pd.Categorical(mdata.obs["donor"], categories=["b", "unused", "a"])
        setup(mdata, batch_key="lane")
        assert registry(mdata)["batch"]["categorical_mapping"] == ["b", "a"]


class TestRefusals:
    def test_an_anndata_is_told_how_to_become_a_mudata(self, setup, make_mosaic):
        from mmopt.models import TriVI

        adata = make_mosaic()["rna"]
        with pytest.raises(TypeError, match=r"mudata\.MuData\(\{\"rna\": adata\}\).*setup_mudata"):
            TriVI.setup_anndata(adata)
        with pytest.raises(TypeError, match="MuData is needed"):
            setup(adata)

    def test_a_modality_that_is_not_there(self, setup, make_mosaic):
        with pytest.raises(KeyError, match=r"rna='genes'.*'rna', 'atac', 'prot'"):
            setup(make_mosaic(), rna="genes")
        mdata = make_mosaic()
        for m in list(mdata.mod):
            mdata.mod[f"my {m}"] = mdata.mod.pop(m)
        with pytest.raises(ValueError, match=r"no modality was found.*'my rna', 'my atac', 'my prot'"):
            setup(mdata)

    @pytest.mark.parametrize("shape", ["no cells", "no features"])
    def test_an_empty_modality(self, setup, make_mosaic, shape):
        mdata = make_mosaic()
        prot = mdata["prot"]
        mdata.mod["prot"] = (prot[:0] if shape == "no cells" else prot[:, :0]).copy()
        mdata.update()
        with pytest.raises(ValueError, match=r"modality 'prot' is empty.*prot=False"):
            setup(mdata)

    @pytest.mark.parametrize("modality", ["rna", "atac", "prot"])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x.__setitem__((2, 1), np.nan), "1 values that are NaN or infinite"),
            (lambda x: x.__setitem__((2, 1), np.inf), "1 values that are NaN or infinite"),
            (lambda x: x.__setitem__((2, 1), -1), "1 negative values"),
            (lambda x: np.log1p(x, out=x), "looks log-normalised"),
            (lambda x: np.subtract(x, x.mean(0), out=x), "looks z-scored"),
            (lambda x: np.multiply(x, 37.3, out=x), "looks normalised or denoised"),
            (lambda x: x.fill(0), "nothing but zeros"),
        ],
        ids=["nan", "inf", "negative", "log", "z", "normalised", "zeros"],
    )
    def test_values_that_are_no_counts(self, setup, make_mosaic, modality, change, message):
        mdata = spoil(make_mosaic(), modality, change)
        with pytest.raises(ValueError, match=f"modality '{modality}', X .*{message}"):
            setup(mdata)

    def test_a_layer_that_is_not_there(self, setup, make_mosaic):
        with pytest.raises(
            KeyError, match=r"modality 'rna' has no layer 'raw'; the layers there are: 'X'.*`layer=` out"
        ):
            setup(make_mosaic(), layer="raw")

    @pytest.mark.parametrize("axis", ["obs", "var"])
    def test_repeated_names(self, setup, make_mosaic, axis):
        mdata = make_mosaic()
        names = getattr(mdata["prot"], f"{axis}_names").tolist()
        names[1] = names[0]
        setattr(mdata["prot"], f"{axis}_names", names)
        with pytest.raises(
            ValueError, match=rf"modality 'prot': 1 of the {axis} names repeat \('{names[0]}'\).*unique"
        ):
            setup(mdata)

    def test_a_cell_without_any_modality(self, setup, make_mosaic):
        mdata = make_mosaic()
        with pytest.raises(
            ValueError, match=r"16 cells have none of the modalities 'rna'.*mdata\.obs_names\.isin"
        ):
            setup(mdata, atac=False, prot=False)

    def test_modalities_out_of_step(self, setup, make_mosaic):
        mdata = make_mosaic()
        mdata["rna"].obs_names = [f"new {n}" for n in mdata["rna"].obs_names]
        with pytest.raises(
            ValueError, match=r"modality 'rna': 64 cells are not in mdata\.obs_names.*mdata\.update\(\)"
        ):
            setup(mdata)

    def test_batches(self, setup, make_mosaic):
        mdata = make_mosaic()
        with pytest.raises(KeyError, match=r"no column 'doner'.*'donor'"):
            setup(mdata, batch_key="doner")
        mdata.obs.loc[mdata.obs_names[:3], "donor"] = None
        with pytest.raises(ValueError, match="'donor' has no value for 3 cells"):
            setup(mdata, batch_key="donor")

    def test_a_view(self, setup, make_mosaic):
        with pytest.raises(ValueError, match="copy"):
            setup(make_mosaic()[:40])

    def test_nothing_is_written_when_refused(self, setup, make_mosaic):
        mdata = spoil(make_mosaic(), "prot", lambda x: np.log1p(x, out=x))
        with pytest.raises(ValueError, match="log-normalised"):
            setup(mdata)
        assert not mdata.uns

    def test_a_model_needs_data_that_were_set_up(self, make_mosaic):
        from mmopt.models import TriVI

        with pytest.raises(ValueError, match="setup_mudata"):
            TriVI(make_mosaic())
        with pytest.raises(ValueError, match="setup_mudata"):
            TriVI()


class TestOtherData:
    """Data given to a model after it was made."""

    def test_features_in_another_order_and_further_features(self, fitted, make_mosaic):
        expected = fitted.get_latent_representation(make_mosaic())
        mdata = make_mosaic()
        rng = np.random.default_rng(0)
        for m in list(mdata.mod):
            mdata.mod[m] = mdata[m][:, rng.permutation(mdata[m].n_vars)].copy()
        rna = mdata["rna"]
        from anndata import AnnData, concat

        new = AnnData(sp.csr_matrix(np.ones((rna.n_obs, 3), np.float32)), obs=rna.obs[[]])
        new.var_names = ["new1", "new2", "new3"]
        mdata.mod["rna"] = concat([new, rna], axis=1, merge="first")
        mdata.update()
        np.testing.assert_array_equal(fitted.get_latent_representation(mdata), expected)

    def test_missing_features(self, fitted, make_mosaic):
        mdata = make_mosaic()
        mdata.mod["rna"] = mdata["rna"][:, 2:].copy()
        with pytest.raises(
            ValueError, match=r"modality 'rna' lacks 2 of the model's 30 features \('rna0', 'rna1'\)"
        ):
            fitted.get_latent_representation(mdata)

    @pytest.mark.parametrize("axis", ["obs", "var"])
    def test_repeated_names(self, fitted, make_mosaic, axis):
        mdata = make_mosaic()
        names = getattr(mdata["prot"], f"{axis}_names").tolist()
        names[1] = names[0]
        setattr(mdata["prot"], f"{axis}_names", names)
        with pytest.raises(ValueError, match=rf"modality 'prot': 1 of the {axis} names repeat"):
            fitted.get_latent_representation(mdata)

    def test_values_that_are_no_counts(self, fitted, make_mosaic):
        mdata = spoil(make_mosaic(), "prot", lambda x: np.log1p(x, out=x))
        with pytest.raises(ValueError, match="modality 'prot', X looks log-normalised"):
            fitted.get_latent_representation(mdata)

    def test_batches_the_model_does_not_know(self, fitted, make_mosaic):
        mdata = make_mosaic()
        mdata.obs["donor"] = mdata.obs["donor"].replace("b", "c")
        with pytest.raises(
            ValueError,
            match=r"'donor' has batches the model was not trained on \('c'\).*'a', 'b'.*load_query_data",
        ):
            fitted.get_latent_representation(mdata)

    def test_no_batch_column(self, fitted, make_mosaic):
        mdata = make_mosaic()
        del mdata.obs["donor"]
        with pytest.raises(KeyError, match="no column 'donor'"):
            fitted.get_latent_representation(mdata)

    def test_an_anndata(self, fitted, make_mosaic):
        with pytest.raises(TypeError, match=r"MuData is needed, not AnnData \(wrap it"):
            fitted.get_latent_representation(make_mosaic()["rna"])

    def test_no_modality_of_the_model(self, fitted, make_mosaic):
        mdata = make_mosaic()
        for m in list(mdata.mod):
            mdata.mod[f"my {m}"] = mdata.mod.pop(m)
        with pytest.raises(ValueError, match="none of the model's modalities 'rna', 'atac', 'prot'"):
            fitted.get_latent_representation(mdata)

    def test_a_cell_without_any_modality_of_the_model(self, make_model, train, make_mosaic):
        model = train(make_model(make_mosaic(modalities=("rna", "atac"))), 1)
        mdata = make_mosaic()
        mdata.mod["rna"] = mdata["rna"][mdata["rna"].obs_names.isin(mdata["atac"].obs_names)].copy()
        with pytest.raises(ValueError, match="16 cells have none of the modalities 'rna', 'atac'"):
            model.get_latent_representation(mdata)

    def test_one_batch_of_two_is_enough(self, fitted, make_mosaic):
        mdata = make_mosaic()
        expected = fitted.get_latent_representation(make_mosaic())[(mdata.obs["donor"] == "b").to_numpy()]
        some = mdata[mdata.obs["donor"] == "b"].copy()
        np.testing.assert_allclose(fitted.get_latent_representation(some), expected, atol=1e-5)
        decoded = fitted.get_normalized("prot", mdata=some)
        everything = fitted.get_normalized("prot", mdata=mdata)[(mdata.obs["donor"] == "b").to_numpy()]
        np.testing.assert_allclose(decoded, everything, rtol=1e-4)

    def test_a_view_and_a_copy(self, fitted, make_mosaic):
        expected = fitted.get_latent_representation()
        np.testing.assert_array_equal(fitted.get_latent_representation(fitted.adata.copy()), expected)
        view = fitted.adata[20:50]
        np.testing.assert_allclose(fitted.get_latent_representation(view), expected[20:50], atol=1e-5)

    def test_the_models_own_data_are_still_its_own(self, make_model, train, make_mosaic):
        model = train(make_model(), 1)
        before = model.get_latent_representation()
        model.get_latent_representation(make_mosaic(seed=3))
        assert model.adata.uns["_scvi_uuid"]
        np.testing.assert_array_equal(model.get_latent_representation(), before)
        type(model).setup_mudata(
            model.adata, batch_key=None, prot=False
        )  # another model's setup of the same data
        np.testing.assert_array_equal(model.get_latent_representation(), before)


class TestRemarks:
    def test_a_column_that_is_no_batch(self, setup, make_mosaic, caplog):
        mdata = make_mosaic()
        mdata.obs["size"] = np.linspace(0, 1, mdata.n_obs)
        setup(mdata, batch_key="size")
        assert caplog.text.count(f"'size' has {mdata.n_obs} batches in {mdata.n_obs} cells") == 1
        setup(mdata, batch_key="donor")
        assert "'donor'" not in caplog.text

    def test_a_modality_without_a_usual_name(self, setup, make_mosaic, caplog):
        mdata = make_mosaic(lacking=False)
        mdata.mod["antibody"] = mdata.mod.pop("prot")
        setup(mdata)
        assert caplog.text.count("'antibody': not used; ") == 1

    def test_a_modality_that_the_model_knows_by_another_name(self, fitted, make_mosaic, caplog):
        mdata = make_mosaic(lacking=False)
        mdata.mod["gex"] = mdata.mod.pop("rna")
        fitted.get_latent_representation(mdata)
        assert "rename 'gex' to 'rna'" in caplog.text
        del mdata.mod["atac"], mdata.mod["prot"]
        with pytest.raises(ValueError, match=r"none of the model's modalities.*rename 'gex' to 'rna'"):
            fitted.get_latent_representation(mdata)


def test_cut_sites_are_noted_once_and_fragments_are_not(make_mosaic, make_model, caplog):
    mdata = make_mosaic()
    with caplog.at_level("WARNING"):
        make_model(mdata)
        assert "cut sites" not in caplog.text
        mdata["atac"].X = mdata["atac"].X * 2
        make_model(mdata)
    assert caplog.text.count("'atac': twos outnumber ones") == 1
    assert "half of each count" in caplog.text

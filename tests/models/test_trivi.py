"""What a trained model answers."""

import warnings
from itertools import chain, combinations

import mudata
import numpy as np
import pytest
import torch
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.models.readout import draw_protein

ALL = ("rna", "atac", "prot")
SUBSETS = list(chain.from_iterable(combinations(ALL, k) for k in (1, 2, 3)))


def has(mdata, modalities):
    """Which cells have at least one of the modalities."""
    return np.any([mdata.obs_names.isin(mdata[m].obs_names) for m in modalities], axis=0)


def quietly(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


@pytest.fixture(scope="module")
def lopsided(make_model, train, make_mosaic):
    """A model whose batch b never had protein."""
    return train(make_model(make_mosaic(absent_in={"prot": "b"})), 2)


class TestModalities:
    @pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
    def test_any_one_to_three(self, make_model, train, make_mosaic, modalities):
        mdata = make_mosaic(modalities)
        model = train(make_model(mdata), 1)
        assert model.modalities == modalities
        assert list(model.get_modality_weights().columns) == list(modalities)
        z = model.get_latent_representation()
        assert z.shape == (mdata.n_obs, 4)
        assert np.isfinite(z).all()
        for m in modalities:
            x = model.get_normalized(m)
            assert x.shape == (mdata.n_obs, mdata[m].n_vars)
            assert np.isfinite(x).all()
            assert (x >= 0).all()

    def test_names_and_order_in_the_data_do_not_matter(self, make_model, train, make_mosaic):
        def make(names):
            mdata = make_mosaic(lacking=False)
            cells = mdata.obs_names
            with override_pull_on_update():
                made = MuData({names[m]: mdata[m][cells].copy() for m in names})
            made.obs["donor"] = mdata.obs["donor"]
            return train(make_model(made), 2)

        expected = make({m: m for m in ALL}).get_latent_representation()
        found = make({"prot": "ADT", "atac": "peaks", "rna": "GEX"}).get_latent_representation()
        np.testing.assert_array_equal(found, expected)

    def test_without_a_batch(self, make_model, train):
        model = train(make_model(batch_key=None), 1)
        assert model.get_normalized("prot", transform_batch="all").shape == (80, 8)


class TestLatent:
    @pytest.mark.parametrize("given", SUBSETS, ids="+".join)
    def test_given_a_subset_cells_with_none_of_it_are_nan(self, fitted, given):
        mdata = fitted.adata
        blind = ~has(mdata, given)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mean, variance = fitted.get_latent_representation(given=given, return_dist=True)
        for values in (mean, variance):
            np.testing.assert_array_equal(np.isnan(values).all(1), blind)
            np.testing.assert_array_equal(np.isnan(values).any(1), blind)
        assert ((variance[~blind] > 0) & (variance[~blind] < 1)).all()
        messages = [str(w.message) for w in caught if "rows are NaN" in str(w.message)]
        assert len(messages) == bool(blind.any())
        if messages:
            assert messages[0].startswith(f"{blind.sum()} cells have none of {list(given)}")

    def test_the_warning_points_at_the_callers_line(self, fitted):
        with pytest.warns(UserWarning, match="rows are NaN") as caught:
            fitted.get_latent_representation(given="prot")
        with pytest.warns(UserWarning, match="rows are NaN") as also:
            fitted.get_normalized("rna", given="prot")
        assert {w.filename for w in [*caught, *also]} == {__file__}

    def test_given_all_is_the_default_and_order_and_form_do_not_matter(self, fitted):
        expected = fitted.get_latent_representation()
        np.testing.assert_array_equal(
            fitted.get_latent_representation(given=["prot", "rna", "atac"]), expected
        )
        one, other = (quietly(fitted.get_latent_representation, given=g) for g in ("rna", ["rna"]))
        np.testing.assert_array_equal(one, other)

    def test_given_one_equals_a_cell_that_has_only_that_one(self, fitted, make_mosaic):
        """Nothing of a withheld modality may reach the posterior."""
        mdata = make_mosaic()
        alone = mdata["rna"].obs_names
        mdata.mod["atac"] = mdata["atac"][~mdata["atac"].obs_names.isin(alone)].copy()
        mdata.mod["prot"] = mdata["prot"][~mdata["prot"].obs_names.isin(alone)].copy()
        found = fitted.get_latent_representation(mdata)
        expected = quietly(fitted.get_latent_representation, given="rna")
        here = has(mdata, ["rna"])
        np.testing.assert_allclose(found[here], expected[here], atol=1e-6)

    def test_posterior_is_the_product_of_the_experts(self, fitted):
        """From the answers for single modalities: their precisions, less the prior's, add up."""
        n = fitted.adata.n_obs
        precision, weighted = np.ones((n, 4)), np.zeros((n, 4))
        for m in ALL:
            mean, variance = quietly(fitted.get_latent_representation, given=m, return_dist=True)
            here = ~np.isnan(mean[:, 0])
            precision[here] += 1 / variance[here] - 1
            weighted[here] += (mean / variance)[here]
        mean, variance = fitted.get_latent_representation(return_dist=True)
        np.testing.assert_allclose(variance, 1 / precision, rtol=1e-4)
        np.testing.assert_allclose(mean, weighted / precision, rtol=1e-3, atol=1e-5)

    def test_indices_and_batch_size(self, fitted):
        expected = fitted.get_latent_representation()
        cells = np.array([70, 3, 3, 41])
        np.testing.assert_allclose(
            fitted.get_latent_representation(indices=cells), expected[cells], atol=1e-6
        )
        mask = np.arange(80) % 7 == 0
        np.testing.assert_allclose(fitted.get_latent_representation(indices=mask), expected[mask], atol=1e-6)
        np.testing.assert_allclose(fitted.get_latent_representation(batch_size=9), expected, atol=1e-6)

    def test_order_of_the_cells_does_not_matter(self, fitted, make_mosaic):
        mdata = make_mosaic()
        with override_pull_on_update():
            other = MuData(
                {m: mdata[m][np.argsort(mdata[m].obs_names)].copy() for m in ("prot", "rna", "atac")}
            )
        other.obs["donor"] = mdata.obs["donor"].reindex(other.obs_names)
        order = mdata.obs_names.get_indexer(other.obs_names)
        assert not np.array_equal(order, np.arange(80))
        expected = fitted.get_latent_representation()[order]
        np.testing.assert_allclose(fitted.get_latent_representation(other), expected, atol=1e-6)

    def test_a_measured_row_of_zeros_is_heard(self, fitted, make_mosaic):
        mdata = make_mosaic()
        x = mdata["prot"].X.toarray()
        x[0] = 0
        mdata["prot"].X = x
        cell = mdata.obs_names.get_loc(mdata["prot"].obs_names[0])
        found = quietly(fitted.get_latent_representation, mdata, given="prot")[cell]
        assert np.isfinite(found).all()
        weights = fitted.get_modality_weights(mdata).iloc[cell]
        assert weights["prot"] > 0

    @pytest.mark.parametrize("given", ["gex", ["rna", "ATAC"], [], ""])
    def test_unknown_modalities_are_refused(self, fitted, given):
        with pytest.raises(
            ValueError, match=r"must name one or more of the model's modalities, \['rna', 'atac', 'prot'\]"
        ):
            fitted.get_latent_representation(given=given)

    @pytest.mark.parametrize("ask", ["get_latent_representation", "get_modality_weights"])
    @pytest.mark.parametrize("cells", [[], np.zeros(80, bool), [80], [-81], [0.5]], ids=str)
    def test_cells_that_are_not_there_are_refused(self, fitted, ask, cells):
        with pytest.raises((ValueError, IndexError), match="indices"):
            getattr(fitted, ask)(indices=cells)

    def test_an_untrained_model_says_so(self, make_model):
        model = make_model()
        for ask in (
            model.get_latent_representation,
            model.get_modality_weights,
            lambda: model.get_normalized("rna"),
        ):
            with pytest.raises(ValueError, match=r"`model\.train\(\)`.*mm\.tl\.integrate"):
                ask()


class TestWeights:
    def test_rows_sum_to_one_and_absent_modalities_have_none(self, fitted):
        weights = fitted.get_modality_weights()
        assert list(weights.index) == list(fitted.adata.obs_names)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
        for m in ALL:
            np.testing.assert_array_equal(weights[m] > 0, has(fitted.adata, [m]))

    def test_are_the_shares_of_precision(self, fitted):
        shares = []
        for m in ALL:
            _, variance = quietly(fitted.get_latent_representation, given=m, return_dist=True)
            shares.append(np.nan_to_num(1 / variance - 1))
        shares = np.stack(shares)
        expected = (shares / shares.sum(0)).mean(-1).T
        np.testing.assert_allclose(fitted.get_modality_weights(), expected, rtol=1e-3, atol=1e-6)

    def test_indices_and_other_data(self, fitted, make_mosaic):
        expected = fitted.get_modality_weights()
        for cells in (np.array([5, 60, 2]), np.arange(80) < 4):
            found = fitted.get_modality_weights(indices=cells)
            assert list(found.index) == list(fitted.adata.obs_names[cells])
            np.testing.assert_allclose(found, expected.iloc[cells], rtol=1e-5)
        mdata = make_mosaic()[:30].copy()
        assert list(fitted.get_modality_weights(mdata).index) == list(mdata.obs_names)


class TestNormalized:
    @pytest.mark.parametrize("modality", ["rna", "atac"])
    def test_rows_sum_to_the_cells_own_depth_where_it_is_heard(self, fitted, dense, modality):
        depth = dense(fitted.adata, modality).sum(axis=1, skipna=False).to_numpy()
        measured = ~np.isnan(depth)
        for given in (None, modality, ALL):
            found = quietly(fitted.get_normalized, modality, given=given)
            np.testing.assert_allclose(found[measured].sum(1), depth[measured], rtol=1e-4)

    @pytest.mark.parametrize("modality", ["rna", "atac"])
    def test_predicted_from_others_nothing_of_the_modality_is_known(
        self, fitted, make_mosaic, dense, modality
    ):
        """Neither counts nor depth: cells stripped of the modality get the same answer."""
        others = [m for m in ALL if m != modality]
        found = quietly(fitted.get_normalized, modality, given=others)
        stripped = make_mosaic(modalities=others)
        names = fitted.adata.obs_names.get_indexer(stripped.obs_names)
        np.testing.assert_allclose(fitted.get_normalized(modality, mdata=stripped), found[names], rtol=1e-4)
        seeing = has(fitted.adata, others)
        assert np.isnan(found[~seeing]).all()
        own = dense(fitted.adata, modality).sum(axis=1, skipna=False).to_numpy()
        assert not np.allclose(found[seeing].sum(1), own[seeing], rtol=0.01, equal_nan=True)

    @pytest.mark.parametrize("modality", ["rna", "atac"])
    def test_library_size(self, fitted, modality):
        found = fitted.get_normalized(modality, library_size=1000)
        np.testing.assert_allclose(found.sum(1), 1000, rtol=1e-4)
        own = fitted.get_normalized(modality)
        np.testing.assert_allclose(found / 1000, own / own.sum(1, keepdims=True), rtol=1e-4)
        with pytest.raises(ValueError, match=r'library_size must be "latent" or a positive number; got 0'):
            fitted.get_normalized(modality, library_size=0)
        with pytest.raises(ValueError, match=r"library_size.*got 'own'"):
            fitted.get_normalized(modality, library_size="own")
        with pytest.raises(ValueError, match="protein has no library size"):
            fitted.get_normalized("prot", library_size=1000)

    def test_protein_is_the_expectation_of_log1p_turned_back_into_counts(self, fitted):
        found = fitted.get_normalized("prot")
        assert (found > 0).all()
        torch.manual_seed(0)
        with torch.no_grad():
            z = torch.from_numpy(fitted.get_latent_representation())
            codes = torch.from_numpy((fitted.adata.obs["donor"] == "b").to_numpy().astype(int))
            p = fitted.module.decoders["prot"](z, torch.eye(2)[codes])
            drawn = torch.log1p(torch.stack([draw_protein(p) for _ in range(2000)]))
        off = np.log1p(found) - drawn.mean(0).numpy()
        assert np.abs(off).max() < 6 * drawn.std(0).max() / 2000**0.5
        assert abs(off.mean()) < 0.003

    @pytest.mark.parametrize("modality", ALL)
    def test_decodes_the_posterior_mean_in_the_cells_batch(self, fitted, modality):
        found = fitted.get_normalized(modality)
        cells = fitted.adata.obs["donor"].to_numpy()
        for batch in ("a", "b"):
            as_batch = fitted.get_normalized(modality, transform_batch=batch)
            np.testing.assert_allclose(as_batch[cells == batch], found[cells == batch], rtol=1e-5)
            assert not np.allclose(as_batch[cells != batch], found[cells != batch], rtol=1e-5)

    @pytest.mark.parametrize("modality", ["rna", "atac"])
    def test_another_batch_is_answered_as_if_the_cells_were_of_it(self, fitted, modality):
        """At the predicted depth, too."""
        as_a = fitted.adata.copy()
        as_a.obs["donor"] = "a"
        expected = fitted.get_normalized(modality, "prot", mdata=as_a)
        found = fitted.get_normalized(modality, "prot", transform_batch="a")
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_a_batch_without_the_modality_gets_the_mean_of_what_those_with_it_would_have(
        self, make_model, train, make_mosaic
    ):
        mdata = make_mosaic(n=90, absent_in={"prot": "b"})
        mdata.obs["donor"] = np.where(
            np.arange(mdata.n_obs) % 3 == 0, mdata.obs["donor"] + "2", mdata.obs["donor"]
        )
        lacking = set(mdata.obs["donor"]) - set(mdata.obs.loc[mdata["prot"].obs_names, "donor"])
        assert lacking == {"b", "b2"}
        model = train(make_model(mdata), 1)
        assert model.module.measured_prot.any(1).tolist() == [True, True, False, False]
        assert model.module.measured_rna.all()
        a, a2 = (model.get_normalized("prot", transform_batch=batch) for batch in ("a", "a2"))
        expected = np.expm1((np.log1p(a) + np.log1p(a2)) / 2)  # of protein, on the logarithmic scale
        assert not np.allclose(a, a2, rtol=0.01)
        np.testing.assert_allclose(model.get_normalized("prot", transform_batch="b"), expected, rtol=1e-4)
        cells = mdata.obs["donor"].isin(lacking).to_numpy()
        np.testing.assert_allclose(model.get_normalized("prot")[cells], expected[cells], rtol=1e-4)

    def test_a_batch_without_atac_gets_the_mean_share(self, make_model, train, make_mosaic):
        mdata = make_mosaic(n=90, absent_in={"atac": "b"})
        mdata.obs["donor"] = np.where(
            np.arange(mdata.n_obs) % 3 == 0, mdata.obs["donor"] + "2", mdata.obs["donor"]
        )
        model = train(make_model(mdata), 1)
        a, a2, b = (
            model.get_normalized("atac", given=["rna", "prot"], library_size=1, transform_batch=t)
            for t in ("a", "a2", "b")
        )
        np.testing.assert_allclose(b, (a + a2) / 2, rtol=1e-4)

    def test_imputation_for_a_batch_without_protein(self, lopsided):
        found = lopsided.get_normalized("prot", given=["rna", "atac"])
        assert np.isfinite(found[has(lopsided.adata, ["rna", "atac"])]).all()

    @pytest.mark.parametrize("modality", ALL)
    def test_samples(self, fitted, modality):
        draws = fitted.get_normalized(modality, n_samples=5, return_samples=True)
        assert draws.shape == (5, 80, fitted.adata[modality].n_vars)
        assert np.ptp(draws, axis=0).max() > 0
        mean = np.expm1(np.log1p(draws).mean(0)) if modality == "prot" else draws.mean(0)
        own = has(fitted.adata, [modality])  # elsewhere depths are drawn too
        found = fitted.get_normalized(modality, n_samples=5)
        np.testing.assert_allclose(found[own], mean[own], rtol=1e-4)
        again = fitted.get_normalized(modality, n_samples=5, return_samples=True, random_state=0)
        np.testing.assert_array_equal(again, draws)
        other = fitted.get_normalized(modality, n_samples=5, return_samples=True, random_state=1)
        assert not np.array_equal(other, draws)
        single = fitted.get_normalized(modality, return_samples=True)
        np.testing.assert_array_equal(single[0], fitted.get_normalized(modality))

    def test_many_samples_spread_as_the_posterior(self, fitted):
        """Decoded draws scatter around the decoded mean by what the posterior variance says, to first order."""
        cells = np.flatnonzero(has(fitted.adata, ["rna"]))[:10]
        mean, variance = fitted.get_latent_representation(indices=cells, return_dist=True)
        draws = fitted.get_normalized("rna", n_samples=1000, return_samples=True, indices=cells)
        z = torch.from_numpy(mean) + torch.from_numpy(variance).sqrt() * torch.randn(
            1000, *mean.shape, generator=torch.Generator().manual_seed(5)
        )
        codes = torch.from_numpy((fitted.adata.obs["donor"].iloc[cells] == "b").to_numpy().astype(int))
        with torch.no_grad():
            shares = fitted.module.decoders["rna"](z.flatten(0, 1), torch.eye(2)[codes].repeat(1000, 1)).exp()
        expected = (shares.reshape(draws.shape) * torch.from_numpy(draws.sum(-1)[0])[:, None]).numpy()
        np.testing.assert_allclose(draws.mean(0), expected.mean(0), rtol=0.02)
        np.testing.assert_allclose(draws.std(0), expected.std(0), rtol=0.2)

    def test_draws_of_a_predicted_depth_spread_with_its_error(self, fitted):
        draws = quietly(
            fitted.get_normalized, "rna", given="prot", n_samples=400, return_samples=True, indices=[1, 3, 4]
        )
        logs = np.log(draws.sum(-1))
        spread = float(fitted.module.depths["rna"].spread[4])  # protein alone
        assert spread > 0
        np.testing.assert_allclose(logs.std(0), spread, rtol=0.2)
        mean = quietly(fitted.get_normalized, "rna", given="prot", n_samples=2, indices=[1, 3, 4]).sum(-1)
        np.testing.assert_allclose(np.exp(logs).mean(0), mean, rtol=0.2)

    def test_nan_where_blind_also_for_samples(self, fitted):
        with pytest.warns(UserWarning, match=r"16 cells have none of \['prot'\]"):
            draws = fitted.get_normalized("rna", given="prot", n_samples=2, return_samples=True)
        blind = ~has(fitted.adata, ["prot"])
        assert np.isnan(draws[:, blind]).all()
        assert np.isfinite(draws[:, ~blind]).all()

    def test_indices(self, fitted):
        expected = fitted.get_normalized("prot")
        np.testing.assert_allclose(fitted.get_normalized("prot", indices=[9, 2]), expected[[9, 2]], rtol=1e-5)

    def test_data_that_lack_the_modality_altogether(self, fitted, make_mosaic):
        """Protein predicted for a data set that never had it."""
        mdata = make_mosaic(modalities=("rna",))
        found = fitted.get_normalized("prot", mdata=mdata)
        names = list(fitted.adata.obs_names)
        expected = quietly(fitted.get_normalized, "prot", given="rna")
        np.testing.assert_allclose(found, expected[[names.index(n) for n in mdata.obs_names]], rtol=1e-4)

    def test_refusals(self, fitted):
        with pytest.raises(
            ValueError, match=r"modality 'adt' is not in the model; it has \['rna', 'atac', 'prot'\]"
        ):
            fitted.get_normalized("adt")
        with pytest.raises(
            ValueError, match=r"transform_batch='c' is not a batch of the model; it has \['a', 'b'\]"
        ):
            fitted.get_normalized("rna", transform_batch="c")
        with pytest.raises(ValueError, match=r"given=.*must name"):
            fitted.get_normalized("rna", given="adt")
        with pytest.raises(ValueError, match="n_samples"):
            fitted.get_normalized("rna", n_samples=0)


def test_what_the_trainer_takes_may_be_given_too(make_model):
    model = make_model()
    model.train(1, accelerator="cpu", enable_progress_bar=False, check_val_every_n_epoch=1)  # as searches do
    assert len(model.history["elbo_validation"]) == 1
    with pytest.raises(ValueError, match="check_val_every_n_epoch must be 1"):
        model.train(1, accelerator="cpu", check_val_every_n_epoch=2)


def test_a_view_is_refused_for_setup(make_mosaic):
    mdata = make_mosaic()
    with pytest.raises(ValueError, match=r"view and cannot be written to.*mdata.copy\(\)"):
        mm.models.TriVI.setup_mudata(mdata[mdata.obs_names[:40]])


def refusal_followed(mdata, setup):
    """Do what the refusal of the data says, and set them up."""
    with pytest.raises(ValueError, match="is a view and cannot be written to; make it your own") as refusal:
        setup(mdata)
    names = {"mdata": mdata}
    exec(str(refusal.value).split("`")[1], names)
    setup(names["mdata"])
    return str(refusal.value)


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on disk"])
def test_what_a_refused_view_is_told_to_do_works(make_mosaic, tmp_path, monkeypatch, on_disk):
    monkeypatch.chdir(tmp_path)
    mdata = make_mosaic()
    if on_disk:
        mdata.write_h5mu("mosaic.h5mu")
        mdata = mudata.read_h5mu("mosaic.h5mu", backed=True)
    part = mdata[mdata.obs_names[:60]]
    assert refusal_followed(part, mm.models.TriVI.setup_mudata).startswith("mdata is a view")
    made = MuData({"rna": mdata["rna"][:30], "prot": make_mosaic()["prot"]})
    assert refusal_followed(made, mm.models.TriVI.setup_mudata).startswith("mdata.mod['rna'] is a view")

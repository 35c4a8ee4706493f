"""Intervals and drawn counts."""

import sys
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from mmopt.metrics import interval_coverage
from mmopt.models.readout import draw_multinomial, draw_negative_binomial, draw_protein

ALL = ("rna", "atac", "prot")


def quietly(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


class TestDraws:
    def test_negative_binomial(self):
        torch.manual_seed(0)
        mean, theta = torch.tensor([[0.1, 3.0, 50.0]]), torch.tensor([0.5, 2.0, 100.0])
        x = draw_negative_binomial(mean.expand(20_000, 3), theta).numpy()
        for j in range(3):
            t, m = float(theta[j]), float(mean[0, j])
            expected = stats.nbinom(t, t / (t + m))
            assert x[:, j].mean() == pytest.approx(expected.mean(), rel=0.05)
            assert x[:, j].std() == pytest.approx(expected.std(), rel=0.05)
            assert (x[:, j] == 0).mean() == pytest.approx(expected.pmf(0), abs=0.02)

    def test_multinomial_keeps_the_totals(self):
        torch.manual_seed(0)
        shares = torch.softmax(torch.randn(4, 7), 1)
        totals = torch.tensor([0, 1, 500, 20_000])
        x = draw_multinomial(shares, totals)
        assert torch.equal(x.sum(1), totals.float())
        np.testing.assert_allclose(x[3] / 20_000, shares[3], atol=0.02)
        assert draw_multinomial(shares[:0], totals[:0]).shape == (0, 7)

    def test_protein_is_background_or_foreground(self):
        torch.manual_seed(0)
        shape = (5000, 1)
        parameters = {
            "background_logit": torch.full(shape, np.log(3.0)),
            "log_background": torch.full(shape, 1.0),
            "log_foreground": torch.full(shape, 6.0),
            "log_theta": torch.full(shape, 6.0),
        }
        assert (draw_protein(parameters) < 50).float().mean() == pytest.approx(0.75, abs=0.02)


class TestCredible:
    @pytest.mark.parametrize("modality", ALL)
    def test_is_the_quantiles_of_the_draws(self, fitted, modality):
        kwargs = {"given": "rna", "indices": [1, 2, 6], "batch_size": 512}
        draws = fitted.get_normalized(modality, n_samples=101, return_samples=True, **kwargs)
        mean, lower, upper = fitted.get_normalized(modality, n_samples=101, interval=0.9, **kwargs)
        np.testing.assert_allclose(lower, np.quantile(draws, 0.05, axis=0), rtol=1e-4)
        np.testing.assert_allclose(upper, np.quantile(draws, 0.95, axis=0), rtol=1e-4)
        expected = np.expm1(np.log1p(draws).mean(0)) if modality == "prot" else draws.mean(0)
        np.testing.assert_allclose(mean, expected, rtol=1e-4)
        assert (lower < upper).all()

    def test_wider_where_more_is_asked_and_less_is_known(self, fitted):
        def width(modality="prot", level=0.9, given=None):
            i = fitted.get_normalized(modality, interval=level, indices=[3, 4, 8, 9], given=given)
            return (np.log1p(i.upper) - np.log1p(i.lower)).mean()

        assert width(level=0.5) < width(level=0.95)
        assert width(given="rna") > width()

    def test_refusals(self, fitted):
        for level in (0, 1, 90):
            with pytest.raises(ValueError, match=f"interval must lie between 0 and 1; got {level}"):
                fitted.get_normalized("rna", interval=level)
            with pytest.raises(ValueError, match=f"level must lie between 0 and 1; got {level}"):
                fitted.get_predictive_interval("rna", level=level)
        with pytest.raises(ValueError, match="not for both"):
            fitted.get_normalized("rna", interval=0.9, return_samples=True)
        with pytest.raises(ValueError, match="modality 'adt' is not in the model"):
            fitted.get_predictive_interval("adt")

    @pytest.mark.parametrize(
        ("getter", "name"), [("get_normalized", "interval"), ("get_predictive_interval", "level")]
    )
    def test_too_few_draws(self, fitted, getter, name):
        """From the least to the greatest of two draws is a third of the draws."""
        ask = getattr(fitted, getter)
        with pytest.warns(
            UserWarning, match=f"2 draws holds less than {name}=0.9; take n_samples=19"
        ) as caught:
            ask("rna", n_samples=2, **{name: 0.9})
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask("rna", n_samples=19, **{name: 0.9})


class TestPredictive:
    @pytest.mark.parametrize("modality", ALL)
    @pytest.mark.parametrize("given", [None, "rna"])
    def test_counts_that_hold_more_than_the_credible_interval(self, fitted, modality, given):
        found = quietly(fitted.get_predictive_interval, modality, given, level=0.9)
        for bound in (found.lower, found.upper):
            bound = bound[~np.isnan(bound)]
            np.testing.assert_array_equal(bound, np.round(bound))
            assert (bound >= 0).all()
        credible = quietly(fitted.get_normalized, modality, given, interval=0.9)
        assert np.nanmean(found.upper - found.lower) > np.nanmean(credible.upper - credible.lower)

    def test_repeats_and_leaves_the_generators_alone(self, fitted):
        before = torch.get_rng_state()
        first, again = (
            fitted.get_predictive_interval("prot", n_samples=19, random_state=4) for _ in range(2)
        )
        assert torch.equal(before, torch.get_rng_state())
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_blind_cells_are_nan_and_reported(self, fitted):
        with pytest.warns(UserWarning, match=r"16 cells have none of \['prot'\]") as caught:
            found = fitted.get_predictive_interval("rna", given="prot", n_samples=19)
        assert caught[0].filename == __file__
        assert all(np.isnan(v[:, 0]).sum() == 16 for v in found)

    def test_in_a_batch_without_the_modality_counts_come_from_the_others(
        self, make_model, train, make_mosaic
    ):
        mdata = make_mosaic(n=90, absent_in={"prot": "b"})
        model = train(make_model(mdata), 2)
        a, b = (
            model.get_predictive_interval("prot", transform_batch=t, n_samples=400, indices=range(10))
            for t in ("a", "b")
        )
        np.testing.assert_allclose(a.mean.mean(0), b.mean.mean(0), rtol=0.1)


@pytest.mark.parametrize(
    ("call", "settings"),
    [
        ("get_normalized", {"modality": "prot"}),
        ("get_normalized", {"modality": "prot", "interval": 0.5}),
        ("get_latent_representation", {}),
        ("get_predictive_interval", {"modality": "prot"}),
        ("posterior_predictive_sample", {}),
    ],
)
def test_at_least_one_cell_per_pass(fitted, call, settings):
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1; got {size}"):
            getattr(fitted, call)(batch_size=size, **settings)


@pytest.mark.parametrize("call", ["get_normalized", "get_predictive_interval", "posterior_predictive_sample"])
def test_numbers_that_are_none_are_refused(fitted, call):
    def ask(**kwargs):
        return getattr(fitted, call)(modality="prot", **kwargs)

    for name in ("n_samples", "batch_size"):
        with pytest.raises(TypeError, match=f"{name}=2.5: a whole number is needed"):
            ask(**{name: 2.5})
    for wrong in (None, 0.5, -1):
        with pytest.raises(ValueError, match="random_state must be an integer of at least 0"):
            ask(random_state=wrong)


@pytest.mark.parametrize(
    ("call", "settings"),
    [
        ("get_normalized", {"n_samples": 2, "return_samples": True}),
        ("get_predictive_interval", {"n_samples": 9}),
        ("posterior_predictive_sample", {"indices": range(10)}),
    ],
)
def test_an_integer_of_numpy_is_a_seed_like_another(fitted, call, settings):
    first, same = (
        getattr(fitted, call)(modality="prot", random_state=seed, **settings) for seed in (1, np.int64(1))
    )
    for a, b in zip(*(v.values() if isinstance(v, dict) else v for v in (first, same)), strict=True):
        np.testing.assert_array_equal(*(v if isinstance(v, np.ndarray) else v.todense() for v in (a, b)))


class TestPosteriorPredictive:
    def test_measured_cells_in_the_order_of_each_modality(self, fitted):
        drawn = fitted.posterior_predictive_sample(n_samples=30)
        for m in ALL:
            assert drawn[m].shape == (*fitted.adata[m].shape, 30)
            x = drawn[m].todense()
            np.testing.assert_array_equal(x, np.round(x))
            observed = fitted.adata[m].X.toarray()
            assert interval_coverage(x.transpose(2, 0, 1), observed, [0.8])["coverage_80"] > 0.5
        totals = fitted.adata["atac"].X.sum(1)
        np.testing.assert_array_equal(drawn["atac"].todense().sum(1), np.repeat(totals, 30, 1))

    def test_a_model_without_data_asks_for_them(self, fitted, tmp_path):
        fitted.save(tmp_path / "model")
        again = type(fitted).load(tmp_path / "model", accelerator="cpu")
        with pytest.raises(ValueError, match="has no data yet; pass `mdata`"):
            again.posterior_predictive_sample()
        assert again.posterior_predictive_sample(fitted.adata, range(3)).keys() == set(ALL)

    def test_some_cells(self, fitted):
        cells = [3, 10, 11]
        drawn = fitted.posterior_predictive_sample(indices=cells, n_samples=2)
        for m in ALL:
            assert drawn[m].shape[0] == fitted.adata.obs_names[cells].isin(fitted.adata[m].obs_names).sum()
        lacking = np.flatnonzero(~fitted.adata.obs_names.isin(fitted.adata["rna"].obs_names))
        without = fitted.posterior_predictive_sample(indices=lacking[:2], modality="rna")
        assert {k: v.shape for k, v in without.items()} == {"rna": (0, 30, 1)}
        with pytest.raises(ValueError, match="modality 'adt' is not in the model"):
            fitted.posterior_predictive_sample(modality="adt")

    def test_cells_of_which_nothing_is_given(self, fitted):
        blind = ~fitted.adata["prot"].obs_names.isin(fitted.adata["rna"].obs_names)
        with pytest.warns(UserWarning, match=f"{blind.sum()} cells have none of .*'rna'.*NaN"):
            drawn = fitted.posterior_predictive_sample(modality="prot", given="rna")["prot"].todense()
        np.testing.assert_array_equal(np.isnan(drawn).any((1, 2)), blind)
        assert np.isnan(drawn[blind]).all()

    @pytest.mark.parametrize("indices", [[-1], [80], [0.5]], ids=str)
    def test_cells_that_are_not_there(self, fitted, indices):
        with pytest.raises(ValueError, match="indices must hold positions of cells"):
            fitted.posterior_predictive_sample(indices=indices)

    @pytest.fixture
    def _uncompiled(self, monkeypatch):
        """The sparse arrays of scvi-tools without numba: to compile for minutes what some cells take no time for is a waste."""
        import numba
        import sparse

        monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == sparse.__name__:
                for function, value in list(vars(module).items()):
                    if hasattr(value, "py_func"):
                        monkeypatch.setattr(module, function, value.py_func)

    @pytest.mark.usefixtures("_uncompiled")
    @pytest.mark.parametrize("modality", ALL)
    def test_scvi_criticism_reads_it(self, fitted, modality):
        from scvi.criticism import PosteriorPredictiveCheck

        counts = fitted.adata.copy()
        counts[modality].X = counts[modality].X.astype(int)  # it cannot compare sparse matrices of floats
        check = PosteriorPredictiveCheck(counts, {"TriVI": fitted}, modality=modality, n_samples=5)
        check.coefficient_of_variation("cells")
        check.zero_fraction()
        zeros = check.metrics["zero_fraction"]
        assert zeros["TriVI"].mean() == pytest.approx(zeros["Raw"].mean(), abs=0.25)
        variation = check.metrics["cv_gene"]
        assert np.isfinite(variation).all(axis=None)

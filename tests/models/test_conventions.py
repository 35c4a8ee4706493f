"""The model as scvi-tools users know models, and the arguments it is made with."""

import numpy as np
import pytest

ALL = ("rna", "atac", "prot")


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("n_latent", 0),
            ("n_latent", 2.5),
            ("n_hidden", 0),
            ("dropout_rate", 1.5),
            ("dropout_rate", -0.1),
            ("modality_dropout", 1.0),
            ("modality_dropout", 1.5),
            ("modality_dropout", -0.1),
            ("alignment", -1.0),
            ("alignment", float("nan")),
            ("atac_rank", 0),
            ("random_state", None),
            ("random_state", -1),
        ],
    )
    def test_out_of_range(self, make_model, argument, value):
        with pytest.raises(ValueError, match=argument.partition("_rate")[0]):
            make_model(**{argument: value})

    def test_unknown(self, make_model):
        with pytest.raises(TypeError, match="n_latnet"):
            make_model(n_latnet=3)


class TestScviConventions:
    def test_elbo_and_reconstruction_error(self, fitted):
        elbo, errors = fitted.get_elbo(), fitted.get_reconstruction_error()
        assert set(errors) == {"nll_rna", "nll_atac", "nll_prot"}
        of_cells = fitted.get_reconstruction_error(return_mean=False)
        kl = -float(elbo) - sum(float(v.mean()) for v in of_cells.values())
        assert 0 < kl < 50
        for m in ALL:  # the mean is over the cells in which the modality was measured
            there = fitted.adata.obs_names.isin(fitted.adata[m].obs_names)
            assert float(errors[f"nll_{m}"]) == pytest.approx(
                float(of_cells[f"nll_{m}"][there].mean()), rel=1e-5
            )
        each = fitted.get_elbo(return_mean=False)
        assert each.shape == (80,)
        assert float(each.mean()) == pytest.approx(float(elbo), rel=1e-4)
        some = fitted.get_reconstruction_error(indices=[4, 5], return_mean=False)
        assert all(v.shape == (2,) for v in some.values())

    def test_elbo_of_a_cell_counts_only_what_was_measured(self, fitted):
        errors = fitted.get_reconstruction_error(return_mean=False)
        for m in ALL:
            np.testing.assert_array_equal(
                errors[f"nll_{m}"].numpy() > 0, fitted.adata.obs_names.isin(fitted.adata[m].obs_names)
            )

    def test_data_have_one_name(self, fitted):
        mdata = fitted.adata
        assert float(fitted.get_elbo(mdata=mdata)) == float(fitted.get_elbo())
        errors, expected = fitted.get_reconstruction_error(mdata=mdata), fitted.get_reconstruction_error()
        assert {k: float(v) for k, v in errors.items()} == {k: float(v) for k, v in expected.items()}

    def test_what_is_not_estimated(self, fitted):
        with pytest.raises(TypeError, match="does not estimate the marginal likelihood: `get_elbo"):
            fitted.get_marginal_ll()

    def test_answers_repeat(self, fitted):
        assert float(fitted.get_elbo()) == float(fitted.get_elbo())

    def test_describes_itself(self, fitted, make_model, capsys):
        assert "rna 30, atac 40, prot 8 features; 2 batches; 4 latent dimensions" in fitted.summary_string
        assert "Training status: Trained" in fitted.summary_string
        assert "Not Trained" in make_model().summary_string
        repr(fitted)
        assert "TriVI" in capsys.readouterr().out
        fitted.view_anndata_setup()
        shown = capsys.readouterr().out
        assert "donor" in shown
        assert "prot" in shown

    def test_usual_attributes(self, fitted):
        assert fitted.is_trained
        assert fitted.module.training is False
        together = np.sort(np.concatenate([fitted.train_indices, fitted.validation_indices]))
        np.testing.assert_array_equal(together, np.arange(80))
        assert len(fitted.test_indices) == 0
        assert fitted.summary_stats["n_rna"] == 30
        assert fitted.registry["setup_args"]["batch_key"] == "donor"
        assert str(fitted.device) == "cpu"

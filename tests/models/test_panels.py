"""Batches with different antibody panels: what a batch did not measure is absent, not zero."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmopt.models import TriVI, panels

NAMES, BATCHES = ["CD3", "CD4", "CD8", "CD19"], ["a", "b", "c"]


class TestMeasured:
    counts = sp.csr_matrix(np.array([[1, 0, 2, 0], [0, 0, 3, 0], [4, 5, 0, 0], [0, 1, 0, 0]], np.float32))
    batch = np.array([0, 0, 1, 1])

    def test_a_protein_without_a_count_in_one_batch_alone_is_not_in_its_panel(self):
        found = panels.measured(self.counts, self.batch, NAMES, BATCHES)
        # CD19 has no count anywhere, batch c no cell
        assert found.tolist() == [[True, False, True, True], [True, True, False, True], [False] * 4]

    def test_all(self):
        found = panels.measured(self.counts, self.batch, NAMES, BATCHES, None)
        assert found.tolist() == [[True] * 4, [True] * 4, [False] * 4]

    def test_named(self):
        found = panels.measured(self.counts, self.batch, NAMES, BATCHES, {"b": ["CD3", "CD4", "CD8"]})
        assert found.tolist() == [[True] * 4, [True, True, True, False], [False] * 4]

    def test_counts_outside_of_the_panel(self):
        with pytest.raises(
            ValueError, match=r"batch 'b' has counts of 1 proteins that its panel lacks \('CD4'\)"
        ):
            panels.measured(self.counts, self.batch, NAMES, BATCHES, {"b": ["CD3", "CD8"]})

    def test_a_protein_that_no_batch_measured(self):
        """It would have no scale; CD19 has no count, and batch c no cell."""
        given = {"a": ["CD3", "CD8"], "b": ["CD3", "CD4"]}
        with pytest.raises(
            ValueError, match=r"1 proteins are in the panel of no batch.*'CD19'.*protein_panels"
        ):
            panels.measured(self.counts, self.batch, NAMES, BATCHES, given)


class TestSetup:
    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            ({"x": ["prot0"]}, KeyError, "batches that are not in the data.*'x'.*'a', 'b'"),
            (
                {"a": ["CD3"]},
                KeyError,
                r"protein_panels\['a'\] names proteins that are not in the data.*'CD3'",
            ),
            ({"a": []}, ValueError, r"protein_panels\['a'\] is empty"),
            ("all", ValueError, "protein_panels='all' must be \"auto\", None, or a mapping"),
        ],
    )
    def test_refusals(self, make_model, given, error, message):
        with pytest.raises(error, match=message):
            make_model(setup={"protein_panels": given})

    def test_named_panels_are_kept_in_the_file(self, make_model, train, tmp_path, make_mosaic):
        mdata = hide(make_mosaic(), {"b": [0, 3]})
        given = {"b": [f"prot{i}" for i in range(8) if i not in (0, 3)]}
        model = train(make_model(mdata, setup={"protein_panels": given}), 1)
        assert torch.equal(model.module.measured_prot, train(make_model(mdata), 1).module.measured_prot)
        model.save(tmp_path / "model")
        again = TriVI.load(tmp_path / "model", mdata, accelerator="cpu")
        np.testing.assert_array_equal(again.get_normalized("prot"), model.get_normalized("prot"))


def hide(mdata, absent):
    """Put zeros where a batch lacks proteins, as files do that join panels."""
    x = mdata["prot"].X.toarray()
    batch = mdata.obs["donor"].reindex(mdata["prot"].obs_names).to_numpy()
    for b, proteins in absent.items():
        x[np.ix_(batch == b, proteins)] = 0
    mdata["prot"].X = sp.csr_matrix(x)
    return mdata


@pytest.fixture(scope="module")
def absent():
    return {"a": [0, 1], "b": [2, 3]}


@pytest.fixture(scope="module")
def hidden(make_mosaic, absent):
    return hide(make_mosaic(n=300), absent)


@pytest.fixture(scope="module")
def model(hidden, make_model, train):
    return train(make_model(hidden, n_hidden=64), 25, lr=3e-3)


def test_zeros_of_absent_proteins_reach_neither_encoder_nor_likelihood(model, hidden, absent):
    """Any counts may stand in their place."""
    loud = hidden.copy()
    x = loud["prot"].X.toarray()
    batch = loud.obs["donor"].reindex(loud["prot"].obs_names).to_numpy()
    for b, proteins in absent.items():
        x[np.ix_(batch == b, proteins)] = 1000
    loud["prot"].X = x
    np.testing.assert_allclose(
        model.get_latent_representation(loud), model.get_latent_representation(), atol=1e-6
    )
    for tensors in model._make_data_loader(hidden, batch_size=512):
        quiet = model.module(tensors, inference_kwargs={"noise": torch.zeros(1)})[2].reconstruction_loss[
            "nll_prot"
        ]
    model._validate_anndata(loud)
    for tensors in model._make_data_loader(loud, batch_size=512):
        noisy = model.module(tensors, inference_kwargs={"noise": torch.zeros(1)})[2].reconstruction_loss[
            "nll_prot"
        ]
    torch.testing.assert_close(quiet, noisy)


def test_absent_proteins_are_encoded_as_average(model, hidden):
    encoder = model.module.encoders["prot"]
    inputs = []
    hook = encoder.dropout.register_forward_pre_hook(lambda _, x: inputs.append(x[0].clone()))
    (tensors,) = model._make_data_loader(hidden, batch_size=512)
    with torch.inference_mode():
        model.module.inference(tensors, noise=torch.zeros(1))
    hook.remove()
    (x,) = inputs
    batch = tensors["batch"][tensors["prot_rows"]]
    assert (x[batch == 0][:, :2] == 0).all()
    assert (x[batch == 1][:, 2:4] == 0).all()
    measured = x[batch == 0][:, 2:]
    assert (measured != 0).float().mean() > 0.99


def test_no_gradient_comes_from_absent_proteins(make_model, hidden):
    module = make_model(hidden).module
    (tensors,) = make_model(hidden)._make_data_loader(hidden, batch_size=512)
    module.train()
    module(tensors)[2].loss.backward()
    gradient = module.decoders["prot"].log_background.grad
    assert (gradient[0, :2] == 0).all()
    assert (gradient[1, 2:4] == 0).all()
    assert (gradient[0, 2:] != 0).all()


def test_absent_proteins_are_imputed_better_than_by_the_mean_profile(model, make_mosaic, absent):
    truth = make_mosaic(n=300)
    cells = truth.obs_names.get_indexer(truth["prot"].obs_names)
    batch = truth.obs["donor"].to_numpy()[cells]
    logs = np.log1p(truth["prot"].X.toarray())
    found = np.log1p(model.get_normalized("prot"))[cells]
    for b, proteins in absent.items():
        for p in proteins:
            here, there = batch == b, batch != b
            error = np.sqrt(np.mean((found[here, p] - logs[here, p]) ** 2))
            mean = np.sqrt(np.mean((logs[there, p].mean() - logs[here, p]) ** 2))
            assert error < 0.75 * mean, (b, p)


def test_they_are_those_of_the_batches_that_have_them(model):
    found = {b: model.get_normalized("prot", transform_batch=b) for b in ("a", "b")}
    np.testing.assert_allclose(found["a"][:, [0, 1]], found["b"][:, [0, 1]], rtol=1e-4)
    np.testing.assert_allclose(found["a"][:, [2, 3]], found["b"][:, [2, 3]], rtol=1e-4)
    assert not np.allclose(found["a"][:, 4:], found["b"][:, 4:], rtol=0.01)
    i = model.get_predictive_interval("prot", n_samples=30)
    assert np.isfinite(i.mean).all()


class TestABatchOfZeros:
    """Files that join experiments hold zeros where one of them did not measure protein."""

    @pytest.fixture
    def zeros(self, make_mosaic):
        return hide(make_mosaic(), {"b": list(range(8))})

    def test_is_a_batch_without_protein(self, zeros, make_mosaic, make_model, train, caplog):
        with caplog.at_level("WARNING"):
            model = train(make_model(zeros), 1)
        assert "'prot': the cells of 1 batches ('b') have no count of any protein" in caplog.text
        assert model.module.measured_prot.tolist() == [[True] * 8, [False] * 8]
        here = (zeros.obs["donor"] == "b").to_numpy()
        assert (model.get_modality_weights()["prot"][here] == 0).all()
        assert (model.get_reconstruction_error(return_mean=False)["nll_prot"][here] == 0).all()
        expected = make_model(make_mosaic(absent_in={"prot": "b"})).module.encoders["prot"].mean
        torch.testing.assert_close(model.module.encoders["prot"].mean, expected)

    def test_is_one_after_a_file_and_a_second_setup_too(self, zeros, make_model, train, tmp_path):
        model = train(make_model(zeros), 1)
        z = model.get_latent_representation()
        model.save(tmp_path / "model")
        again = TriVI.load(tmp_path / "model", zeros, accelerator="cpu")
        np.testing.assert_array_equal(again.get_latent_representation(), z)
        make_model(zeros)  # after which the first is registered again
        np.testing.assert_array_equal(model.get_latent_representation(), z)
        zeros["rna"].X = zeros["rna"].X.copy()  # and now read again
        np.testing.assert_array_equal(model.get_latent_representation(), z)

    def test_may_have_counts_in_later_data(self, zeros, make_mosaic, make_model, train):
        model = train(make_model(zeros), 1)
        weights = model.get_modality_weights(make_mosaic())["prot"]
        measured = make_mosaic()
        there = measured.obs_names.isin(measured["prot"].obs_names)
        assert (weights[there] > 0).all()

    def test_of_a_query(self, make_mosaic, make_model, train):
        reference = train(make_model(make_mosaic()), 1)
        query = make_mosaic(seed=1)
        query.obs["donor"] = query.obs["donor"].map({"a": "c", "b": "d"})
        query = hide(query, {"d": list(range(8))})
        model = TriVI.load_query_data(query, reference, accelerator="cpu")
        assert model.module.measured_prot.any(1).tolist() == [True, True, True, False]
        here = (query.obs["donor"] == "d").to_numpy()
        assert (model.get_modality_weights()["prot"][here] == 0).all()

    def test_of_cells_with_nothing_else_is_refused(self, zeros, make_model):
        prot = zeros["prot"].obs_names[zeros["prot"].obs["sample"] == "b"]
        for m in ("rna", "atac"):
            zeros.mod[m] = zeros[m][~zeros[m].obs_names.isin(prot[:3])].copy()
        zeros.update()
        with pytest.raises(
            ValueError, match=r"no count of any protein, and 3 of them no other modality.*leave"
        ):
            make_model(zeros)

    def test_all_are_measured_if_the_user_says_so(self, zeros, make_model):
        assert make_model(zeros, setup={"protein_panels": None}).module.measured_prot.all()

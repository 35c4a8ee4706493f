"""The evidence lower bound, put together from its parts."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

ALL = ("rna", "atac", "prot")


@pytest.fixture(scope="module")
def batch(fitted):
    return next(iter(fitted._make_data_loader(fitted.adata, batch_size=40)))


@pytest.fixture
def module(fitted):
    """A copy: tests may put it into training mode."""
    import copy

    return copy.deepcopy(fitted.module)


def run(module, batch, **kwargs):
    return module(batch, inference_kwargs={"noise": torch.zeros(1)}, loss_kwargs=kwargs)


class TestBound:
    def test_is_likelihoods_of_the_measured_rows_and_divergence(self, module, batch):
        inference, generative, out = run(module, batch)
        kl = kl_divergence(inference["qz"], Normal(torch.zeros(1), torch.ones(1))).sum(1)
        torch.testing.assert_close(out.kl_local["kl"], kl, rtol=1e-4, atol=1e-5)
        total = kl.mean()
        for m in ALL:
            expected = torch.zeros(40)
            expected[batch[f"{m}_rows"]] = -module.decoders[m].log_likelihood(generative[m], batch[m])
            torch.testing.assert_close(out.reconstruction_loss[f"nll_{m}"], expected)
            total = total + expected.mean()
        torch.testing.assert_close(out.loss, total)

    def test_weight_of_the_divergence(self, module, batch):
        whole, without = run(module, batch)[2], run(module, batch, kl_weight=0.0)[2]
        torch.testing.assert_close(
            whole.loss - without.loss, whole.kl_local["kl"].mean(), rtol=1e-3, atol=1e-4
        )

    def test_training_adds_alignment_and_the_prior_of_the_peaks(self, make_model, fitted, batch):
        module = make_model(fitted.adata, dropout_rate=0.0, modality_dropout=0.0).module
        evaluated = run(module, batch)[2].loss
        module.train()
        inference, _, out = run(module, batch)
        apart = (inference["expert_means"] - inference["qz"].loc).square().sum(-1)
        aligned = module.alignment * (apart * inference["present"]).sum(0).mean()
        prior = module.decoders["atac"].penalty() / 80
        assert aligned > 0
        assert prior > 0
        torch.testing.assert_close(out.loss, evaluated + aligned + prior)

    def test_alignment_does_not_pull_the_joint_posterior(self, module, batch):
        """The distance to the joint mean has a gradient in the expert alone."""
        module.train()
        torch.manual_seed(0)
        _, _, out = run(module, batch)
        for p in module.parameters():
            p.grad = None
        module.alignment = 0.0
        torch.manual_seed(0)
        _, _, without = run(module, batch)
        (out.loss - without.loss).backward()
        log_variance_bias = module.encoders["rna"].trunk.head.bias.grad[4:]
        np.testing.assert_allclose(log_variance_bias, 0, atol=1e-5)

    def test_one_modality_alone_is_not_aligned(self, make_model, make_mosaic):
        module = make_model(make_mosaic(("rna",)), dropout_rate=0.0).module
        from scvi.module.base import LossOutput

        model_batch = {"batch": torch.zeros(2, dtype=torch.int64), "rna_rows": torch.arange(2)}
        from scipy import sparse

        from mmopt.models.sparse import Csr

        model_batch["rna"] = Csr.of(sparse.csr_matrix(np.ones((2, 30), np.float32)))
        expected = run(module, model_batch)[2]
        found = run(module.train(), model_batch)[2]
        assert isinstance(found, LossOutput)
        torch.testing.assert_close(found.loss, expected.loss)

    def test_gradients_reach_every_parameter(self, module, batch):
        module.train()
        torch.manual_seed(0)
        module(batch)[2].loss.backward()
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            assert p.grad.any(), name


class TestHearing:
    def test_modalities_are_withheld_in_training_only(self, module, batch):
        assert torch.equal(run(module, batch)[0]["heard"], run(module, batch)[0]["present"])
        module.train()
        torch.manual_seed(0)
        found = run(module, batch)[0]
        assert (found["present"] & ~found["heard"]).any()
        assert torch.equal(found["heard"].any(0), found["present"].any(0))

    def test_what_is_withheld_is_still_reconstructed(self, module, batch):
        module.train()
        module.modality_dropout = 1 - 1e-6
        torch.manual_seed(0)
        out = run(module, batch)[2]
        for m in ALL:
            assert (out.reconstruction_loss[f"nll_{m}"][batch[f"{m}_rows"]] > 0).all()

    def test_a_minibatch_without_a_modality(self, fitted, module):
        """All cells of the minibatch may lack it."""
        cells = np.flatnonzero(~fitted.adata.obs_names.isin(fitted.adata["prot"].obs_names))[:6]
        (one,) = fitted._make_data_loader(fitted.adata, indices=cells)
        for training in (True, False):
            _, generative, out = run(module.train(training), one)
            if training:  # decoded all the same, of no cell, so that every parameter takes part in every step
                assert generative["prot"]["log_theta"].shape == (0, 8)
            else:
                assert "prot" not in generative
            assert not out.reconstruction_loss["nll_prot"].any()
            out.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


class TestStart:
    def test_decoding_starts_at_the_profile_of_the_data(self, make_model, dense):
        model = make_model()
        model.is_trained_ = True
        mdata = model.adata
        for m in ("rna", "atac"):
            x = dense(mdata, m)
            profile = x.sum() / x.sum().sum()
            start = model.get_normalized(m)
            start = (start / start.sum(1, keepdims=True)).mean(0)
            assert np.corrcoef(np.log(start), np.log(profile + 1e-4))[0, 1] > 0.9

    def test_statistics_of_each_modality_follow_its_own_rows(self, make_model, make_mosaic):
        """The background of a batch comes from the cells of that batch, whatever the order of the rows."""
        mdata = make_mosaic()
        names = mdata["prot"].obs_names
        donors = mdata.obs["donor"].reindex(names).to_numpy()
        x = mdata["prot"].X.toarray()
        x[donors == "b"] += 50
        mdata["prot"].X = x
        module = make_model(mdata).module
        expected = [np.quantile(np.log1p(x[donors == d]), 0.1, axis=0) for d in ("a", "b")]
        found = module.decoders["prot"].log_background.detach().exp()
        np.testing.assert_allclose(found, np.maximum(np.expm1(expected), 0.1), rtol=1e-4)

    def test_same_seed_same_weights(self, make_model):
        one, same, other = (make_model(random_state=s).module.state_dict() for s in (1, 1, 2))
        assert all(torch.equal(one[k], same[k]) for k in one)
        assert not torch.equal(one["encoders.rna.first.weight"], other["encoders.rna.first.weight"])

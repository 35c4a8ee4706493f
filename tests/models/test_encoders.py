from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmopt.models import components, statistics
from mmopt.models.encoders import (
    CLIP,
    LOG_VARIANCE_RANGE,
    AtacEncoder,
    ProjectedAtacEncoder,
    ProteinEncoder,
    RnaEncoder,
)

ENCODERS = {
    "rna": RnaEncoder,
    "atac": AtacEncoder,
    "projected": partial(ProjectedAtacEncoder, n_components=4),
    "prot": ProteinEncoder,
}


def counts(n=12, p=9, seed=0):
    x = np.random.default_rng(seed).poisson(0.8, (n, p)).astype(np.float32)
    x[3] = 0  # a measured cell without counts
    x[:, 4] = 0  # a feature nobody has
    x[:, 5] += 1  # a feature everybody has
    return x


def encoder(modality, x, dropout_rate=0.0, **kwargs):
    """Encoder with the scales of the data, as the model sets them."""
    torch.manual_seed(0)
    made = ENCODERS[modality](x.shape[1], 16, 3, dropout_rate, **kwargs)
    x = sp.csr_matrix(x)
    found = (
        statistics.protein(x, np.zeros(x.shape[0], int), np.ones((1, x.shape[1]), bool))
        if modality == "prot"
        else getattr(statistics, modality.replace("projected", "atac"))(x)
    )
    if modality == "projected":
        made.components.copy_(torch.as_tensor(components.leading(x, found, 4)))
    for name in ("mean", "scale", "idf"):
        if name in found:
            getattr(made, name).copy_(torch.as_tensor(found[name]))
    if "idf" in found:
        made.centre()
    return made.eval()


def tf_idf(x, idf):
    """Binary TF-IDF as the docstring of AtacEncoder defines it."""
    binary = x > 0
    return np.log1p(1e4 * binary / np.maximum(binary.sum(1, keepdims=True), 1) * idf)


class TestNormalisation:
    def normalised(self, made, x):
        """What the input is before it is standardised."""
        return made.standardised(x) * made.scale + made.mean

    def test_rna_is_log_counts_per_ten_thousand(self, to_csr):
        x = counts(40)
        expected = np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1))
        np.testing.assert_allclose(
            self.normalised(encoder("rna", x), to_csr(x)), expected, rtol=1e-4, atol=1e-5
        )

    def test_protein_is_the_centred_log_ratio(self, to_csr):
        x = counts(40)
        logs = np.log1p(x)
        found = self.normalised(encoder("prot", x), to_csr(x)).numpy()
        np.testing.assert_allclose(found, logs - logs.mean(1, keepdims=True), atol=1e-5)
        np.testing.assert_allclose(found.sum(1), 0, atol=1e-4)

    @pytest.mark.parametrize("modality", ["rna", "prot"])
    def test_inputs_are_standardised_and_clipped(self, to_csr, modality):
        x = counts(60)
        made = encoder(modality, x)
        seen = []
        made.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        made(to_csr(x))
        np.testing.assert_allclose(seen[0].mean(0), 0, atol=1e-4)
        outlier = x.copy()
        outlier[0, 4] = 1e4  # far beyond anything seen
        made(to_csr(outlier))
        assert float(seen[1][0, 4]) == CLIP
        assert seen[1].abs().max() <= CLIP


class TestAtac:
    def dense(self, made, x):
        """The same encoder, computed on the standardised dense matrix with no bias."""
        standardised = (tf_idf(x, made.idf.numpy()) - made.mean.numpy()) / made.scale.numpy()
        hidden = torch.as_tensor(np.minimum(standardised, CLIP), dtype=torch.float32) @ made.weight
        return standardised, made.trunk(hidden)

    def test_equals_the_dense_computation(self, to_csr):
        x = counts(40)
        made = encoder("atac", x)
        assert made.weight.shape == (9, 16)
        np.testing.assert_allclose(made.idf, np.log1p(40 / np.maximum((x > 0).sum(0), 1)), rtol=1e-6)
        _, expected = self.dense(made, x)
        for one, other in zip(made(to_csr(x)), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_clips_from_above_as_the_dense_computation(self, to_csr):
        x = counts(40)
        made = encoder("atac", x)
        x[7, 4] = 1  # a peak that was closed in all cells the scales came from
        standardised, expected = self.dense(made, x)
        assert standardised[7, 4] > CLIP
        for one, other in zip(made(to_csr(x)), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def test_counts_beyond_one_change_nothing(self, to_csr):
        x = counts()
        made = encoder("atac", x)
        for one, other in zip(made(to_csr(x)), made(to_csr(np.minimum(x, 1))), strict=True):
            assert torch.equal(one, other)

    def test_path_without_gradients_equals_the_path_with(self, to_csr):
        x = to_csr(counts())
        made = encoder("atac", counts())
        with torch.no_grad():
            fast = made(x)
        for one, other in zip(fast, made(x), strict=True):
            torch.testing.assert_close(one, other)

    def test_training_path_gives_the_same_gradients(self, to_csr):
        x = to_csr(counts())
        made = encoder("atac", counts())
        gradients = []
        for training in (True, False):
            made.train(training).zero_grad()
            sum(t.square().sum() for t in made(x)).backward()
            gradients.append({name: p.grad.clone() for name, p in made.named_parameters()})
        for name in gradients[0]:
            torch.testing.assert_close(gradients[0][name], gradients[1][name], msg=name)

    def test_input_dropout_keeps_the_expectation(self, to_csr):
        x = to_csr(counts())
        made = encoder("atac", counts(), dropout_rate=0.5)
        hidden = []
        made.trunk.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
        made(x)
        made.train()
        torch.manual_seed(0)
        for _ in range(100):
            made(x)
        drawn = torch.stack(hidden[1:])
        assert drawn.std(0)[0].min() > 0
        error = drawn.std(0) / 100**0.5
        assert ((drawn.mean(0) - hidden[0]).abs() <= 5 * error + 1e-4).all()


class TestProjected:
    def dense(self, made, x):
        standardised = (tf_idf(x, made.idf.numpy()) - made.mean.numpy()) / made.scale.numpy()
        return np.minimum(standardised, CLIP) @ made.components.numpy()

    def test_equals_the_dense_computation(self, to_csr):
        x = counts(40)
        made = encoder("projected", x)
        projected = self.dense(made, x)
        np.testing.assert_allclose(made.project(to_csr(x)), projected, rtol=1e-4, atol=1e-5)
        expected = made.trunk(made.first(torch.as_tensor(projected, dtype=torch.float32)))
        for one, other in zip(made(to_csr(x)), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_components_are_those_of_the_standardised_data(self):
        x = counts(40)
        made = encoder("projected", x)
        values = tf_idf(x, made.idf.numpy()) / made.scale.numpy()
        right = np.linalg.svd(values, full_matrices=False)[2]
        found = made.components.numpy().astype(np.float64)
        lengths = np.linalg.norm(found, axis=0)
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-4)  # one scale for all
        np.testing.assert_allclose(np.abs(right[:4] @ (found / lengths)), np.eye(4), atol=2e-3)
        np.testing.assert_allclose(self.dense(made, x).var(0).mean(), 1, rtol=1e-3)

    def test_few_cells_have_few_components_and_none_have_none(self):
        x = sp.csr_matrix(counts()[:3])
        assert components.leading(x, statistics.atac(x), 4).shape == (9, 2)
        assert components.leading(x[:1], statistics.atac(x), 4).shape == (9, 0)

    def test_a_sample_of_many_cells_lies_over_all_of_them(self):
        cells = components._sample(100_000)
        assert len(cells) == components.CELLS == len(set(cells))
        assert cells[0] == 0 and cells[-1] == 99_999
        near_the_limit = components._sample(components.CELLS + 1)
        assert len(set(near_the_limit)) == components.CELLS and near_the_limit.max() == components.CELLS

    def test_what_is_kept_is_what_would_be_computed(self, to_csr):
        x = counts(40)
        made = encoder("projected", x)
        made.keep(40)
        at, other = torch.arange(3, 20), torch.arange(10, 30)
        for rows in (at, other, at):
            for one, expected in zip(made(to_csr(x[rows]), rows), made(to_csr(x[rows])), strict=True):
                torch.testing.assert_close(one, expected)
        made.normalise = None  # nothing is computed any more
        made(to_csr(x[at]), at)
        made.forget()
        with pytest.raises(TypeError):
            made(to_csr(x[at]), at)

    def test_the_components_are_not_learned(self, to_csr):
        x = counts()
        made = encoder("projected", x)
        assert {name.split(".")[0] for name, _ in made.named_parameters()} == {"first", "trunk"}


@pytest.mark.parametrize("modality", ENCODERS)
class TestEveryEncoder:
    def test_an_empty_minibatch_passes(self, to_csr, modality):
        made = encoder(modality, counts())
        for training in (True, False):
            mean, log_variance = made.train(training)(to_csr(np.zeros((0, 9), np.float32)))
            assert mean.shape == log_variance.shape == (0, 3)

    def test_rows_do_not_see_each_other(self, to_csr, modality):
        x = counts()
        made = encoder(modality, x)
        together, alone = made(to_csr(x)), made(to_csr(x[[3, 7]]))
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[[3, 7]], other)

    def test_a_cell_without_counts_has_a_finite_expert(self, to_csr, modality):
        made = encoder(modality, counts())
        assert all(torch.isfinite(t).all() for t in made(to_csr(np.zeros((1, 9), np.float32))))

    def test_log_variance_stays_in_its_range(self, to_csr, modality):
        made = encoder(modality, counts())
        with torch.no_grad():
            made.trunk.head.weight.mul_(1e4)
        _, log_variance = made(to_csr(counts()))
        assert (log_variance.min(), log_variance.max()) == LOG_VARIANCE_RANGE

    def test_second_derivatives_exist(self, to_csr, modality):
        made = encoder(modality, counts())
        parameters = list(made.parameters())
        value = sum(t.square().sum() for t in made(to_csr(counts())))
        first = torch.autograd.grad(value, parameters, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters)
        assert all(torch.isfinite(t).all() for t in second)
        assert any(t.any() for t in second)

import numpy as np
import pytest
import scipy.sparse as sp

from mmopt.models import statistics, stored


@pytest.fixture
def x():
    x = np.random.default_rng(0).poisson(1.5, (40, 7)).astype(np.float32)
    x[3] = 0
    x[:, 2] = 0
    return x


def test_moments_equal_numpy(x):
    moments = statistics.Moments(7)
    for rows in (x[:13], x[13:]):
        moments.add(sp.csr_matrix(rows), sp.csr_matrix(rows).data.astype(float))
    found = moments.mean_and_scale()
    np.testing.assert_allclose(found["mean"], x.mean(0, dtype=float))
    np.testing.assert_allclose(
        found["scale"], np.maximum(x.std(0, dtype=float), statistics.MIN_SCALE), rtol=1e-9
    )


def test_log_profile_is_a_distribution_and_follows_the_totals(x):
    profile = np.exp(statistics.log_profile(statistics.column_sums(sp.csr_matrix(x))))
    assert profile.sum() == pytest.approx(1)
    np.testing.assert_allclose(profile, (x.sum(0) + 0.5) / (x.sum() + 0.5 * 7), rtol=1e-6)


@pytest.mark.parametrize("statistic", [statistics.rna, statistics.atac])
def test_block_by_block_is_the_same(x, statistic, monkeypatch):
    whole = statistic(sp.csr_matrix(x))
    monkeypatch.setattr(stored, "BLOCK", 11)  # less than two rows
    for name, value in statistic(sp.csr_matrix(x)).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-12)


def test_rna(x):
    found = statistics.rna(sp.csr_matrix(x))
    logs = np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1))
    np.testing.assert_allclose(found["mean"], logs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["scale"], np.maximum(logs.std(0), statistics.MIN_SCALE), rtol=1e-4)
    np.testing.assert_array_equal(found["totals"], x.sum(1))


def test_atac(x):
    found = statistics.atac(sp.csr_matrix(x))
    binary = x > 0
    idf = np.log1p(40 / np.maximum(binary.sum(0), 1))
    values = np.log1p(1e4 * binary / np.maximum(binary.sum(1, keepdims=True), 1) * idf)
    np.testing.assert_allclose(found["idf"], idf)
    np.testing.assert_allclose(found["mean"], values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["scale"], np.maximum(values.std(0), statistics.MIN_SCALE), rtol=1e-6)
    np.testing.assert_array_equal(found["totals"], x.sum(1))


class TestProtein:
    batch = np.arange(40) % 2

    def test_background_belongs_to_the_batch(self, x):
        x[self.batch == 1] += 20
        found = statistics.protein(sp.csr_matrix(x), self.batch, np.ones((3, 7), bool))
        logs = np.log1p(x.astype(float))
        for b, cells in ((0, self.batch == 0), (1, self.batch == 1), (2, slice(None))):  # batch 2 has no cell
            expected = np.maximum(np.expm1(np.quantile(logs[cells], 0.1, axis=0)), 0.1)
            np.testing.assert_allclose(np.exp(found["log_background"][b]), expected)
        ratio = logs - logs.mean(1, keepdims=True)
        np.testing.assert_allclose(found["mean"], ratio.mean(0))
        np.testing.assert_allclose(found["scale"], ratio.std(0))
        low, high = np.quantile(logs, [0.1, 0.9], axis=0)
        np.testing.assert_allclose(found["step"], np.maximum(high - low, 0.1))

    def test_what_a_batch_did_not_measure_counts_nowhere(self, x):
        measured = np.ones((2, 7), bool)
        measured[0, 4] = measured[1, :2] = False
        fake = x.copy()
        fake[~measured[self.batch]] = 0  # what the file holds there
        found = statistics.protein(sp.csr_matrix(fake), self.batch, measured)
        logs = np.where(measured[self.batch], np.log1p(x.astype(float)), np.nan)
        ratio = logs - np.nanmean(logs, 1, keepdims=True)
        np.testing.assert_allclose(found["mean"], np.nanmean(ratio, 0))
        np.testing.assert_allclose(found["scale"], np.maximum(np.nanstd(ratio, 0), statistics.MIN_SCALE))
        low, high = np.nanquantile(logs, [0.1, 0.9], axis=0)
        np.testing.assert_allclose(found["step"], np.maximum(high - low, 0.1))
        for b in (0, 1):
            own = np.quantile(logs[self.batch == b], 0.1, axis=0)
            expected = np.maximum(np.expm1(np.where(measured[b], own, low)), 0.1)
            np.testing.assert_allclose(np.exp(found["log_background"][b]), expected)

    def test_large_data_are_sampled_from_every_batch(self, x, monkeypatch):
        rows = np.repeat(np.arange(40), 50)
        batch = np.repeat([0, 1], [1990, 10])  # a small batch must not be lost
        monkeypatch.setattr(statistics, "QUANTILE_CELLS", 100)
        found = statistics.protein(sp.csr_matrix(x[rows]), batch, np.ones((2, 7), bool))
        assert np.isfinite(found["log_background"]).all()
        expected = np.quantile(np.log1p(x[rows[batch == 1]].astype(float)), 0.1, axis=0)
        np.testing.assert_allclose(np.exp(found["log_background"][1]), np.maximum(np.expm1(expected), 0.1))

    def test_counts_are_not_written_into(self, x):
        matrix = sp.csr_matrix(x)
        before = matrix.copy()
        measured = np.ones((2, 7), bool)
        measured[1, 0] = False
        for call in (statistics.rna, statistics.atac, lambda m: statistics.protein(m, self.batch, measured)):
            call(matrix)
            assert (matrix != before).nnz == 0

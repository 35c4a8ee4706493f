import tracemalloc

import numpy as np
from scipy import sparse

from mmopt.grn.pooling import log_ratio, per_ten_thousand, plain_embedding, pool_counts


def test_pools_are_sums_over_the_nearest_measured_cells():
    rng = np.random.default_rng(0)
    counts, embedding = rng.poisson(2, (40, 5)), rng.standard_normal((60, 3))
    where = np.sort(rng.permutation(60)[:40])
    query = np.array([0, 7, 59])
    got = pool_counts(sparse.csr_matrix(counts), where, embedding, query, 6)
    for row, cell in zip(got, query, strict=True):
        near = np.argsort(np.linalg.norm(embedding[where] - embedding[cell], axis=1))[:6]
        np.testing.assert_array_equal(row, counts[near].sum(0))
    np.testing.assert_array_equal(pool_counts(counts, where, embedding, query, 6), got)
    everything = pool_counts(counts, where, embedding, query, 999)
    np.testing.assert_array_equal(everything, np.tile(counts.sum(0), (3, 1)))


def test_only_some_may_be_pooled():
    rng = np.random.default_rng(2)
    counts, embedding = rng.poisson(2, (40, 5)), rng.standard_normal((60, 3))
    where, among, query = np.arange(5, 45), np.arange(1, 40, 3), np.array([0, 30])
    expected = pool_counts(counts[among], where[among], embedding, query, 4)
    for form in (counts, sparse.csr_matrix(counts)):
        np.testing.assert_array_equal(pool_counts(form, where, embedding, query, 4, among), expected)
        everything = pool_counts(form, where, embedding, query, 999, among)
        np.testing.assert_array_equal(everything, np.tile(counts[among].sum(0), (2, 1)))


def test_counts_that_are_in_no_pool_are_not_copied():
    counts = sparse.random(20_000, 50, 1.0, "csr", dtype=np.float32, random_state=0)  # 8 MB
    embedding = np.arange(20_000.0)[:, None]
    tracemalloc.start()
    pool_counts(counts, np.arange(20_000), embedding, np.arange(5), 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


def test_scales():
    counts = np.array([[1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(per_ten_thousand(counts), [[2500, 7500], [0, 0]])
    ratio = log_ratio(np.array([[0.0, 5.0, 20.0]]))
    np.testing.assert_allclose(ratio.sum(), 0, atol=1e-12)
    np.testing.assert_allclose(ratio[0, 2] - ratio[0, 1], np.log(21 / 6))


def test_modalities_weigh_the_same_in_the_embedding_of_last_resort():
    rng = np.random.default_rng(1)
    parts = [100 * rng.standard_normal((50, 30)), rng.standard_normal((50, 4))]
    embedding = plain_embedding(parts, n_dims=10)
    assert embedding.shape == (50, 13)
    sizes = [(block**2).sum(1).mean() for block in (embedding[:, :10], embedding[:, 10:])]
    np.testing.assert_allclose(sizes, 1)

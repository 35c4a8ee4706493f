import numpy as np
import pytest
from scipy import sparse

from mmopt.metrics import knn_accuracy, pca_embedding


def naive_scores(x, n_components, centre=True, skip=0):
    u, s, _ = np.linalg.svd(x - x.mean(0) if centre else x, full_matrices=False)
    scores = (u * s)[:, skip : skip + n_components]
    return scores / np.sqrt((scores**2).sum(1).mean())


def normalised(x):
    return np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1))


NAIVE = {
    "rna": lambda x: naive_scores(normalised(x), 4),
    "prot": lambda x: naive_scores(np.log1p(x) - np.log1p(x).mean(1, keepdims=True), 4),
    "atac": lambda x: naive_scores(
        np.log1p(1e4 * (x > 0) / (x > 0).sum(1, keepdims=True) * len(x) / np.maximum((x > 0).sum(0), 1)),
        4,
        centre=False,
        skip=1,
    ),
}


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 60)
    x = rng.poisson(rng.gamma(1, 2, (3, 25))[kind])
    return x.astype(float), kind


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_array])
@pytest.mark.parametrize("role", NAIVE)
def test_against_a_dense_decomposition(counts, role, kind):
    x, _ = counts
    found, expected = pca_embedding({role: kind(x)}, n_components=4), NAIVE[role](x)
    assert found.shape == (60, 4)
    # components are defined up to their sign
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)


def test_absent_cells_are_zero_and_the_rest_lies_where_positions_say(counts):
    x, _ = counts
    rna, prot = np.arange(60), np.full(60, -1)
    prot[20:50] = np.arange(30)[::-1]
    found = pca_embedding({"rna": x, "prot": x[:30]}, {"rna": rna, "prot": prot}, n_components=4)
    assert found.shape == (60, 8)
    np.testing.assert_array_equal(found[:, :4], pca_embedding({"rna": x}, n_components=4))
    np.testing.assert_array_equal(found[20:50, 4:], pca_embedding({"prot": x[:30]}, n_components=4)[::-1])
    assert (found[np.r_[:20, 50:60], 4:] == 0).all()


def test_modalities_have_equal_weight(counts):
    x, _ = counts
    found = pca_embedding({"rna": x, "atac": x * 0 + (x > 1), "prot": x * 100}, n_components=3)
    assert [(found[:, i : i + 3] ** 2).sum(1).mean() for i in (0, 3, 6)] == pytest.approx([1, 1, 1])


def test_it_separates_what_is_separate(counts):
    x, kind = counts
    assert knn_accuracy(pca_embedding({"rna": x}, n_components=2), kind, k=5) > 0.95


def test_small_modalities_and_empty_cells(counts):
    x, _ = counts
    x = x[:, :5].copy()
    x[0] = 0
    found = pca_embedding({"rna": x, "atac": x, "prot": x})
    assert found.shape == (60, 4 + 3 + 4)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("role", NAIVE)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_cells_that_are_all_alike_are_zeros(counts, role, kind):
    x, _ = counts
    alike = np.tile([1.0, 2.0, 3.0, 7.0], (60, 1))
    found = pca_embedding({"rna": x, role: kind(alike)} if role != "rna" else {role: kind(alike)})
    np.testing.assert_array_equal(found[:, 20 if role != "rna" else 0 :], 0)


def test_same_result_every_time(counts):
    x, _ = counts
    np.testing.assert_array_equal(pca_embedding({"rna": x}), pca_embedding({"rna": x}))


def test_refusals(counts):
    x, _ = counts
    with pytest.raises(TypeError, match=r'counts: a mapping .*"rna": mdata\["rna"\].*, not ndarray'):
        pca_embedding(x)
    with pytest.raises(ValueError, match=r"unknown modalities \['gex'\]: give some of rna, atac, prot"):
        pca_embedding({"gex": x})
    with pytest.raises(ValueError, match=r"different numbers of cells .*give `positions`"):
        pca_embedding({"rna": x, "prot": x[1:]})
    with pytest.raises(ValueError, match="prot has 60 cells × 2 features; 3 of each are needed"):
        pca_embedding({"prot": x[:, :2]})

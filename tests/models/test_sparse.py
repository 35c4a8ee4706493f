import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
    elements=st.sampled_from([0.0, 0.0, 1.0, 2.0, 7.0]),
)


@settings(deadline=None, max_examples=60)
@given(x=matrices)
def test_equals_the_dense_matrix(to_csr, x):
    csr = to_csr(x)
    np.testing.assert_array_equal(csr.dense(x.shape[1]), x)
    np.testing.assert_array_equal(csr.lengths, (x != 0).sum(1))
    np.testing.assert_array_equal(csr.rows, np.nonzero(x)[0])
    np.testing.assert_array_equal(csr.totals(), x.sum(1))
    vectors = torch.stack([csr.counts, csr.counts**2], 1)
    np.testing.assert_array_equal(csr.row_sums(vectors), np.stack([x.sum(1), (x**2).sum(1)], 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_keeps_the_precision_of_the_counts(to_csr, dtype):
    x = np.array([[0, 1 / 3], [0, 0]], dtype)
    np.testing.assert_array_equal(to_csr(x).dense(2).numpy(), x, strict=True)


def test_gradients_reach_the_values(to_csr):
    csr = to_csr(np.array([[1.0, 0, 2], [0, 0, 0], [0, 3, 0]], np.float32))
    values = torch.ones(3, requires_grad=True)
    (csr.row_sums(values) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad.tolist() == [1, 1, 100]


def test_repeated_indices_are_not_lost_by_sums(to_csr):
    csr = to_csr(np.array([[1.0, 2.0]], np.float32))
    assert csr.row_sums(torch.tensor([5.0, 6.0])).tolist() == [11]


@settings(deadline=None, max_examples=40)
@given(x=matrices, seed=st.integers(0, 99))
def test_products_equal_the_dense_ones(to_csr, x, seed):
    n, p = x.shape
    if not n or not p:
        return
    csr, generator = to_csr(x), torch.Generator().manual_seed(seed)
    matrix = torch.randn(p, 3, generator=generator, requires_grad=True)
    values = csr.counts + 1
    changed = torch.as_tensor(np.where(x > 0, x + 1, 0))
    product = csr.product(values, matrix)
    torch.testing.assert_close(product, changed @ matrix)
    upstream = torch.randn(n, 3, generator=generator)
    (gradient,) = torch.autograd.grad(product, matrix, upstream)
    torch.testing.assert_close(gradient, changed.T @ upstream)
    torch.testing.assert_close(csr.transposed_product(upstream, p), torch.as_tensor(x).T @ upstream)

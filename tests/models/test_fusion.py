from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from mmopt.models.fusion import drop_modalities, precision_shares, product_of_experts

presences = hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 12)))


def experts(seed=0, n_cells=5, n_latent=3):
    rng = np.random.default_rng(seed)
    shape = (3, n_cells, n_latent)
    present = torch.from_numpy(rng.random(shape[:2]) < 0.6)
    present[:, 0] = False
    return torch.from_numpy(rng.normal(0, 1, shape)), torch.from_numpy(rng.normal(0, 1, shape)), present


def test_product_equals_the_normalised_product_of_densities():
    means, log_variances, present = experts()
    mean, variance = product_of_experts(means, log_variances, present)
    grid = np.linspace(-12, 12, 20001)
    for cell in range(means.shape[1]):
        for d in range(means.shape[2]):
            density = stats.norm.pdf(grid)  # the prior
            for m in np.flatnonzero(present[:, cell]):
                density = density * stats.norm.pdf(
                    grid, float(means[m, cell, d]), float(log_variances[m, cell, d].div(2).exp())
                )
            density /= density.sum()
            first = (density * grid).sum()
            assert float(mean[cell, d]) == pytest.approx(first, abs=1e-6)
            assert float(variance[cell, d]) == pytest.approx((density * (grid - first) ** 2).sum(), abs=1e-6)


def test_no_expert_leaves_the_prior_whatever_stands_in_its_place():
    means, log_variances = torch.full((2, 1, 3), 1e6), torch.full((2, 1, 3), -8.0)
    mean, variance = product_of_experts(means, log_variances, torch.zeros(2, 1, dtype=torch.bool))
    assert mean.tolist() == [[0, 0, 0]]
    assert variance.tolist() == [[1, 1, 1]]


def test_order_of_experts_does_not_matter():
    means, log_variances, present = experts(1)
    forwards = product_of_experts(means, log_variances, present)
    backwards = product_of_experts(means.flip(0), log_variances.flip(0), present.flip(0))
    for one, other in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(one, other)


def test_more_experts_are_never_less_sure():
    means, log_variances, _ = experts(2)
    variances = [
        product_of_experts(means, log_variances, (torch.arange(3) < k)[:, None].expand(3, 5))[1]
        for k in range(4)
    ]
    assert all((b < a).all() for a, b in pairwise(variances))


@settings(deadline=None, max_examples=50)
@given(present=presences, seed=st.integers(0, 1000))
def test_shares_sum_to_one_and_are_zero_where_absent(present, seed):
    log_variances = torch.from_numpy(np.random.default_rng(seed).uniform(-8, 6, (*present.shape, 4)))
    shares = precision_shares(log_variances, torch.from_numpy(present)).numpy()
    assert (shares[~present] == 0).all()
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(0), present.any(0).astype(float), atol=1e-12)


def test_share_is_the_share_of_the_precision():
    log_variances = torch.tensor([0.0, np.log(0.25)]).reshape(2, 1, 1)
    shares = precision_shares(log_variances, torch.ones(2, 1, dtype=torch.bool))
    assert shares[:, 0].tolist() == pytest.approx([0.2, 0.8])


@settings(deadline=None, max_examples=100)
@given(present=presences, probability=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_dropping_never_adds_and_never_leaves_a_cell_without(present, probability, seed):
    present = torch.from_numpy(present)
    torch.manual_seed(seed)
    kept = drop_modalities(present, probability)
    assert kept.dtype == torch.bool
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(0), present.any(0))


def test_dropping_happens_with_its_probability_and_for_each_modality_alone():
    torch.manual_seed(0)
    present = torch.ones(3, 40_000, dtype=torch.bool)
    kept = drop_modalities(present, 0.3).double()
    # all three are hidden, and therefore kept, in 0.3**3 of the cells
    expected = 1 - 0.3 + 0.3**3
    np.testing.assert_allclose(kept.mean(1), expected, atol=0.01)
    assert float((kept[0] * kept[1]).mean()) == pytest.approx(0.7**2 + 0.3**3, abs=0.01)
    assert torch.equal(drop_modalities(present, 0.0), present)
    assert torch.equal(drop_modalities(present, 1.0), present)

"""The vote against a naive float64 count, and what the sample of a large model may and may not do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt.optim.agreement import BLOCK, _stride, agreement

ALL = 2**24


def naive(gradients, momenta):
    """Mean over all real coordinates of sign(g) * sign(n), NaN voting for nothing, in numpy."""

    def coordinates(tensors):
        flat = [torch.view_as_real(x).flatten() if x.is_complex() else x.flatten() for x in tensors]
        return np.nan_to_num(np.sign(torch.cat([x.double() for x in flat]).numpy()))

    votes = coordinates(gradients) * coordinates(momenta)
    return votes.mean(), float((votes != 0).any())


def random_tensors(shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


FINITE = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_numbers_count_by_their_sign(pairs):
    g, n = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    heard = agreement([g], [n], turn=1, max_votes=ALL)
    assert heard.tolist() == pytest.approx(naive([g], [n]), abs=1e-6)
    assert -1 <= heard[0] <= 1


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
def test_precisions(dtype):
    gradients, momenta = (random_tensors([(30, 40), (40,), ()], seed, torch.float32) for seed in (0, 1))
    if dtype.is_complex:
        gradients, momenta = (
            [torch.complex(x, x.flip(0) if x.ndim else -x) for x in xs] for xs in (gradients, momenta)
        )
    gradients, momenta = ([x.to(dtype) for x in xs] for xs in (gradients, momenta))
    assert agreement(gradients, momenta, turn=1, max_votes=ALL).tolist() == pytest.approx(
        naive(gradients, momenta), abs=1e-7
    )


def test_numbers_whose_product_leaves_the_range_still_vote():
    g, n = torch.tensor([1e-30, -1e-30, 1e30, float("inf")]), torch.tensor([1e-30, -1e-30, 1e30, 0.0])
    assert agreement([g], [n], turn=1, max_votes=ALL).tolist() == [0.75, 1.0]


def test_nobody_votes_on_zeros():
    assert agreement([torch.zeros(3)], [torch.ones(3)], turn=1, max_votes=ALL).tolist() == [0.0, 0.0]
    assert agreement([torch.zeros(0)], [torch.zeros(0)], turn=1, max_votes=ALL).tolist() == [0.0, 0.0]


def test_the_arguments_stay_as_they_were():
    gradients, momenta = random_tensors([(7, 5)]), random_tensors([(7, 5)], 1)
    before = [x.clone() for x in gradients + momenta]
    agreement(gradients, momenta, turn=1, max_votes=ALL, maximize=True, weight_decay=0.1, parameters=momenta)
    agreement(gradients, momenta, turn=1, max_votes=2)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients + momenta, strict=True))


def test_maximising_and_coupled_weight_decay_change_the_gradient_that_votes():
    gradients, momenta, parameters = (random_tensors([(50,), (4, 9)], seed) for seed in range(3))
    effective = [-g + 0.7 * p for g, p in zip(gradients, parameters, strict=True)]
    heard = agreement(
        gradients, momenta, turn=1, max_votes=ALL, maximize=True, weight_decay=0.7, parameters=parameters
    )
    assert heard[0].item() == pytest.approx(naive(effective, momenta)[0], abs=1e-7)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_and_cuts_do_not_matter_below_the_limit(cuts, random):
    (g,), (n,) = random_tensors([(201,)], 0), random_tensors([(201,)], 1)
    whole = agreement([g], [n], turn=1, max_votes=ALL)
    sizes = np.diff([0, *sorted(cuts), 201]).tolist()
    order = random.sample(range(len(sizes)), len(sizes))
    pieces = [[x.split(sizes)[i] for i in order] for x in (g, n)]
    assert torch.equal(agreement(*pieces, turn=5, max_votes=ALL), whole)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided", "channels_last"])
def test_memory_layout_does_not_matter(layout):
    (g,), (n,) = random_tensors([(8, 6, 4, 2)], 0), random_tensors([(8, 6, 4, 2)], 1)
    change = {
        "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
        "expanded": lambda x: x[:, :1, :1, :1].expand_as(x),
        "strided": lambda x: torch.stack([x, -x], -1)[..., 0],
        "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    }[layout]
    expected = naive([change(g)], [n])
    for max_votes in (ALL, 64):
        heard = agreement([change(g)], [n], turn=1, max_votes=max_votes)
        whole = agreement([change(g).contiguous()], [n], turn=1, max_votes=max_votes)
        assert torch.equal(heard, whole)
    assert agreement([change(g)], [n], turn=1, max_votes=ALL)[0].item() == pytest.approx(
        expected[0], abs=1e-7
    )


def test_the_sample_is_the_mean_of_all_when_all_turns_are_heard():
    stride = 5
    shapes = [
        (4 * stride * BLOCK,),
        (stride * BLOCK, 3),
        (6,),
    ]  # two that are cut into whole strides, one heard in full
    gradients, momenta = random_tensors(shapes, 0), random_tensors(shapes, 1)
    max_votes = sum(g.numel() for g in gradients) // stride + 1
    turns = [agreement(gradients, momenta, turn=t, max_votes=max_votes)[0].item() for t in range(stride)]
    assert len(set(turns)) > 1
    # the small tensor is heard every time, with the weight of one
    assert np.mean(turns) == pytest.approx(naive(gradients, momenta)[0], abs=1e-6)


@pytest.mark.parametrize("size", [100_003, 262_144, 999_999])
def test_the_sample_is_close_to_all(size):
    generator = torch.Generator().manual_seed(1)
    n = torch.randn(size, generator=generator)
    g = torch.randn(size, generator=generator) + 0.1 * n
    everything = agreement([g], [n], turn=0, max_votes=ALL)[0]
    sampled = torch.stack([agreement([g], [n], turn=t, max_votes=2**14)[0] for t in range(20)])
    error = (sampled - everything).abs()
    assert error.max() < 4 * (1 / 2**14) ** 0.5
    assert error.max() > 0


@pytest.mark.parametrize("max_votes", [50, 300, 5000])
def test_a_turn_on_the_device_hears_the_same_coordinates(max_votes):
    gradients, momenta = (random_tensors([(70, 90), (1, 700), (3,)], seed) for seed in (0, 1))
    for turn in (0, 1, 17, 10_000_019):
        assert torch.equal(
            agreement(gradients, momenta, turn=turn, max_votes=max_votes),
            agreement(gradients, momenta, turn=torch.tensor(turn), max_votes=max_votes),
        )


def test_every_whole_block_is_heard_in_time():
    size, max_votes = 23 * BLOCK + 5, 4 * BLOCK
    heard = torch.zeros(23, dtype=torch.bool)
    for turn in range(200):
        for block in range(23):
            g = torch.zeros(size)
            g[block * BLOCK] = 1.0
            if not heard[block]:
                heard[block] = agreement([g], [torch.ones(size)], turn=turn, max_votes=max_votes)[1] > 0
    assert heard.all()


@given(st.integers(1, 10**9), st.integers(1, 10**6))
@settings(max_examples=100, deadline=None)
def test_the_stride_is_one_or_prime_and_large_enough(size, max_votes):
    stride = _stride(size, max_votes)
    if size <= max_votes:
        assert stride == 1
    else:
        assert size / stride <= max_votes
        assert all(stride % d for d in range(2, int(stride**0.5) + 1))

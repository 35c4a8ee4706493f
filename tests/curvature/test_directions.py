import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt.curvature import difference, orthogonalise, random_direction


def network(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"encoder.weight": (6, 4), "encoder.bias": (6,), "conv": (3, 2, 5), "theta": ()}
    return {n: torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for n, s in shapes.items()}


def row_norms(tensor):
    return tensor.flatten(1).norm(dim=1)


@settings(deadline=None)  # the first call pays for what torch loads late
@given(st.integers(0, 2**31))
def test_filter_norms_equal_those_of_every_row(seed):
    params = network(seed)
    direction = random_direction(params, random_state=seed)
    for name in ("encoder.weight", "conv"):
        torch.testing.assert_close(row_norms(direction[name]), row_norms(params[name]), rtol=1e-12, atol=0)
    assert not direction["encoder.bias"].any() and not direction["theta"].any()


def test_what_counts_as_a_filter_can_be_said_by_name():
    params = network()
    axes = {"encoder.weight": 1, "conv": None, "not there": 0}
    direction = random_direction(params, filter_axes=axes)
    columns, expected = (x["encoder.weight"].detach().norm(dim=0) for x in (direction, params))
    torch.testing.assert_close(columns, expected, rtol=1e-12, atol=0)
    assert not direction["conv"].any() and not direction["encoder.bias"].any()


def test_an_integer_of_numpy_is_a_seed_like_another():
    params = network()
    direction, same = (random_direction(params, random_state=seed) for seed in (1, np.int64(1)))
    assert all(torch.equal(direction[name], same[name]) for name in params)


def test_vectors_can_be_matched_as_a_whole():
    params = network()
    direction = random_direction(params, vectors="match")
    torch.testing.assert_close(direction["encoder.bias"].norm(), params["encoder.bias"].norm().detach())
    torch.testing.assert_close(direction["theta"].abs(), params["theta"].abs().detach())


def test_layer_normalisation_matches_whole_weights_but_not_rows():
    params = network()
    direction = random_direction(params, normalize="layer")
    torch.testing.assert_close(direction["conv"].norm(), params["conv"].norm().detach())
    assert not torch.allclose(row_norms(direction["conv"]), row_norms(params["conv"]))


def test_no_normalisation_leaves_the_gaussian_draw_everywhere():
    big = {"w": torch.full((300, 300), 7.0), "b": torch.full((10_000,), 7.0)}
    direction = random_direction(big, normalize="none")
    assert all(abs(float(d.std()) - 1) < 0.03 and abs(float(d.mean())) < 0.04 for d in direction.values())


def test_a_zero_row_stays_put():
    assert not random_direction({"w": torch.zeros(2, 3)})["w"].any()


def test_the_draw_depends_on_the_seed_alone():
    state = torch.get_rng_state()
    single, double = (
        random_direction(network(dtype=d), normalize="none") for d in (torch.float32, torch.float64)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(single[n].double(), double[n]) for n in single)
    other = random_direction(network(), normalize="none", random_state=1)
    assert not torch.equal(other["conv"], double["conv"])


def test_directions_carry_no_graph_and_share_no_memory():
    params = network()
    for direction in (random_direction(params, normalize="none"), difference(params, params)):
        assert not any(d.requires_grad for d in direction.values())
        assert all(d.data_ptr() != params[n].data_ptr() for n, d in direction.items())


def test_orthogonalise_removes_exactly_the_parallel_part():
    params = network()
    a, b = (random_direction(params, random_state=seed) for seed in (0, 1))
    rest = orthogonalise(a, b)
    flat = [torch.cat([d[n].reshape(-1) for n in params]).numpy() for d in (a, b, rest)]
    assert abs(flat[0] @ flat[2]) < 1e-12
    np.testing.assert_allclose(np.cross(flat[1][:3] - flat[2][:3], flat[0][:3]), 0, atol=1e-12)


def test_difference_leads_from_start_to_end():
    start, end = network(0), network(1)
    direction = difference(start, end)
    assert all(torch.allclose(start[n] + direction[n], end[n]) for n in start)


def test_refusals():
    params = network()
    with pytest.raises(ValueError, match="normalize='filters' is not known"):
        random_direction(params, normalize="filters")
    with pytest.raises(ValueError, match="vectors='keep' is not known"):
        random_direction(params, vectors="keep")
    with pytest.raises(ValueError, match="parallel to the first; draw it with another `random_state`"):
        orthogonalise(params, params)
    with pytest.raises(ValueError, match=r"different architectures: \['conv'\]"):
        difference(params, params | {"conv": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"different architectures: \['theta'\]"):
        orthogonalise(params, {n: p for n, p in params.items() if n != "theta"})

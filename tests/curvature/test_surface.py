import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from mmopt.curvature import axis, random_direction, slice_1d, slice_2d, slice_between


def model_and_loss(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Softplus(), torch.nn.Linear(8, 3)).to(
            dtype
        )
        data = torch.randn(20, 5, dtype=dtype)

    def loss_fn(params):
        out = functional_call(model, params, (data,))
        parts = {"rna": (out[:, 0] ** 2).mean(), "atac": (out[:, 1:] - 1).square().sum(1).mean()}
        return {"loss": parts["rna"] + parts["atac"]} | parts

    return dict(model.named_parameters()), loss_fn


def bowl(p):
    return {"loss": (p["w"] ** 2).sum(), "first": p["w"][0]}


@settings(deadline=None)
@given(st.integers(2, 200), st.floats(-1e3, 0), st.floats(1e-3, 1e3))
def test_a_grid_around_zero_holds_zero_exactly(n, low, high):
    grid = axis(n, low, high)
    step = (high - low) / (n - 1)
    assert len(grid) == n and 0.0 in grid
    np.testing.assert_allclose(grid[[0, -1]], [low, high], atol=0.5001 * step)
    np.testing.assert_allclose(np.diff(grid), step, rtol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 100), st.floats(1e-3, 1e3))
def test_an_odd_symmetric_grid_keeps_its_ends(half, span):
    np.testing.assert_allclose(axis(2 * half + 1, -span, span)[[0, half, -1]], [-span, 0, span], rtol=1e-12)


def test_a_grid_away_from_zero_keeps_its_ends():
    np.testing.assert_allclose(axis(4, 1, 2), np.linspace(1, 2, 4))


def test_slices_equal_the_loss_at_zero_bit_for_bit():
    params, loss_fn = model_and_loss()
    expected = {key: value.item() for key, value in loss_fn(params).items()}
    a, b = (random_direction(params, random_state=seed) for seed in (0, 1))
    line = slice_1d(loss_fn, params, [a, b], axis(5))["values"]
    plane = slice_2d(loss_fn, params, (a, b), axis(5), axis(3))["values"]
    assert line.keys() == plane.keys() == expected.keys()
    for key, value in expected.items():
        assert line[key].shape == (2, 5) and plane[key].shape == (3, 5)
        assert (line[key][:, 2] == value).all() and plane[key][1, 2] == value
    np.testing.assert_array_equal(plane["rna"][1], line["rna"][0])


def test_values_are_those_of_the_closed_form():
    fit = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    a, b = ({"w": torch.tensor(v, dtype=torch.float64)} for v in ([1.0, 0.0], [0.0, 3.0]))
    x, y = axis(4, 0, 3), axis(5)
    result = slice_2d(bowl, fit, (a, b), x, y)
    np.testing.assert_allclose(result["values"]["loss"], (1 + x) ** 2 + (2 + 3 * y[:, None]) ** 2, rtol=1e-14)
    np.testing.assert_allclose(result["values"]["first"], np.broadcast_to(1 + x, (5, 4)))
    np.testing.assert_allclose(slice_1d(bowl, fit, [b], y)["values"]["loss"], [1 + (2 + 3 * y) ** 2])
    assert result["n_forwards"] == 20


def test_two_calls_are_equal_and_nothing_is_left_behind():
    params, loss_fn = model_and_loss()
    before = {name: p.detach().clone() for name, p in params.items()}
    state, direction = torch.get_rng_state(), random_direction(params)
    first, second = (slice_1d(loss_fn, params, [direction], axis(7))["values"]["loss"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and torch.equal(p, before[n]) and p.requires_grad for n, p in params.items())


def test_a_loss_that_overflows_stays_in_the_result():
    line = slice_1d(
        lambda p: {"loss": p["w"].exp()},
        {"w": torch.tensor(0.0)},
        [{"w": torch.tensor(1.0)}],
        axis(3, -1e3, 1e3),
    )
    np.testing.assert_array_equal(line["values"]["loss"], [[0, 1, np.inf]])


def test_the_barrier_of_a_tilted_double_well():
    def well(p):
        return {"loss": (p["w"] ** 2 - 1) ** 2 + 0.5 * p["w"], "tilt": p["w"]}

    ends = [{"w": torch.tensor(v, dtype=torch.float64)} for v in (-1.0, 1.0)]
    path = slice_between(well, *ends, n=2001)
    w = np.linspace(-1, 1, 2001)
    np.testing.assert_allclose(path["values"]["loss"], (w**2 - 1) ** 2 + 0.5 * w, atol=1e-12)
    assert path["barrier"]["loss"] == pytest.approx(((w**2 - 1) ** 2 + 0.5 * w).max() - 0.5, abs=1e-12)
    assert path["excess"]["loss"] == pytest.approx(1.0, abs=1e-12)  # the tilt is the line between the ends
    assert path["barrier"]["tilt"] == pytest.approx(0, abs=1e-12)
    assert path["excess"]["tilt"] == pytest.approx(0, abs=1e-12)


def test_both_ends_of_a_path_are_exact():
    params, loss_fn = model_and_loss()
    end = {
        name: p.detach() + 0.1 * random_direction(params, vectors="match")[name] for name, p in params.items()
    }
    path = slice_between(loss_fn, params, end)["values"]["loss"]
    assert path[0] == loss_fn(params)["loss"].item() and path[-1] == loss_fn(end)["loss"].item()


def test_the_bar_is_shown_on_request(capfd):
    fit = {"w": torch.zeros(2)}
    slice_1d(bowl, fit, [fit], axis(3))
    assert capfd.readouterr().err == ""
    slice_1d(bowl, fit, [fit], axis(3), show_progress=True)
    assert "loss lines" in capfd.readouterr().err


def test_refusals():
    fit = {"w": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"total under 'loss'; it returned \['elbo'\]"):
        slice_1d(lambda p: {"elbo": p["w"].sum()}, fit, [fit], axis(3))
    with pytest.raises(ValueError, match=r"0-d tensors; reduce \['loss'\] with"):
        slice_1d(lambda p: {"loss": p["w"]}, fit, [fit], axis(3))
    with pytest.raises(ValueError, match="different architectures"):
        slice_between(bowl, fit, {"w": torch.zeros(3)})
    with pytest.raises(ValueError, match="different architectures"):
        slice_2d(bowl, fit, (fit, {"v": torch.zeros(2)}), axis(3), axis(3))
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        slice_between(bowl, fit, fit, n=1)
    with pytest.raises(ValueError, match="n=1"):
        axis(1)
    with pytest.raises(ValueError, match="low=2, high=1"):
        axis(3, 2, 1)

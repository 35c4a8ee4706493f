import numpy as np
import pytest
import torch

from mmopt.curvature import sharpness

RHO = 0.3


def quadratic(scale=1.0):
    """``0.5 w'Hw + b'w`` whose parameters are multiplied by ``scale`` without changing the function."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((12, 12))
    dense, b, w = root @ root.T, rng.standard_normal(12), rng.standard_normal(12)
    h, linear = torch.as_tensor(dense), torch.as_tensor(b)

    def loss_fn(p):
        v = torch.cat([p["w"].reshape(-1) / scale, p["b"]])
        return {"loss": 0.5 * v @ h @ v + linear @ v, "half": 0.5 * linear @ v}

    params = {"w": torch.as_tensor(w[:8] * scale).reshape(2, 4).clone(), "b": torch.as_tensor(w[8:]).clone()}
    return loss_fn, params, dense, b, w


def test_sam_is_exact_on_a_quadratic():
    loss_fn, params, dense, b, w = quadratic()
    g = dense @ w + b
    unit = g / np.linalg.norm(g)
    result = sharpness(loss_fn, params, RHO)
    expected = RHO * np.linalg.norm(g) + 0.5 * RHO**2 * unit @ dense @ unit
    assert result["sharpness"]["loss"] == pytest.approx(expected, rel=1e-12)
    assert result["sharpness"]["half"] == pytest.approx(0.5 * RHO * b @ unit, rel=1e-10)
    assert (result["n_forwards"], result["n_gradients"]) == (2, 1)


def test_asam_is_exact_on_a_quadratic():
    loss_fn, params, dense, b, w = quadratic()
    scale, g = np.abs(w) + 0.01, dense @ w + b
    step = RHO * scale**2 * g / np.linalg.norm(scale * g)
    result = sharpness(loss_fn, params, RHO, adaptive=True)["sharpness"]["loss"]
    assert result == pytest.approx(g @ step + 0.5 * step @ dense @ step, rel=1e-12)


def test_only_the_adaptive_one_ignores_the_scale_of_the_weights():
    (small, p_small, *_), (large, p_large, *_) = quadratic(), quadratic(scale=100.0)
    adaptive = [
        sharpness(f, p, RHO, adaptive=True, eta=0)["sharpness"]["loss"]
        for f, p in ((small, p_small), (large, p_large))
    ]
    absolute = [sharpness(f, p, RHO)["sharpness"]["loss"] for f, p in ((small, p_small), (large, p_large))]
    assert adaptive[0] == pytest.approx(adaptive[1], rel=1e-10)
    assert absolute[0] > 1.5 * absolute[1]


def test_many_steps_find_the_true_maximum_in_the_ball():
    # near the minimum, where the gradient points nowhere in particular
    loss_fn, params, dense, b, _ = quadratic()
    w = np.linalg.solve(dense, -b) + 1e-3
    params = {"w": torch.as_tensor(w[:8]).reshape(2, 4), "b": torch.as_tensor(w[8:])}
    g, top = dense @ w + b, np.linalg.eigvalsh(dense)[-1]
    # maximum of g'd + 0.5 d'Hd on the sphere: (shift - H) d = g with shift above the spectrum and |d| = rho
    low, high = top, top + np.linalg.norm(g) / RHO
    for _ in range(200):
        shift = (low + high) / 2
        d = np.linalg.solve(shift * np.eye(12) - dense, g)
        low, high = (shift, high) if np.linalg.norm(d) > RHO else (low, shift)
    result = sharpness(loss_fn, params, RHO, n_steps=200)
    assert result["sharpness"]["loss"] == pytest.approx(g @ d + 0.5 * d @ dense @ d, rel=1e-6)
    assert result["sharpness"]["loss"] > sharpness(loss_fn, params, RHO)["sharpness"]["loss"]
    assert (result["n_forwards"], result["n_gradients"]) == (201, 200)


def test_two_calls_are_equal_and_nothing_is_left_behind():
    loss_fn, params, *_ = quadratic()
    params = {n: p.requires_grad_() for n, p in params.items()}
    before, state = {n: p.detach().clone() for n, p in params.items()}, torch.get_rng_state()
    with torch.no_grad():
        assert sharpness(loss_fn, params, adaptive=True, n_steps=3) == sharpness(
            loss_fn, params, adaptive=True, n_steps=3
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in params.items())


def test_a_stationary_point_has_no_first_order_ascent():
    assert sharpness(lambda p: {"loss": (p["w"] ** 2).sum()}, {"w": torch.zeros(2)})["sharpness"] == {
        "loss": 0.0
    }


@pytest.mark.parametrize(
    "bad", [{"rho": 0}, {"rho": float("nan")}, {"rho": float("inf")}, {"n_steps": 0}, {"eta": -1}]
)
def test_refusals(bad):
    with pytest.raises(ValueError, match="rho must be > 0 and finite, n_steps >= 1 and eta >= 0; got"):
        sharpness(lambda p: {"loss": p["w"].sum()}, {"w": torch.ones(2)}, **bad)

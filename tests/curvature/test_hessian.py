import numpy as np
import pytest
import torch

from mmopt.curvature import Hessian, slice_1d, top_eigenvalues, trace

SPECTRUM = np.r_[50.0, 20.0, 19.0, 7.0, np.linspace(2, -1.5, 56)]


def quadratic(spectrum=SPECTRUM, rotate=True, dtype=torch.float64):
    """``0.5 w'Hw + b'w`` in two tensors, with its dense Hessian."""
    rng, n = np.random.default_rng(0), len(spectrum)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0] if rotate else np.eye(n)
    dense = (basis * spectrum) @ basis.T
    h, b = torch.as_tensor(dense, dtype=dtype), torch.as_tensor(rng.standard_normal(n), dtype=dtype)

    def loss_fn(p):
        w = torch.cat([p["w"].reshape(-1), p["b"]])
        return {"loss": 0.5 * w @ h @ w + b @ w}

    w = torch.as_tensor(rng.standard_normal(n), dtype=dtype)
    return loss_fn, {"w": w[:-4].reshape(4, -1).clone(), "b": w[-4:].clone()}, dense


def smooth_network(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = {"w1": (4, 5), "b1": (5,), "w2": (5, 2), "unused": (3,)}
    params = {n: torch.randn(s, generator=generator).to(dtype).requires_grad_() for n, s in shapes.items()}
    data = torch.randn(30, 4, generator=generator).to(dtype)

    def loss_fn(p):
        out = torch.tanh(data @ p["w1"] + p["b1"]) @ p["w2"]
        return {"loss": torch.nn.functional.softplus(out).mean() + p["b1"].square().sum(), "out": out.mean()}

    return loss_fn, params


def flat(params):
    return torch.cat([p.detach().reshape(-1) for p in params.values()]).numpy()


def dense_hessian(loss_fn, params):
    shapes = {n: p.shape for n, p in params.items()}

    def of_flat(w):
        pieces = w.split([s.numel() for s in shapes.values()])
        return loss_fn({n: x.reshape(s) for (n, s), x in zip(shapes.items(), pieces, strict=True)})["loss"]

    return torch.autograd.functional.hessian(of_flat, torch.as_tensor(flat(params))).numpy()


def test_products_equal_the_dense_hessian():
    loss_fn, params = smooth_network()
    hessian = Hessian(loss_fn, params)
    product = np.stack([hessian @ e for e in np.eye(hessian.size)])
    np.testing.assert_allclose(product, dense_hessian(loss_fn, params), atol=1e-13)
    np.testing.assert_allclose(product, product.T, atol=1e-13)
    assert (hessian.n_forwards, hessian.n_products) == (1, hessian.size)


def test_products_equal_central_differences_of_the_gradient():
    loss_fn, params = smooth_network()
    v = np.random.default_rng(0).standard_normal(len(flat(params)))

    def gradient(step):
        moved, start = {}, 0
        for name, p in params.items():
            piece = torch.as_tensor(v[start : start + p.numel()]).reshape(p.shape)
            moved[name], start = (p.detach() + step * piece).requires_grad_(), start + p.numel()
        return torch.cat(
            [
                g.detach().reshape(-1)  # in torch 2.6 those of unused parameters require one themselves
                for g in torch.autograd.grad(loss_fn(moved)["loss"], moved.values(), materialize_grads=True)
            ]
        )

    differences = (gradient(1e-5) - gradient(-1e-5)).numpy() / 2e-5
    np.testing.assert_allclose(Hessian(loss_fn, params) @ v, differences, atol=1e-8)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_eigenvalues_of_a_known_spectrum(which):
    loss_fn, params, dense = quadratic()
    result = top_eigenvalues(loss_fn, params, k=4, which=which, tol=1e-10)
    order = {"LA": -SPECTRUM, "SA": SPECTRUM, "LM": -np.abs(SPECTRUM)}[which]
    expected = np.sort(SPECTRUM[np.argsort(order)[:4]])[::-1]
    np.testing.assert_allclose(result.eigenvalues, expected, atol=1e-6)
    vectors = np.stack([flat(d) for d in result.directions])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-10)
    residuals = np.linalg.norm(dense @ vectors.T - vectors.T * result.eigenvalues, axis=0)
    np.testing.assert_allclose(result.residuals, residuals, atol=1e-10)
    assert residuals.max() < 1e-6


def test_a_shift_finds_a_smallest_eigenvalue_that_is_close_to_zero():
    """Relative to itself -1e-3 would have to be found to 1e-7, among many others around zero."""
    spectrum = np.r_[100.0, 50.0, np.linspace(-1e-3, 1e-3, 398)]
    loss_fn, params, _ = quadratic(spectrum)
    with pytest.raises(RuntimeError, match="0 of 1 eigenvalues converged"):
        top_eigenvalues(loss_fn, params, which="SA", max_restarts=2)
    found = top_eigenvalues(loss_fn, params, which="SA", max_restarts=2, shift=100.0)
    assert found.residuals[0] < 1e-4 * 100
    assert abs(found.eigenvalues[0] + 1e-3) <= found.residuals[0] + 1e-12
    exact = top_eigenvalues(*quadratic()[:2], k=2, which="SA", shift=SPECTRUM.max(), tol=1e-12)
    np.testing.assert_allclose(exact.eigenvalues, np.sort(SPECTRUM)[1::-1], atol=1e-6)


def test_the_default_tolerance_is_kept_in_float32_on_a_network():
    loss_fn, params = smooth_network(torch.float32)
    exact = np.linalg.eigvalsh(dense_hessian(*smooth_network()))[::-1]
    result = top_eigenvalues(loss_fn, params, k=3)
    np.testing.assert_allclose(result.eigenvalues, exact[:3], rtol=1e-4)
    assert (result.residuals < 1e-3 * result.eigenvalues[0]).all()
    assert result.n_forwards == 1 and result.n_hvps < 100
    assert {n: (d.shape, d.dtype) for n, d in result.directions[0].items()} == {
        n: (p.shape, p.dtype) for n, p in params.items()
    }


def test_curvature_along_an_eigenvector_is_its_eigenvalue():
    loss_fn, params = smooth_network()
    result = top_eigenvalues(loss_fn, params, k=1, tol=1e-8)
    low, middle, high = slice_1d(loss_fn, params, result.directions, np.array([-1e-3, 0, 1e-3]))["values"][
        "loss"
    ][0]
    assert (high - 2 * middle + low) / 1e-6 == pytest.approx(result.eigenvalues[0], rel=1e-4)


def test_low_rank_and_repeated_eigenvalues():
    loss_fn, params, _ = quadratic(np.r_[5.0, 5.0, 3.0, np.zeros(37)])
    first, second = (top_eigenvalues(loss_fn, params, k=5) for _ in range(2))
    np.testing.assert_allclose(first.eigenvalues, [5, 5, 3, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(first.eigenvalues, second.eigenvalues)


def test_trace_is_exact_on_a_diagonal_and_within_its_error_otherwise():
    loss_fn, params, _ = quadratic(rotate=False)
    diagonal = trace(loss_fn, params, n=2)
    assert diagonal["trace"] == pytest.approx(SPECTRUM.sum(), abs=1e-9)
    assert diagonal["standard_error"] == pytest.approx(0, abs=1e-9)
    assert (diagonal["n_forwards"], diagonal["n_hvps"]) == (1, 2)

    loss_fn, params, dense = quadratic()
    n = 2000
    estimate = trace(loss_fn, params, n=n)
    # variance of one Rademacher probe: twice the squares off the diagonal
    error = np.sqrt(2 * ((dense**2).sum() - (np.diag(dense) ** 2).sum()) / n)
    assert estimate["standard_error"] == pytest.approx(error, rel=0.1)
    assert abs(estimate["trace"] - SPECTRUM.sum()) < 4 * error


def test_two_calls_are_equal_and_nothing_is_left_behind():
    loss_fn, params = smooth_network(torch.float32)
    before, state = {n: p.detach().clone() for n, p in params.items()}, torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    with torch.no_grad():  # the caller's gradient mode does not matter
        first, second = (
            (top_eigenvalues(loss_fn, params, k=2), trace(loss_fn, params, n=4)) for _ in range(2)
        )
    np.testing.assert_array_equal(first[0].eigenvalues, second[0].eigenvalues)
    np.testing.assert_array_equal(first[0].residuals, second[0].residuals)
    assert all(
        torch.equal(a[n], b[n])
        for a, b in zip(first[0].directions, second[0].directions, strict=True)
        for n in params
    )
    assert first[1] == second[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert all(p.grad is None and torch.equal(p, before[n]) and p.requires_grad for n, p in params.items())
    assert trace(loss_fn, params, n=4, random_state=1) != first[1]


@pytest.mark.parametrize(
    ("dtype", "theta"), [(torch.float64, 1e-30), (torch.float32, 1e-10), (torch.float32, 1e8)]
)
def test_negative_binomial_stays_finite_at_the_edges(dtype, theta):
    x = torch.tensor([0.0, 0.0, 1.0, 500.0], dtype=dtype)
    params = {
        "log_theta": torch.full((4,), theta, dtype=dtype).log(),
        "log_mu": torch.tensor([-20.0, 3.0, 0.0, 5.0], dtype=dtype),
    }

    def loss_fn(p):
        theta, log_mu_theta = p["log_theta"].exp(), torch.logaddexp(p["log_mu"], p["log_theta"])
        log_choose = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        rate = theta * (p["log_theta"] - log_mu_theta) + x * (p["log_mu"] - log_mu_theta)
        return {"loss": -(log_choose + rate).sum()}

    hessian = Hessian(loss_fn, params)
    columns = np.stack([hessian @ e for e in np.eye(8)])
    assert np.isfinite(columns).all()
    # zero counts: d2/dlog_mu2 of theta * log(1 + mu / theta) is mu * theta^2 / (mu + theta)^2
    mu = np.exp(np.array([-20.0, 3.0]))
    np.testing.assert_allclose(np.diag(columns)[4:6], mu * theta**2 / (mu + theta) ** 2, rtol=1e-3, atol=1e-6)


def test_refusals():
    loss_fn, params, _ = quadratic()
    with pytest.raises(ValueError, match="k must be between 1 and 59 for 60 parameters; got 60"):
        top_eigenvalues(loss_fn, params, k=60)
    with pytest.raises(ValueError, match="which='max' is not known"):
        top_eigenvalues(loss_fn, params, which="max")
    with pytest.raises(
        RuntimeError, match=r"of 5 eigenvalues converged in \d+ products: raise `max_restarts`"
    ):
        top_eigenvalues(loss_fn, params, k=5, tol=1e-14, max_restarts=1)
    with pytest.raises(ValueError, match="at least 2 probes; got n=1"):
        trace(loss_fn, params, n=1)
    with pytest.raises(ValueError, match="without `no_grad` or `detach`"):
        trace(lambda p: {"loss": torch.tensor(1.0)}, params)
    with pytest.raises(ValueError, match="the Hessian is zero: the loss is linear"):
        top_eigenvalues(lambda p: {"loss": p["w"].sum()}, params)
    with pytest.raises(ValueError, match=r"not finite in \['w'\]"):
        trace(
            lambda p: {"loss": p["w"].sqrt().sum() + p["b"].square().sum()},
            {"w": torch.zeros(2), "b": torch.ones(2)},
        )

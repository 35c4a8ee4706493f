import numpy as np
import pytest
import torch

from mmopt.curvature import pca_directions, random_walk_explained_variance


def run_in_plane(dtype=torch.float64):
    """Twenty checkpoints on a known curve in a known plane of a 70-dimensional space."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((70, 2)))[0]
    t = np.linspace(1, 0, 20)
    curve = np.stack([10 * t, np.sin(np.pi * t)], axis=1)
    flat = torch.as_tensor(curve @ basis.T + 3.0, dtype=dtype)
    return [{"w": row[:60].reshape(6, 10), "b": row[60:]} for row in flat], curve, basis


def test_a_trajectory_in_a_plane_is_recovered():
    checkpoints, curve, basis = run_in_plane()
    result = pca_directions(checkpoints)
    assert result.explained_variance.sum() == pytest.approx(1.0, abs=1e-12)
    directions = np.stack([np.r_[d["w"].numpy().ravel(), d["b"].numpy()] for d in result.directions])
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-12)
    # the same plane, and in it the same points
    np.testing.assert_allclose(directions.T @ directions, basis @ basis.T, atol=1e-10)
    np.testing.assert_allclose(result.coordinates @ directions, (curve - curve[-1]) @ basis.T, atol=1e-10)
    assert not result.coordinates[-1].any()
    assert result.coordinates[0, 0] > 0


def test_explained_variance_is_that_of_a_dense_svd_about_the_last_point():
    rng = np.random.default_rng(1)
    points = np.cumsum(rng.standard_normal((9, 30)), axis=0)
    result = pca_directions([{"w": torch.as_tensor(p)} for p in points], n_components=3)
    squares = np.linalg.svd(points - points[-1], compute_uv=False) ** 2
    np.testing.assert_allclose(result.explained_variance, squares[:3] / squares.sum(), rtol=1e-10)


def test_directions_have_the_dtype_of_the_checkpoints():
    checkpoints, *_ = run_in_plane(torch.float32)
    assert {d.dtype for d in pca_directions(checkpoints).directions[0].values()} == {torch.float32}


def test_random_walk_null_is_near_the_limit_for_many_steps_and_dimensions():
    k = np.arange(1, 4)
    shares = random_walk_explained_variance(np.ones(400), 10**6, n_components=3, n_draws=20)
    np.testing.assert_allclose(shares, 8 / (np.pi * (2 * k - 1)) ** 2, rtol=0.02)


@pytest.mark.parametrize("dimension", [2, 5, 40])
def test_random_walk_null_equals_direct_simulation(dimension):
    lengths, rng = np.linspace(2, 0.5, 12), np.random.default_rng(0)
    direct = []
    for _ in range(2000):
        steps = rng.standard_normal((12, dimension)) * lengths[:, None]
        squares = np.linalg.svd(np.cumsum(steps[::-1], axis=0), compute_uv=False) ** 2
        direct.append(squares[:2] / squares.sum())
    null = random_walk_explained_variance(lengths, dimension, n_draws=2000)
    np.testing.assert_allclose(null, np.mean(direct, axis=0), atol=0.01)


def test_a_random_walk_does_not_beat_its_null():
    steps = np.random.default_rng(3).standard_normal((60, 5000))
    result = pca_directions([{"w": torch.as_tensor(p)} for p in np.cumsum(steps, axis=0)])
    np.testing.assert_allclose(result.explained_variance, result.null_explained_variance, atol=0.05)


def test_more_components_than_dimensions_explain_nothing_more():
    np.testing.assert_allclose(random_walk_explained_variance(np.ones(5), 1, n_components=3), [1, 0, 0])


def test_refusals():
    checkpoints, *_ = run_in_plane()
    with pytest.raises(ValueError, match="2 components need at least 3 checkpoints; there are 2"):
        pca_directions(checkpoints[:2])
    with pytest.raises(ValueError, match="do not span 3 directions"):
        pca_directions(checkpoints, n_components=3)
    with pytest.raises(ValueError, match="do not span 2 directions"):
        pca_directions([checkpoints[0]] * 4)
    with pytest.raises(ValueError, match="different architectures"):
        pca_directions([{"w": torch.zeros(2)}, *checkpoints])

import numpy as np
import torch

from mmopt.dynamics import euler_maruyama, rk4


def test_a_circle_closes():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    times = np.linspace(0, 2 * np.pi, 9)
    path = rk4(lambda x, t: x @ turn.T, np.array([[1.0, 0.0]]), times)
    np.testing.assert_allclose(path[4], [[-1.0, 0.0]], atol=1e-5)
    np.testing.assert_allclose(path[-1], path[0], atol=1e-5)


def test_backwards_is_where_it_came_from():
    field = lambda x, t: np.sin(x) + t  # noqa: E731
    there = rk4(field, np.array([[0.3]]), np.array([0.0, 1.0]))[-1]
    back = rk4(field, there, np.array([1.0, 0.0]))[-1]
    np.testing.assert_allclose(back, [[0.3]], atol=1e-6)


def test_noise_has_the_variance_of_an_ornstein_uhlenbeck_process():
    generator = torch.Generator().manual_seed(0)
    path = euler_maruyama(
        lambda x, t: -x,
        lambda t: 2**0.5,
        lambda x: torch.randn(x.shape, generator=generator),
        torch.zeros(20000, 1),
        np.array([0.0, 4.0]),
        n_steps=200,
    )
    assert abs(path[-1].var().item() - (1 - np.exp(-8))) < 0.05

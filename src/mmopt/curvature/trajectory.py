"""The plane in which training moved most, and what a random walk would have shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmopt.curvature.parameters import Params, check_same_shapes


@dataclass(frozen=True)
class Trajectory:
    """Principal components of a training run about its last point.

    Attributes
    ----------
    directions
        Unit vectors, the one with the most variance first.
    coordinates
        ``(n_checkpoints, n_components)`` position of each checkpoint, in units of the parameters; the last is 0.
    explained_variance
        ``(n_components,)`` share of the squared distances to the last point.
    null_explained_variance
        The same for random walks with these step lengths in this many dimensions. Only what is above it says
        something about the training: two components of a long random walk explain 90 %.
    """

    directions: list[Params]
    coordinates: np.ndarray
    explained_variance: np.ndarray
    null_explained_variance: np.ndarray


def pca_directions(
    checkpoints: Sequence[Mapping[str, Tensor]], n_components: int = 2, *, random_state: int = 0
) -> Trajectory:
    """Principal directions of a training trajectory about its final point.

    Parameters
    ----------
    checkpoints
        Named parameters in the order of training; the last are those of the fit.
    n_components
        How many directions.
    random_state
        Seed of the random walks.

    Raises
    ------
    ValueError
        If there are fewer than ``n_components + 1`` checkpoints, or the run did not move in that many directions.

    References
    ----------
    Li et al., *Visualizing the Loss Landscape of Neural Nets*, NeurIPS 2018;
    Antognini and Sohl-Dickstein, *PCA of high dimensional random walks with comparison to neural network training*,
    NeurIPS 2018.

    Examples
    --------
    >>> import torch
    >>> run = [{"w": torch.tensor([4.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}, {"w": torch.zeros(2)}]
    >>> pca_directions(run).explained_variance.round(3)
    array([0.941, 0.059])
    """
    if len(checkpoints) <= n_components:
        raise ValueError(
            f"{n_components} components need at least {n_components + 1} checkpoints; there are {len(checkpoints)}"
        )
    *earlier, fit = checkpoints
    for checkpoint in earlier:
        check_same_shapes(fit, checkpoint)
    # few checkpoints, many parameters: the Gram matrix has the spectrum of the covariance and fits in memory
    gram = sum(block @ block.T for block in (_displacements(checkpoints, name) for name in fit))
    spectrum, weights = np.linalg.eigh(gram)
    spectrum, weights = spectrum[::-1][:n_components], weights[:, ::-1][:, :n_components]
    if spectrum[-1] <= 1e-12 * np.trace(gram):
        raise ValueError(
            f"the checkpoints do not span {n_components} directions; record more, or distinct, ones"
        )
    # the sign of an eigenvector is arbitrary: let training come from the positive side
    weights = weights * np.where(weights[0] < 0, -1.0, 1.0)
    scales = np.sqrt(spectrum)
    directions: list[Params] = [{} for _ in scales]
    for name, p in fit.items():
        rows = (weights / scales).T @ _displacements(checkpoints, name)
        for direction, row in zip(directions, rows, strict=True):
            direction[name] = torch.as_tensor(row).reshape(p.shape).to(p.dtype).to(p.device)
    squares = np.diag(gram)
    steps = np.sqrt(np.maximum(squares[1:] + squares[:-1] - 2 * np.diag(gram, 1), 0.0))
    n_parameters = sum(p.numel() for p in fit.values())
    return Trajectory(
        directions=directions,
        coordinates=(weights - weights[-1]) * scales,
        explained_variance=spectrum / np.trace(gram),
        null_explained_variance=random_walk_explained_variance(
            steps, n_parameters, n_components, random_state=random_state
        ),
    )


def _displacements(checkpoints: Sequence[Mapping[str, Tensor]], name: str) -> np.ndarray:
    """One parameter of every checkpoint relative to the last, ``(n_checkpoints, n_entries)``."""
    rows = torch.stack([checkpoint[name].detach().cpu().double().reshape(-1) for checkpoint in checkpoints])
    return (rows - rows[-1]).numpy()


def random_walk_explained_variance(
    step_lengths: np.ndarray,
    dimension: int,
    n_components: int = 2,
    *,
    n_draws: int = 50,
    random_state: int = 0,
) -> np.ndarray:
    """Mean explained variance of the leading components of random walks, about their last point.

    For many equal steps in many dimensions component ``k`` tends to ``8 / (pi**2 * (2 * k - 1) ** 2)``:
    81 % and 9 %.

    Parameters
    ----------
    step_lengths
        ``(n_steps,)`` root mean square length of each step.
    dimension
        Number of coordinates of the walk. The cost does not depend on it.
    n_components
        How many components to return.
    n_draws
        Random walks to average over.
    random_state
        Seed.

    Returns
    -------
    ``(n_components,)`` shares, the largest first.

    Examples
    --------
    >>> import numpy as np
    >>> random_walk_explained_variance(np.ones(100), dimension=1_000_000).round(2)
    array([0.81, 0.09])
    """
    rng = np.random.default_rng(random_state)
    n_steps, rank = len(step_lengths), min(len(step_lengths), dimension)
    shares = np.zeros((n_draws, max(rank, n_components)))
    for share in shares:
        # Gaussian steps seen in a rotated frame are lower triangular (Bartlett), whatever the dimension
        steps = np.tril(rng.standard_normal((n_steps, rank)), -1)
        np.fill_diagonal(steps, np.sqrt(rng.chisquare(dimension - np.arange(rank))))
        to_last = np.cumsum((steps * np.asarray(step_lengths)[:, None])[::-1], axis=0)
        squares = np.linalg.svd(to_last, compute_uv=False) ** 2
        share[:rank] = squares / squares.sum()
    return shares.mean(axis=0)[:n_components]

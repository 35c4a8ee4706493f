"""What a simple method reaches: no imputation figure should stand without these beside it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def mean_baseline(train: ArrayLike, n: int) -> np.ndarray:
    """Predict each feature's mean over the training cells for every one of ``n`` cells.

    Parameters
    ----------
    train
        ``(n_train, n_features)``.
    n
        Number of cells to predict.

    Returns
    -------
    numpy.ndarray
        ``(n, n_features)``.

    Examples
    --------
    >>> mean_baseline([[0.0, 1.0], [2.0, 3.0]], 1)
    array([[1., 2.]])
    """
    return np.tile(np.asarray(train, dtype=float).mean(0), (n, 1))


def knn_imputation(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, k: int = 15) -> np.ndarray:
    """Predict the mean of the ``k`` training cells nearest in ``x``.

    Parameters
    ----------
    train_x, test_x
        What is seen, ``(n_cells, n_inputs)``, e.g. an embedding or log-normalised RNA.
    train_y
        What is predicted, ``(n_train, n_features)``.
    k
        Number of neighbours; all training cells where there are fewer.

    Returns
    -------
    numpy.ndarray
        ``(n_test, n_features)``.

    Raises
    ------
    ValueError
        Shapes that do not fit, or values that are not finite.

    Examples
    --------
    >>> knn_imputation([[0.0], [1.0]], [[10.0], [20.0]], [[0.9]], k=1)
    array([[20.]])
    """
    train_x, train_y, test_x = _checked(train_x, train_y, test_x)
    return KNeighborsRegressor(min(k, len(train_x))).fit(train_x, train_y).predict(test_x)


def ridge_imputation(
    train_x: ArrayLike,
    train_y: ArrayLike,
    test_x: ArrayLike,
    alphas: Sequence[float] = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5),
) -> np.ndarray:
    """Predict by ridge regression on standardised inputs, the penalty chosen per feature by leave-one-out error.

    Parameters
    ----------
    train_x, test_x
        What is seen, ``(n_cells, n_inputs)``. For more than a few thousand inputs give principal components.
    train_y
        What is predicted, ``(n_train, n_features)``.
    alphas
        Penalties to choose from.

    Returns
    -------
    numpy.ndarray
        ``(n_test, n_features)``.

    Raises
    ------
    ValueError
        Shapes that do not fit, or values that are not finite.

    Examples
    --------
    >>> ridge_imputation([[0.0], [1.0], [2.0]], [[1.0], [3.0], [5.0]], [[3.0]], alphas=[1e-9]).round(3)
    array([[7.]])
    """
    train_x, train_y, test_x = _checked(train_x, train_y, test_x)
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=alphas, alpha_per_target=True)).fit(
        train_x, train_y
    )
    return model.predict(test_x).reshape(len(test_x), train_y.shape[1])


def _checked(train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike) -> tuple[np.ndarray, ...]:
    named = {"train_x": train_x, "train_y": train_y, "test_x": test_x}
    arrays = {name: np.asarray(values, dtype=float) for name, values in named.items()}
    for name, array in arrays.items():
        if array.ndim != 2 or not array.size:
            raise ValueError(f"{name} {array.shape}: (n_cells, n_features) is needed")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or infinite values")
    if len(arrays["train_x"]) != len(arrays["train_y"]):
        raise ValueError(f"train_x has {len(arrays['train_x'])} cells, train_y {len(arrays['train_y'])}")
    if arrays["train_x"].shape[1] != arrays["test_x"].shape[1]:
        raise ValueError(
            f"train_x has {arrays['train_x'].shape[1]} inputs, test_x {arrays['test_x'].shape[1]}"
        )
    return tuple(arrays.values())

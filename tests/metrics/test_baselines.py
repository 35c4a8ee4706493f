import numpy as np
import pytest

from mmopt.metrics import knn_imputation, mean_baseline, ridge_imputation


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)) * [1, 2, 3, 4, 5] + 7
    y = x @ rng.normal(size=(5, 3)) + rng.normal(size=(40, 3)) * [0.1, 5, 50]
    return x[:30], y[:30], x[30:]


def test_mean(data):
    _, y, test = data
    predicted = mean_baseline(y, len(test))
    assert predicted.shape == (10, 3)
    for row in predicted:
        np.testing.assert_allclose(row, [sum(column) / len(column) for column in y.T])


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_knn_against_loops(data, k):
    x, y, test = data
    predicted = knn_imputation(x, y, test, k=k)
    for cell, row in zip(test, predicted, strict=True):
        nearest = np.argsort([np.linalg.norm(other - cell) for other in x])[:k]
        np.testing.assert_allclose(row, y[nearest].mean(0))


def naive_ridge(x, y, test, alpha):
    mean, scale = x.mean(0), x.std(0)
    z, intercept = (x - mean) / scale, y.mean(0)
    weights = np.linalg.solve(z.T @ z + alpha * np.eye(x.shape[1]), z.T @ (y - intercept))
    return (test - mean) / scale @ weights + intercept


def test_ridge_against_the_normal_equations(data):
    x, y, test = data
    np.testing.assert_allclose(ridge_imputation(x, y, test, alphas=[3.0]), naive_ridge(x, y, test, 3.0))


def test_ridge_chooses_the_penalty_of_each_feature_by_leave_one_out(data):
    x, y, test = data
    alphas = [1e-3, 10.0, 1e3]
    mean, scale = x.mean(0), x.std(0)
    z = (x - mean) / scale
    expected, chosen = [], []
    for feature in range(3):
        errors = []
        for alpha in alphas:
            left_out = []
            for i in range(len(z)):
                keep = np.arange(len(z)) != i
                # an unpenalised intercept, refitted without the cell
                design = np.column_stack([np.ones(keep.sum()), z[keep]])
                penalty = alpha * np.diag([0.0, *np.ones(5)])
                weights = np.linalg.solve(design.T @ design + penalty, design.T @ y[keep, feature])
                left_out.append((y[i, feature] - weights @ [1, *z[i]]) ** 2)
            errors.append(np.mean(left_out))
        chosen.append(alphas[int(np.argmin(errors))])
        expected.append(naive_ridge(x, y[:, [feature]], test, chosen[-1])[:, 0])
    assert len(set(chosen)) > 1
    np.testing.assert_allclose(ridge_imputation(x, y, test, alphas=alphas), np.column_stack(expected))


def test_one_feature_keeps_its_dimension(data):
    x, y, test = data
    assert ridge_imputation(x, y[:, :1], test).shape == knn_imputation(x, y[:, :1], test).shape == (10, 1)


@pytest.mark.parametrize("impute", [knn_imputation, ridge_imputation])
def test_refusals(data, impute):
    x, y, test = data
    with pytest.raises(ValueError, match="train_x has 30 cells, train_y 29"):
        impute(x, y[1:], test)
    with pytest.raises(ValueError, match="train_x has 5 inputs, test_x 4"):
        impute(x, y, test[:, 1:])
    with pytest.raises(ValueError, match=r"train_y \(30,\): \(n_cells, n_features\) is needed"):
        impute(x, y[:, 0], test)
    with pytest.raises(ValueError, match="test_x has NaN or infinite values"):
        impute(x, y, test * np.inf)

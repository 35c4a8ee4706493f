import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from mmopt.models.depth import PENALTIES, Depth, ridge
from mmopt.models.readout import log_sizes


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (40, 5))
    x[:, 3] = 1.0
    return x, x @ [0.5, -1.0, 0.0, 2.0, 0.1] + rng.normal(0, 0.5, 40)


def test_ridge_is_the_best_of_ridges_left_out_one_by_one(data):
    x, y = (v[:25] for v in data)
    kept = x[:, [0, 1, 2, 4]]
    standard = (kept - kept.mean(0)) / kept.std(0)

    def left_out(penalty):
        errors = []
        for i in range(len(y)):
            rest = np.arange(len(y)) != i
            # the inputs are standardised once, with all rows
            errors.append(Ridge(penalty).fit(standard[rest], y[rest]).predict(standard[i : i + 1])[0] - y[i])
        return np.sqrt(np.mean(np.square(errors)))

    weight, intercept, spread = ridge(x, y)
    scores = [left_out(p) for p in PENALTIES]
    assert spread == pytest.approx(min(scores), rel=0.01)
    best = Ridge(PENALTIES[int(np.argmin(scores))]).fit(standard, y)
    np.testing.assert_allclose(x @ weight + intercept, best.predict(standard), rtol=1e-6)
    assert weight[3] == 0  # a constant input


def test_more_inputs_than_rows(data):
    _, y = data
    weight, intercept, spread = ridge(np.random.default_rng(1).normal(size=(12, 60)), y[:12])
    assert np.isfinite([*weight, intercept, spread]).all()


def test_before_it_is_fitted_the_median_is_predicted():
    depth = Depth(2, 3, 2)
    depth.reset(np.array([10.0, 100.0, 1000.0, 0.0, 100.0]))
    mean, spread = depth(torch.tensor([0, 5]), torch.randn(2, 2), torch.ones(2, 6), torch.eye(2))
    np.testing.assert_allclose(mean.exp(), 100, rtol=1e-5)
    assert (spread > 1).all()


def test_every_subset_has_its_own_regression():
    rng = np.random.default_rng(0)
    depth = Depth(2, 2, 1)
    z, logs = rng.normal(size=(200, 2)), rng.normal(5, 1, (200, 4))
    x = np.column_stack([z, logs, np.ones(200)])
    by_first, by_second = (np.exp(logs[:, i] + 0.5 * logs[:, 2 + i] + 0.3 * z[:, 0]) for i in (0, 1))
    depth.fit(1, x, by_first)
    depth.fit(2, x, by_second)
    depth.copy_subset(3, 2)
    inputs = [torch.as_tensor(v, dtype=torch.float32) for v in (z, logs, np.ones((200, 1)))]
    for code, expected in ((1, by_first), (2, by_second), (3, by_second)):
        mean, spread = depth(torch.full((200,), code), *inputs)
        np.testing.assert_allclose(mean, np.log(expected), atol=0.1)
        assert (spread < 0.1).all()


def test_sizes_are_of_what_is_heard(fitted, dense):
    """Totals of each modality, then numbers of detected features; 0 where the modality is absent or not heard."""
    (tensors,) = fitted._make_data_loader(fitted.adata, batch_size=512)
    found = {}
    for given in (None, ("rna",)):
        present = fitted.module.inference(tensors, given=given, noise=torch.zeros(1))["present"]
        found[given] = log_sizes(fitted.module, tensors, present).numpy()
    for i, m in enumerate(("rna", "atac", "prot")):
        x = dense(fitted.adata, m)
        for column, size in ((i, x.sum(1)), (3 + i, (x > 0).sum(1))):
            expected = np.log1p(size)
            np.testing.assert_allclose(found[None][:, column], expected, rtol=1e-5)
            np.testing.assert_allclose(found["rna",][:, column], expected * (m == "rna"), rtol=1e-5)

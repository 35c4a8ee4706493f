import numpy as np
import pytest

from mmopt.metrics import perturbation_scores
from mmopt.metrics._noise_ceiling import noise_ceiling


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_the_true_effects_reach_it(size):
    found, reached = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shape = (10, 500)
        true = size * rng.standard_normal(shape) * (rng.random(shape) < 0.4)
        one, other, noise = (scale * rng.standard_normal(shape) for scale in (2**0.5, 2**0.5, 1))
        measured, keep = true + (one + other) / 2, rng.random(shape) < 0.9
        ceiling = noise_ceiling(measured, (true + one, true + other), noise, keep, keep)
        reached.append(
            perturbation_scores(true, measured, changed=np.abs(measured) > 1, keep=keep)[
                ceiling.columns
            ].mean()
        )
        found.append(ceiling.mean())
    found, reached = np.mean(found, 0), np.mean(reached, 0)
    np.testing.assert_allclose(found[:2], reached[:2], atol=0.05)
    assert found[2] == pytest.approx(reached[2], abs=0.15)


def test_one_perturbation_has_nothing_to_be_told_from():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((1, 30))
    keep = np.ones(truth.shape, bool)
    row = noise_ceiling(truth, (truth, truth), 0 * truth, keep, keep).iloc[0]
    assert row["pearson"] == 1
    assert row[["pearson_vs_mean", "discrimination"]].isna().all()


def test_the_mean_is_of_what_is_in_common():
    rng = np.random.default_rng(0)
    truth, noise = rng.standard_normal((2, 6, 40))
    keep, first = np.ones(truth.shape, bool), np.arange(6) < 3
    common = first[:, None] & (rng.random(truth.shape) < 0.8)
    wild = np.where(common, truth, truth + 100)
    found = [
        noise_ceiling(t, (t + noise, t - noise), noise, k, common)["pearson_vs_mean"][first]
        for t, k in ((truth, common), (wild, common), (truth, keep))
    ]
    np.testing.assert_allclose(*found[:2])
    assert (found[0] != found[2]).any()

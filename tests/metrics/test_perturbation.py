import numpy as np
import pytest

from mmopt.metrics import (
    discrimination,
    energy_distance,
    perturbation_baselines,
    perturbation_scores,
)


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return rng.standard_normal((8, 200)) * (rng.random((8, 200)) < 0.3)


def assert_its_own_truth_is_not_seen(number, truth, targets, genes, embedding):
    changed = truth.copy()
    changed[number] += 100
    before, after = (perturbation_baselines(t, targets, genes, embedding) for t in (truth, changed))
    for name, values in after.items():
        np.testing.assert_allclose(values[number], before[name][number], err_msg=name)


def test_the_truth_scores_perfectly_and_no_change_as_it_must(truth):
    perfect = perturbation_scores(truth, truth, changed=truth != 0)
    for column in ("pearson", "pearson_vs_mean", "sign_accuracy", "discrimination"):
        np.testing.assert_allclose(perfect[column], 1)
    for column in ("mae", "mae_changed", "mae_ratio", "weighted_mse"):
        np.testing.assert_allclose(perfect[column], 0)
    still = perturbation_scores(0 * truth, truth, changed=truth != 0)
    np.testing.assert_allclose(still["pearson"], 0)
    np.testing.assert_allclose(still["sign_accuracy"], 0.5)
    np.testing.assert_allclose(still["mae_ratio"], 1)
    assert still["discrimination"].mean() == pytest.approx(0.5, abs=0.1)
    assert perfect["coverage"].isna().all()


def test_the_perturbed_mean_has_nothing_specific(truth):
    common = truth + np.linspace(-1, 1, 200)
    means = np.stack([np.delete(common, i, 0).mean(0) for i in range(8)])
    scores = perturbation_scores(means, common, changed=np.abs(common) > 0.1, seen=means)
    assert scores["pearson"].median() > 0.5
    np.testing.assert_allclose(scores["pearson_vs_mean"], 0)
    assert scores["discrimination"].isna().all()


def test_what_says_nothing_scores_like_chance():
    """Truth that is noise: no correlation comes of having the mean of the noise subtracted."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((6, 2000))
    guess = {"nothing": 0 * truth, "the same": 0 * truth + rng.standard_normal(2000)}
    guess["random"] = 0.1 * rng.standard_normal(truth.shape)
    for name, values in guess.items():
        scores = perturbation_scores(values, truth, changed=np.abs(truth) > 1)
        assert abs(scores["pearson_vs_mean"].mean()) < 0.04, name
    made = perturbation_baselines(truth, [[g] for g in "ABCDEF"], list("ABCDEF"), rng.standard_normal((6, 2)))
    for name in ("knn", "ridge_pca"):
        scores = perturbation_scores(
            made[name], truth, changed=np.abs(truth) > 1, seen=made["perturbed_mean"]
        )
        assert abs(scores["pearson_vs_mean"].mean()) < 0.04, name


def test_random_predictions_discriminate_like_chance():
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((20, 50))
    ranks = [discrimination(rng.standard_normal((20, 50)), truth).mean() for _ in range(30)]
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.05)
    assert np.isnan(discrimination(truth[:1], truth[:1])).all()


def test_features_left_out_do_not_count(truth):
    wrong = truth.copy()
    wrong[:, 0] = 100
    keep = np.ones(truth.shape, bool)
    keep[:, 0] = False
    scores = perturbation_scores(wrong, truth, changed=truth != 0, keep=keep)
    np.testing.assert_allclose(scores["pearson"], 1)
    np.testing.assert_allclose(scores["mae"], 0)
    np.testing.assert_allclose(scores["discrimination"], 1)


def test_coverage_and_width(truth):
    changed = truth != 0
    half = np.where(np.arange(200) % 2 == 0, 0.5, -0.1)
    scores = perturbation_scores(truth, truth, changed=changed, low=truth - half, high=truth + half)
    expected = [(changed[i] & (np.arange(200) % 2 == 0)).sum() / changed[i].sum() for i in range(8)]
    np.testing.assert_allclose(scores["coverage"], expected)
    with pytest.raises(ValueError, match="both limits"):
        perturbation_scores(truth, truth, changed=changed, low=truth)


def test_features_without_limits_are_not_in_the_coverage(truth):
    changed = truth != 0
    low, high = truth - 0.5, truth + 0.5
    low[:, ::2] = np.nan
    high[:, 1::4] = np.nan
    scores = perturbation_scores(truth, truth, changed=changed, low=low, high=high)
    np.testing.assert_allclose(scores[["coverage", "width"]], 1)
    none = perturbation_scores(truth, truth, changed=changed, low=low * np.nan, high=high)
    assert none[["coverage", "width"]].isna().all(axis=None)


def test_what_is_not_kept_may_be_unknown(truth):
    keep = np.random.default_rng(0).random(truth.shape) < 0.7
    holes = np.where(keep, truth, np.nan)
    scores = perturbation_scores(holes, holes, changed=truth != 0, keep=keep)
    np.testing.assert_allclose(scores[["pearson", "pearson_vs_mean", "discrimination"]], 1)
    means = np.stack([np.nan_to_num(np.nanmean(np.delete(holes, i, 0), 0)) for i in range(8)])
    np.testing.assert_allclose(
        perturbation_scores(means, holes, changed=truth != 0, keep=keep, seen=means)["pearson_vs_mean"],
        0,
        atol=1e-9,
    )


def test_what_is_not_kept_is_in_no_mean():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((10, 60))
    for keep in (rng.random(truth.shape) < 0.5, ~np.eye(10, 60, dtype=bool)):
        for left_out in (0, np.nan, 100):
            predicted = np.where(keep, truth, left_out)
            for measured in (np.where(keep, truth, np.nan), np.where(keep, truth, -4)):
                scores = perturbation_scores(predicted, measured, changed=np.abs(truth) > 0.1, keep=keep)
                np.testing.assert_allclose(scores["pearson_vs_mean"], 1)


def test_the_truth_less_what_was_seen_is_perfect():
    truth = np.random.default_rng(0).standard_normal((10, 60))
    truth[2:, :20] = np.nan  # known of two only: the mean of all holds more of the own than elsewhere
    keep = np.isfinite(truth)
    seen = perturbation_baselines(truth, [[g] for g in "ABCDEFGHIJ"], [], np.zeros((0, 1)))["perturbed_mean"]
    scores = perturbation_scores(truth, truth, changed=keep, keep=keep, seen=seen)
    np.testing.assert_allclose(scores["pearson_vs_mean"], 1)


def test_too_few_features_are_no_score():
    truth = np.random.default_rng(0).standard_normal((8, 20))
    keep = np.ones(truth.shape, bool)
    keep[0, 2:] = keep[1] = False
    scores = perturbation_scores(truth, truth, changed=np.abs(truth) > 0.1, keep=keep)
    assert scores.loc[:1, ["pearson", "pearson_vs_mean"]].isna().all(axis=None)
    assert np.isnan(scores.loc[1, "discrimination"])
    assert scores.loc[2:, "pearson"].notna().all()
    # a truth without a common feature is not the nearest
    assert (scores.loc[2:, "discrimination"] == 1).all()


def test_nothing_changed_is_no_score():
    scores = perturbation_scores(np.ones((2, 4)), np.zeros((2, 4)), changed=np.zeros((2, 4)))
    assert scores[["sign_accuracy", "mae_ratio", "weighted_mse"]].isna().all(axis=None)
    np.testing.assert_allclose(scores["mae"], 1)


def test_shapes_and_values_are_checked(truth):
    with pytest.raises(ValueError, match=r"predicted .* and truth"):
        perturbation_scores(truth[:3], truth, changed=truth != 0)
    with pytest.raises(ValueError, match="predicted has 1 NaN"):
        bad = truth.copy()
        bad[0, 0] = np.nan
        perturbation_scores(bad, truth, changed=truth != 0)


def test_baselines_see_the_other_perturbations_only():
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((12, 2))
    genes = [f"G{i}" for i in range(12)]
    effects = embedding @ rng.standard_normal((2, 60))
    targets = [[g] for g in genes] + [["G0", "G1"], ["G0", "absent"]]
    truth = np.vstack([effects, effects[0] + effects[1], rng.standard_normal((1, 60))])
    made = perturbation_baselines(truth, targets, genes, embedding)
    np.testing.assert_array_equal(made["no_change"], 0)
    np.testing.assert_allclose(made["perturbed_mean"][3], np.delete(truth, 3, 0).mean(0))
    np.testing.assert_allclose(made["additive"][12], truth[12])
    assert np.isnan(made["additive"][[0, 13]]).all()
    assert np.corrcoef(made["ridge_pca"][4], truth[4])[0, 1] > 0.95
    np.testing.assert_array_equal(made["ridge_pca"][13], made["perturbed_mean"][13])
    nearest = np.argsort(np.linalg.norm(np.vstack([embedding, embedding[:2].sum(0)]) - embedding[5], axis=1))[
        1:4
    ]
    np.testing.assert_allclose(made["knn"][5], truth[nearest].mean(0))
    assert_its_own_truth_is_not_seen(4, truth, targets, genes, embedding)


def test_baselines_fill_what_the_others_did_not_measure():
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(8)]
    truth = rng.standard_normal((8, 30))
    truth[0, :10] = truth[1:3, 5] = np.nan
    targets, embedding = [[g] for g in genes], rng.standard_normal((8, 2))
    made = perturbation_baselines(truth, targets, genes, embedding)
    for name in ("perturbed_mean", "ridge_pca", "knn"):
        assert np.isfinite(made[name]).all()
    np.testing.assert_allclose(made["perturbed_mean"][4], np.nanmean(np.delete(truth, 4, 0), 0))
    assert_its_own_truth_is_not_seen(4, truth, targets, genes, embedding)


def test_baselines_of_fewer_features_than_components():
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(12)]
    truth = rng.standard_normal((12, 4))
    made = perturbation_baselines(truth, [[g] for g in genes], genes, rng.standard_normal((12, 2)))
    assert np.isfinite(made["ridge_pca"]).all()


def test_energy_distance():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 3)), rng.standard_normal((300, 3))
    assert abs(energy_distance(x, y)) < 0.05
    assert energy_distance(x, y + 2) > 1
    with pytest.raises(ValueError, match="two or more cells"):
        energy_distance(x[:1], y)

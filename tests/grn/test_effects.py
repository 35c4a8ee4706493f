from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.stats import false_discovery_control

from mmopt._response import Form
from mmopt.grn.effects import (
    Perturbation,
    Scene,
    against_null,
    benjamini_hochberg,
    epistasis,
    summarise,
    tail_p,
)
from mmopt.grn.network import Network
from mmopt.grn.propagation import Cells, Readout


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    source, target = np.array([0, 0, 1]), np.array([2, 3, 4])
    weights = np.array([[3, -3, 2.0], [2, -2, 2.5], [4, -3, 1.0]])
    forms = (Form(1.0, 0.4), Form(2.0, 0.4), Form(2.0, 0.3))
    network = Network(np.arange(2), source, target, weights, forms, (3, 6, 9), 6)
    cells = Cells(rng.uniform(0.2, 0.8, (10, 6)), np.full(6, 2.0))
    averaging = np.stack([np.full(10, 0.1), np.repeat([0.25, 0], [4, 6])])
    return Scene(network, cells, Readout([(slice(0, 6), "share")], np.full(6, 50.0), np.zeros(6)), averaging)


def test_effects_have_the_sign_of_their_edges_and_average_over_the_groups(scene):
    draws, clipped = scene.draws(Perturbation({0: 0.0}, {}))
    assert draws.shape == (3, 2, 6)
    assert clipped.shape == (2,)
    assert (draws[:, :, 2] < 0).all()
    assert (draws[:, :, 3] > 0).all()
    level, _ = scene.moved(Perturbation({0: 0.0}, {}), 1)
    before = scene.readout.logged(scene.cells.level, [0])
    after = scene.readout.logged(level, [0])
    np.testing.assert_allclose(draws[1, 1], (after - before)[:4].mean(0), atol=1e-6)


def test_no_edges_no_effect_beyond_the_gene_itself(scene):
    draws, _ = scene.draws(Perturbation({5: 0.0}, {}))
    np.testing.assert_array_equal(draws[..., :5], 0)
    assert (draws[..., 5] < 0).all()


def test_number_of_steps_is_each_members_or_the_one_given(scene):
    own = scene.draws(Perturbation({0: 0.0}, {}))[0]
    for member, n in enumerate((3, 6, 9)):
        np.testing.assert_array_equal(scene.draws(Perturbation({0: 0.0}, {}, n))[0][member], own[member])
    assert np.isfinite(scene.draws(Perturbation({0: 0.0}, {}, "steady"))[0]).all()


def test_shuffled_targets_keep_the_size_of_effects_but_not_where_they_are(scene):
    null = scene.null(Perturbation({0: 0.0}, {}), 30, np.random.default_rng(0))
    assert null.shape == (30, 2, 6)
    assert (np.abs(null[:, 0, 4]) > 0.1).any()
    assert (np.abs(null[:, 0, 2]) < 0.05).any()


def test_summary_widens_the_ensemble_and_is_zero_where_nothing_moves():
    draws = np.zeros((4, 1, 3))
    draws[:, 0, 0] = [1, 2, 1, 2]
    out = summarise(draws, np.array([1.0, 0.5, 0.0]))
    assert out["delta"].tolist() == [[1.5, 0, 0]]
    assert out["sd"][0, 0] > draws[:, 0, 0].std(ddof=1)
    assert out["sd"][0, 2] == 0
    assert out["prob_up"][0].tolist() == pytest.approx([out["prob_up"][0, 0], 0.5, 0.5])
    assert out["prob_up"][0, 0] > 0.9
    np.testing.assert_allclose(out["q95"] - out["delta"], out["delta"] - out["q05"])
    still = summarise(np.zeros((4, 1, 2)), np.ones(2))
    assert not still["sd"].any()


def test_what_two_do_beyond_their_sum_has_the_quantiles_of_the_members():
    rng = np.random.default_rng(0)
    one, two, beyond = (rng.standard_normal((11, 2, 4)) for _ in range(3))
    found = epistasis(one + two + beyond, one, two, exclude=[1])
    assert np.isnan(found["epistasis"][:, 1]).all()
    free = [0, 2, 3]
    np.testing.assert_allclose(found["epistasis"][:, free], beyond.mean(0)[:, free])
    assert ((found["epistasis_q05"] < found["epistasis_q95"]) | (np.arange(4) == 1)).all()
    sums = epistasis(one + two, one, two)
    np.testing.assert_allclose([sums["epistasis_q05"], sums["epistasis_q95"]], 0, atol=1e-12)


def test_what_is_taken_back_is_not_excluded():
    draws = np.random.default_rng(3).normal(1.0, 0.1, size=(20, 2, 4))
    spread = np.full(4, 0.1)
    whole, half = summarise(draws, spread), summarise(draws, spread, kept=np.full((2, 4), 0.5))
    np.testing.assert_allclose(half["delta"], 0.5 * whole["delta"])
    np.testing.assert_allclose(half["sd"] ** 2, whole["sd"] ** 2 + (0.5 * whole["delta"]) ** 2)
    assert (half["q95"] > whole["delta"]).all()


def test_p_values_of_a_null_against_itself_are_uniform_and_rank_what_is_larger():
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 1.5, 400)
    null = rng.standard_normal((20, 1, 400)) * spread
    delta = rng.standard_normal((1, 400)) * spread
    delta[0, 0] = 8 * spread[0]
    p, band = against_null(delta, null, spread, [slice(0, 300), slice(300, 400)], [1])
    assert np.isnan(p[0, 1])
    assert 0 < p[0, 0] < 1 / (1 + 20 * 299)
    rest = p[0, 2:]
    assert abs(np.mean(rest < 0.1) - 0.1) < 0.05
    assert abs(rest.mean() - 0.5) < 0.06
    beyond = np.abs(delta[0]) > band[0]
    np.testing.assert_array_equal(beyond[2:300], rest[:298] < 0.0502)


def test_benjamini_hochberg_against_scipy():
    p = np.random.default_rng(1).uniform(size=50) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()


@pytest.mark.parametrize("law", ["expon", "lognorm"])
def test_p_values_beyond_the_draws_follow_the_tail(law):
    """Sizes that are truly as rare as one in 100,000 or a million, from 8,000 draws."""
    rng = np.random.default_rng(0)
    true = {"expon": stats.expon(), "lognorm": stats.lognorm(0.5)}[law]
    rare = true.isf([1e-3, 1e-5, 1e-6])
    found = np.stack([tail_p(rare, np.sort(true.rvs(8000, random_state=rng))) for _ in range(30)])
    ratio = np.median(np.log10(found), axis=0) - [-3, -5, -6]
    assert (np.abs(ratio) < [0.1, 0.6, 0.9]).all(), ratio
    assert (found[:, 2] < 1 / 8001).mean() > 0.9


def test_p_values_fall_with_size_are_ranks_below_the_tail_and_never_nothing():
    drawn = np.sort(np.random.default_rng(1).gamma(2, size=5000))
    size = np.linspace(0, 60, 2000)
    p = tail_p(size, drawn)
    assert (np.diff(p) <= 1e-12).all()
    assert (p > 0).all()
    body = size < drawn[4000]
    np.testing.assert_allclose(p[body], [(1 + (drawn >= s).sum()) / 5001 for s in size[body]])
    # too few to fit a tail, and a tail without spread: ranks
    assert tail_p(np.array([9.0]), np.arange(50.0) / 50) == pytest.approx(1 / 51)
    assert tail_p(np.array([9.0]), np.zeros(500)) == pytest.approx(1 / 501)


def test_shuffled_regulators_stay_regulators(scene):
    """Else an effect would die out after the first step, and null networks would have none of the broad effects."""
    order = scene.shuffled(np.random.default_rng(0))
    assert sorted(order[:2]) == [0, 1]
    assert sorted(order[2:]) == [2, 3, 4, 5]
    assert any(scene.shuffled(np.random.default_rng(s))[0] == 1 for s in range(9))


def test_one_modality_alone_has_the_effects_it_has_among_all(scene):
    network = replace(scene.network, regulators=np.array([0, 4]), target=np.array([2, 4, 1]))
    blocks = [(slice(0, 3), "share"), (slice(3, 6), "ratio")]
    both = replace(scene, network=network, readout=replace(scene.readout, blocks=blocks))
    alone, place = both.narrowed(slice(0, 3))
    assert place == {0: 0, 1: 1, 2: 2, 4: 3}
    assert alone.readout.blocks == [(slice(0, 3), "share"), (slice(3, 4), "ratio")]
    for column in (0, 4):
        whole = both.draws(Perturbation({column: 0.0}, {}))[0]
        few = alone.draws(Perturbation({place[column]: 0.0}, {}))[0]
        assert np.abs(whole[..., :3]).max() > 0.1
        np.testing.assert_allclose(few[..., :3], whole[..., :3], atol=1e-6)

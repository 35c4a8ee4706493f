import numpy as np
import pytest

from mmopt._response import Form
from mmopt.grn.network import Network
from mmopt.grn.propagation import Cells, propagate
from mmopt.grn.search import (
    KNOCKOUT,
    OVEREXPRESS,
    Journey,
    best_by_chance,
    best_by_markers,
    every_set,
    extend,
    marker_difference,
    matched_sets,
    score,
    search,
)


def task(n_cells=12, seed=0, n_members=3):
    """Five regulators (columns 1, 3, 4, 6, 7) of ten features, three groups."""
    rng = np.random.default_rng(seed)
    regulators, n, p = np.array([1, 3, 4, 6, 7]), 10, 5
    edges = [(s, t) for s in range(p) for t in range(n) if rng.random() < 0.6]
    source, target = map(np.array, zip(*edges, strict=True))
    network = Network(
        regulators,
        source,
        target,
        rng.normal(0, 2, (n_members, len(edges))),
        tuple(Form(float(1 + m), 0.4) for m in range(n_members)),
        tuple(4 + m for m in range(n_members)),
        n,
    )
    level = rng.uniform(0, 1, (n_cells, n))
    seen = np.array([0, 1, 2, 4, 5, 8])
    centres = rng.uniform(0, 1, (3, len(seen))).astype(np.float32)
    centres[1] = level[:, seen].mean(0)
    spread = rng.uniform(0.1, 0.4, len(seen)).astype(np.float32)
    gap = rng.normal(size=p)
    return Journey(
        network, Cells(level, np.full(n, 1.1)), seen, centres, spread, np.full(p, 2, np.float32), gap
    )


WAYS = [(i, way) for i in range(5) for way in (KNOCKOUT, OVEREXPRESS)]


def naive_distances(journey, members, member):
    """One set through :func:`propagate` of all features, and the distances by hand."""
    regulators = journey.network.regulators
    clamps = {
        int(regulators[i]): float(journey.raised[i]) if way == OVEREXPRESS else 0.0 for i, way in members
    }
    level, _ = propagate(
        journey.cells,
        regulators,
        journey.network.dense(member),
        journey.network.forms[member],
        clamps,
        n_steps=journey.network.n_steps[member],
    )
    free = [j for j, column in enumerate(journey.seen) if column not in clamps]

    def apart(values, centre):
        return np.mean([sum(((v[j] - centre[j]) / journey.spread[j]) ** 2 for j in free) for v in values])

    start = journey.cells.level[:, journey.seen]
    after = level[:, journey.seen]
    return np.array([apart(after, c) for c in journey.centres]) / apart(start, journey.centres[0])


@pytest.mark.parametrize("member", [0, 1, 2])
def test_many_at_once_are_as_one_at_a_time(member, monkeypatch):
    journey = task()
    sets = [*every_set(WAYS, 1), *every_set(WAYS, 2)]
    expected = np.stack([naive_distances(journey, s, member) for s in sets])
    np.testing.assert_allclose(journey.distances(sets, member), expected, rtol=2e-4)
    monkeypatch.setattr("mmopt.grn.search._ROWS", 30)  # batches of two sets
    np.testing.assert_allclose(journey.distances(sets, member), expected, rtol=2e-4)


def test_progress_is_nothing_for_a_regulator_without_edges():
    journey = task()
    quiet = np.flatnonzero(journey.network.source != 2)
    network = Network(
        journey.network.regulators,
        journey.network.source[quiet],
        journey.network.target[quiet],
        journey.network.weights[:, quiet],
        journey.network.forms,
        journey.network.n_steps,
        10,
    )
    still = Journey(
        network, journey.cells, journey.seen, journey.centres, journey.spread, journey.raised, journey.gap
    )
    np.testing.assert_allclose(still.progress([((2, OVEREXPRESS),), ((2, KNOCKOUT),)], 0), 0, atol=1e-5)


def test_progress_is_one_where_the_cells_arrive_at_the_target(monkeypatch):
    journey = task()
    there = np.tile(journey.centres[0], (1, 12, 1))
    monkeypatch.setattr(Journey, "arrive", lambda *_: iter([(slice(0, 1), there)]))
    for clamped in ((0, KNOCKOUT), (1, OVEREXPRESS)):  # 1 is among the features that are seen
        np.testing.assert_allclose(journey.progress([(clamped,)], 0), 1, rtol=1e-5)
    np.testing.assert_allclose(journey.progress([((0, KNOCKOUT),)], 0, identity=0.3), 1, rtol=1e-5)


def test_the_score_is_the_share_of_the_groups_that_are_not_the_target():
    apart = np.array([0.0, 1.0, 0.2])
    distances = np.array(
        [[0.05, 0.9, 0.05], [0.0, 1.0, 0.2], [0.2, 0.6, 0.0], [0.0, 1e5, 1e5], [1e5, 0.0, 0.0]]
    )
    near = np.exp(-2 * np.minimum((distances - distances[:, :1]) / [1.0, 1.0, 0.2], 1))
    np.testing.assert_allclose(score(distances, apart)[:4], 1 - 1 / near[:4].sum(1))
    # between the target and its sibling, at its centre, at that of the sibling, beyond it, and where an exponential is too large
    between, there, beside, beyond, far = score(distances, apart)
    assert there == beyond < between < beside <= far == 1
    np.testing.assert_allclose(score(distances, apart, identity=0)[:3], 1 - 1 / near[:3, :2].sum(1))
    half = 1 + near[0, 1] + near[0, 2] / 2
    np.testing.assert_allclose(score(distances, apart, identity=0.5)[0], 1 - 1 / half)


def test_groups_that_are_one_do_not_decide_by_their_noise():
    apart, distances = np.array([0.0, 1.0, 1e-9]), np.array([[0.3, 0.5, 0.3 - 1e-6], [0.3, 0.5, 0.3 + 1e-6]])
    np.testing.assert_allclose(*score(distances, apart), rtol=1e-3)


def test_shares_of_the_nearest_group_add_up():
    journey = task()
    sets = every_set(WAYS, 1)
    nearest = journey.nearest(sets, 1)
    assert nearest.shape == (10, 3)
    np.testing.assert_allclose(nearest.sum(1), 1)


def test_the_beam_finds_what_trying_all_finds_when_it_is_wide():
    journey = task()
    alike = {"members": [0, 2], "cells": slice(0, 8)}
    complete = search(journey, WAYS, 3, **alike)
    beam = search(journey, WAYS, 3, most=10, width=40, **alike)
    assert [complete[n][2] for n in (1, 2, 3)] == [True] * 3
    assert [beam[n][2] for n in (1, 2, 3)] == [True, False, False]
    assert len(complete[2][0]) == 40
    assert len(complete[3][0]) == 80
    for size in (1, 2, 3):
        best = complete[size][0][np.argmax(complete[size][1])]
        assert best == beam[size][0][np.argmax(beam[size][1])]
        assert all(len({number for number, _ in s}) == size for s in beam[size][0])


def test_a_search_asks_for_no_more_than_there_is():
    assert set(search(task(), [(0, KNOCKOUT), (0, OVEREXPRESS)], 3, members=[0])) == {1}


def test_the_null_is_the_best_of_a_search_in_other_networks():
    journey = task()
    alike = {"n": 6, "identity": 1.0, "cells": slice(0, 8), "width": 5}
    drawn = best_by_chance(journey, WAYS, 2, rng=np.random.default_rng(0), **alike)
    again = best_by_chance(journey, WAYS, 2, rng=np.random.default_rng(0), **alike)
    assert drawn.shape == (6, 2)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn[:, 1] >= drawn[:, 0] - 0.5).all()
    assert np.ptp(drawn[:, 0]) > 0


def test_markers_are_added_up():
    journey = task()
    sets = every_set(WAYS, 2)
    values = marker_difference(journey, sets)
    for s, v in zip(sets, values, strict=True):
        assert v == pytest.approx(sum(way * journey.gap[i] for i, way in s))
    assert best_by_markers(journey, WAYS, 2) == sets[int(np.argmax(values))]


def test_matched_sets_do_the_same_to_others():
    rng = np.random.default_rng(0)
    members = ((0, KNOCKOUT), (3, OVEREXPRESS))
    drawn = matched_sets(members, np.arange(8.0), np.arange(8), 50, rng)
    assert drawn
    for s in drawn:
        assert not {0, 3} & {number for number, _ in s}
        assert sorted(way for _, way in s) == [KNOCKOUT, OVEREXPRESS]
    assert matched_sets(members, np.arange(4.0), np.array([0, 3]), 5, rng) == []


def test_extend_adds_one_and_repeats_nothing():
    grown = extend([((0, KNOCKOUT),), ((1, KNOCKOUT),)], WAYS)
    assert len(grown) == len(set(grown)) == 2 * 8 - 1
    assert ((0, KNOCKOUT), (1, KNOCKOUT)) in grown

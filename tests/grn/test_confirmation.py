from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmopt._response import Form
from mmopt.grn.confirmation import Confirmation, confirm
from mmopt.grn.ensemble import fit_network
from mmopt.grn.problem import Problem


@pytest.fixture(scope="module")
def problem():
    """Regulators 0 and 1 act on 30 genes each, as the evidence says; it gives 2, a decoy, 30 genes that it does not act on."""
    rng = np.random.default_rng(0)
    n, p, per = 400, 3, 30
    x = rng.beta(0.6, 0.6, (n, p))
    on = Form(2.0, 0.4)(x)
    genes = np.repeat(on, per, axis=1)
    genes[:, 2 * per :] = on[:, [0]] * rng.uniform(0, 1, per)  # the decoy's genes follow 0
    genes = 0.1 + 0.8 * genes + 0.05 * rng.standard_normal(genes.shape)
    level = np.hstack([x, genes])
    sign = np.zeros((p + p * per, p))
    for number in range(p):
        sign[p + per * number : p + per * (number + 1), number] = 1
    return Problem(level, np.full(level.shape, np.nan), np.full(level.shape[1], np.nan), np.arange(p), sign)


def test_the_evidence_of_a_decoy_is_confirmed_no_more_than_by_chance(problem):
    evidence = confirm(problem, 0.02, 100.0)
    np.testing.assert_array_equal(evidence.known, [30, 30, 30])
    assert (evidence.confirmed[:2] > 25).all()
    assert evidence.confirmed[2] < 10
    assert (evidence.by_chance[:2] < evidence.confirmed[:2]).all()
    np.testing.assert_allclose(evidence.doubt[:2], 0)
    assert evidence.doubt[2] > 0.9
    np.testing.assert_array_equal(confirm(problem, 0.02, 100.0).by_chance, evidence.by_chance)


def test_only_genes_count(problem):
    fewer = replace(problem, n_genes=3 + 60)
    evidence = confirm(fewer, 0.02, 100.0)
    np.testing.assert_array_equal(evidence.known, [30, 30, 0])
    assert evidence.doubt[2] == 0  # of which nothing is known


def test_without_evidence_nobody_is_trusted_or_doubted(problem):
    evidence = confirm(replace(problem, sign=0 * problem.sign), 0.02, 100.0)
    np.testing.assert_array_equal(evidence.share, 0)
    np.testing.assert_array_equal(evidence.doubt, 0)


def test_edges_of_a_doubted_regulator_shrink_and_those_of_others_do_not(problem):
    def sizes(doubted):
        confirmed = np.array([30, 30, 0 if doubted else 30])
        evidence = Confirmation(np.full(3, 30), confirmed, np.full(3, 5.0))
        network, *_ = fit_network(problem, 0.02, evidence, n_members=8, prior_strength=2.0)
        return np.abs(np.mean([network.dense(m) for m in range(8)], axis=0)).sum(0)

    before, after = sizes(False), sizes(True)
    assert after[2] < 0.6 * before[2]
    np.testing.assert_allclose(after[:2], before[:2], rtol=0.1)


def test_a_regulator_with_few_confirmed_edges_is_believed_few_others(problem):
    sign = problem.sign.copy()
    sign[3 + 30 + 2 :, 1] = 0  # of regulator 1 the evidence has two edges of thirty
    few = replace(problem, sign=sign)

    def sizes(n):
        evidence = Confirmation(np.array([n, 2, n]), np.array([n, 2, n]), np.full(3, 0.1))
        network, *_ = fit_network(few, 0.02, evidence, n_members=8, prior_strength=10.0)
        weights = np.abs(np.mean([network.dense(m)[3:, 1] for m in range(8)], axis=0))
        return weights[30:32].sum(), weights[32:].sum() + weights[:30].sum()

    (inside, outside), (inside_fewer, outside_fewer) = sizes(2), sizes(30)
    assert outside_fewer < 0.8 * outside
    np.testing.assert_allclose(inside_fewer, inside, rtol=0.1)


counts = st.lists(
    st.integers(0, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.floats(0, n, allow_nan=False))
    ),
    min_size=1,
    max_size=8,
)


@given(counts)
def test_doubt_is_a_share_and_nobody_is_doubted_where_nothing_is_confirmed(rows):
    known, confirmed, by_chance = map(np.array, zip(*rows, strict=True))
    evidence = Confirmation(known, confirmed, by_chance)
    assert ((evidence.doubt >= 0) & (evidence.doubt <= 1)).all()
    np.testing.assert_allclose(evidence.doubt[known == 0], 0, atol=1e-12)
    assert ((evidence.share >= 0) & (evidence.share < 1)).all()
    assert (evidence.fewer >= 1).all()
    assert 0 <= evidence.worth <= 1
    assert (evidence.fewer[evidence.confirmed == evidence.confirmed.max()] == 1).all()
    # evidence of which nothing is confirmed, so no more than by chance, casts no doubt on anyone
    np.testing.assert_allclose(Confirmation(known, 0 * confirmed, by_chance).doubt, 0, atol=1e-12)


def test_doubt_is_that_of_two_binomials():
    evidence = Confirmation(np.array([96, 8]), np.array([80, 0]), np.array([24.0, 2.0]))
    chance, usual = (2 + 4 * 26 / 104) / 12, 80 / 104
    odds = ((1 - usual) / (1 - chance)) ** 8
    assert evidence.doubt[1] == pytest.approx(2 / (1 + odds) - 1)
    assert evidence.doubt[0] == 0


def test_where_evidence_says_nothing_nobody_is_believed_fewer_edges():
    known, confirmed = np.array([30, 30, 3]), np.array([20, 20, 0])
    plenty, little, none = (Confirmation(known, confirmed, np.full(3, c)) for c in (5.0, 12.5, 14.0))
    assert (plenty.worth, none.worth) == (1, 0)
    assert little.worth == pytest.approx(3 * 2.5 / 25.5)
    np.testing.assert_allclose(plenty.fewer, [1, 1, 43 / 3])
    np.testing.assert_allclose(little.fewer[2], (43 / 3) ** little.worth)
    np.testing.assert_array_equal(none.fewer, 1)

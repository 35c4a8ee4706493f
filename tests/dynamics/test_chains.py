from itertools import pairwise

import numpy as np
from scipy import sparse

from mmopt.dynamics import descendants, offspring, sample_ancestors, sample_chains


def plans(rng, sizes):
    weights = [w / w.sum() for w in (rng.exponential(size=n) for n in sizes)]
    out = []
    for n, m in pairwise(sizes):
        plan = rng.random((n, m)) * (rng.random((n, m)) < 0.6) + 1e-3
        for _ in range(500):
            plan *= (weights[len(out)] / plan.sum(1))[:, None]
            plan *= weights[len(out) + 1] / plan.sum(0)
        out.append(sparse.csr_matrix(plan))
    return weights, out


def test_the_whole_population_ends_as_it_was_measured():
    weights, couplings = plans(np.random.default_rng(0), [6, 8, 5])
    steps = descendants(couplings, weights[0], 0, weights)
    for step, weight in zip(steps, weights, strict=True):
        np.testing.assert_allclose(step, weight, atol=1e-6)


def test_fate_probabilities_are_a_product_of_transitions():
    _, couplings = plans(np.random.default_rng(1), [6, 8, 5])
    dense = [c.toarray() / c.toarray().sum(1, keepdims=True) for c in couplings]
    expected = np.eye(6) @ dense[0] @ dense[1]
    np.testing.assert_allclose(descendants(couplings, np.eye(6), 0)[-1], expected, atol=1e-12)


def test_offspring_is_what_the_descendants_weigh():
    rng = np.random.default_rng(7)
    sizes = [6, 8, 5]
    weights = [w / w.sum() for w in (rng.exponential(size=n) for n in sizes)]
    couplings = [sparse.csr_matrix(rng.random(shape)) for shape in pairwise(sizes)]
    dense = [c.toarray() / w[:, None] for c, w in zip(couplings, weights, strict=False)]
    np.testing.assert_allclose(offspring(couplings, 0, weights), (dense[0] @ dense[1]).sum(1))
    np.testing.assert_allclose(offspring(couplings, 1, weights), dense[1].sum(1))


def test_chains_are_distributed_as_the_descendants():
    weights, couplings = plans(np.random.default_rng(2), [6, 8, 5])
    mass = np.array([1.0, 1, 0, 0, 0, 0])
    chains = sample_chains(couplings, mass, 0, 20000, np.random.default_rng(3), weights)
    assert set(chains[0]) <= {0, 1}
    for row, expected in zip(chains, descendants(couplings, mass, 0, weights), strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=len(expected)) / 20000, expected, atol=0.015)
    # neighbours on a chain are coupled, never a pair of no mass
    pair = couplings[0].toarray()[chains[0], chains[1]]
    assert (pair > 0).all()


def test_ancestors_of_given_cells_are_those_of_the_couplings():
    weights, couplings = plans(np.random.default_rng(4), [6, 8, 5])
    cells = np.repeat([1, 3], 20000)
    lines = sample_ancestors(couplings, cells, 2, np.random.default_rng(5), weights)
    np.testing.assert_array_equal(lines[-1], cells)
    # in balance, who is the ancestor of whom is the column of the plan
    joint = couplings[1].toarray()
    first = couplings[0].toarray() / weights[1]
    for cell, part in ((1, lines[:, :20000]), (3, lines[:, 20000:])):
        back = joint[:, cell] / joint[:, cell].sum()
        np.testing.assert_allclose(np.bincount(part[1], minlength=8) / 20000, back, atol=0.015)
        np.testing.assert_allclose(np.bincount(part[0], minlength=6) / 20000, first @ back, atol=0.015)
    assert sample_ancestors(couplings, np.array([2]), 0, np.random.default_rng(6), weights).tolist() == [[2]]

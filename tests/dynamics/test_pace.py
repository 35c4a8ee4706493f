from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from mmopt.dynamics import change, couple


def slowly(levels, times, plans):
    """The same, cell by cell."""
    last, out = len(levels) - 1, []
    for t, here in enumerate(levels):
        rows = []
        for i in range(len(here)):
            after = min(t + 1, last)
            if t < last:
                ahead = np.average(levels[t + 1], axis=0, weights=plans[t][i])
            else:  # the mean of all that share its ancestors
                shares = [plans[t - 1][a] / plans[t - 1][a].sum() for a in range(len(levels[t - 1]))]
                ahead = np.average(np.array(shares) @ here, axis=0, weights=plans[t - 1][:, i])
            if t:
                behind = np.average(levels[t - 1], axis=0, weights=plans[t - 1][:, i])
            else:
                shares = [plans[0][:, d] / plans[0][:, d].sum() for d in range(len(levels[1]))]
                behind = np.average(np.array(shares) @ here, axis=0, weights=plans[0][i])
            rows.append((ahead - behind) / (times[after] - times[max(t - 1, 0)]))
        out.append(np.array(rows))
    return out


@given(st.integers(0, 10_000), st.lists(st.integers(2, 6), min_size=2, max_size=4))
def test_the_same_as_cell_by_cell(seed, sizes):
    rng = np.random.default_rng(seed)
    levels = [rng.normal(size=(n, 3)) for n in sizes]
    times = np.cumsum(rng.uniform(0.1, 2, len(sizes)))
    plans = [rng.random((a, b)) + 0.01 for a, b in pairwise(sizes)]
    found = change(levels, times, [sparse.csr_matrix(p) for p in plans])
    for mine, theirs in zip(found, slowly(levels, times, plans), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_a_drift_is_found_at_every_time_and_noise_of_single_cells_is_no_change():
    rng = np.random.default_rng(0)
    times = np.array([0.0, 1.0, 3.0])
    states = [np.column_stack([4 * t + rng.normal(size=200), rng.normal(size=200)]) for t in times]
    plans = [couple(states[i], states[i + 1]) for i in range(2)]
    noisy = [s + rng.normal(size=s.shape) for s in states]
    found = change(noisy, times, plans)
    for each in found:
        # a coupling is blurred, and at the ends the cell's own time point is blurred twice
        assert each.mean(0) == pytest.approx([4.0, 0.0], abs=0.4)
    # with the cell's own level taken away this would be -0.7
    assert abs(np.corrcoef((noisy[1] - states[1])[:, 1], found[1][:, 1])[0, 1]) < 0.2


def test_cells_without_ancestors_do_not_change():
    plan = sparse.csr_matrix(np.array([[1.0, 0.0], [0.0, 0.0]]))
    levels = [np.zeros((2, 1)), np.ones((2, 1))]
    first, second = change(levels, np.array([0.0, 1.0]), [plan])
    assert first.ravel().tolist() == [1.0, 0.0]
    assert second.ravel().tolist() == [1.0, 0.0]

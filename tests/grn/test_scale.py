import numpy as np
import pytest

from mmopt.grn.scale import chromatin_scale, tops


def test_the_top_is_a_little_above_what_is_usual():
    values = np.arange(1001.0)[:, None] * [1.0, 0.0]
    np.testing.assert_allclose(tops(values), [995 / 0.9, 1e-9])


@pytest.fixture(scope="module")
def expression():
    return 1.5 * np.random.default_rng(0).standard_normal((2000, 5)) - 1


def test_a_narrowed_and_shifted_range_is_undone(expression):
    slope, offset, together = chromatin_scale(expression, 0.4 * expression + 2, 0.5)
    np.testing.assert_allclose(slope, 2.5)
    np.testing.assert_allclose(offset, -5)
    np.testing.assert_allclose(together, 1)


def test_noise_in_chromatin_does_not_make_effects_small(expression):
    noisy = 0.4 * expression + 0.5 * np.random.default_rng(1).standard_normal(expression.shape)
    slope, offset, together = chromatin_scale(expression, noisy, 0.5)
    np.testing.assert_allclose(slope, 2.5, rtol=0.1)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(expression.T, noisy.T, strict=True)]
    np.testing.assert_allclose(together, expected)
    # per unit of expression the chromatin moves one unit
    brought = offset + slope * noisy
    for x, y in zip(expression.T, brought.T, strict=True):
        assert np.polyfit(x, y, 1)[0] == pytest.approx(1)
    np.testing.assert_allclose(brought.mean(0), expression.mean(0))


def test_chromatin_that_goes_its_own_way_is_left_out(expression):
    rng = np.random.default_rng(2)
    own = np.stack(
        [
            rng.standard_normal(2000),
            -expression[:, 1],
            np.full(2000, np.nan),
            np.full(2000, 0.3),
            expression[:, 4],
        ],
        1,
    )
    slope, offset, together = chromatin_scale(expression, own, 0.5)
    assert np.isnan(slope[:4]).all()
    assert np.isnan(offset[:4]).all()
    assert np.isnan(together[:4]).all()
    np.testing.assert_allclose((slope[4], offset[4]), (1, 0), atol=1e-12)
    assert np.isnan(chromatin_scale(np.zeros((9, 1)), own[:9, 4:], 0.5)).all()  # a gene that is constant

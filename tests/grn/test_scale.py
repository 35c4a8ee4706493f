import numpy as np
import pytest

from mmopt.grn.scale import agreement, produced, production_scale, tops


def test_the_top_is_a_little_above_what_is_usual():
    values = np.arange(1001.0)[:, None] * [1.0, 0.0]
    np.testing.assert_allclose(tops(values), [995 / 0.9, 1e-9])


@pytest.fixture(scope="module")
def expression():
    return 1.5 * np.random.default_rng(0).standard_normal((2000, 5)) - 1


def test_a_narrowed_and_shifted_range_is_undone(expression):
    slope, offset, together = production_scale(expression, 0.4 * expression + 2, 0.5)
    np.testing.assert_allclose(slope, 2.5)
    np.testing.assert_allclose(offset, -5)
    np.testing.assert_allclose(together, 1)


def test_noise_in_chromatin_does_not_make_effects_small(expression):
    noisy = 0.4 * expression + 0.5 * np.random.default_rng(1).standard_normal(expression.shape)
    slope, offset, together = production_scale(expression, noisy, 0.5)
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
    slope, offset, together = production_scale(expression, own, 0.5)
    assert np.isnan(slope[:4]).all()
    assert np.isnan(offset[:4]).all()
    assert np.isnan(together[:4]).all()
    np.testing.assert_allclose((slope[4], offset[4]), (1, 0), atol=1e-12)
    assert np.isnan(production_scale(np.zeros((9, 1)), own[:9, 4:], 0.5)).all()  # a gene that is constant


def test_what_shows_production_is_averaged_where_it_agrees_with_expression(expression):
    seen = [0.4 * expression + 2, 2 * expression - 1, -expression]
    seen[0][:, 0] = np.nan
    seen[1][:, :2] = np.nan
    scales = [production_scale(expression, each, 0.5) for each in seen]
    made = produced(seen, scales)
    np.testing.assert_allclose(made[:, 1:], expression[:, 1:])
    assert np.isnan(made[:, 0]).all()
    np.testing.assert_allclose(agreement(scales), [np.nan, 1, 1, 1, 1])
    shifted = [seen[0], seen[1] + np.random.default_rng(3).standard_normal(expression.shape)]
    scales = [production_scale(expression, each, 0.5) for each in shifted]
    each = [offset + slope * odds for odds, (slope, offset, _) in zip(shifted, scales, strict=True)]
    np.testing.assert_allclose(produced(shifted, scales)[:, 2:], np.mean(each, axis=0)[:, 2:])

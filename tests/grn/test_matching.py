import numpy as np

from mmopt.grn.matching import matched_among


def test_only_those_of_the_same_kind_and_of_like_expression_count():
    sizes = np.array([[5.0], [1.0], [1.0], [1.0], [1.0], [9.0], [9.0], [9.0]])
    expression = np.array([0.0, 0.1, 0.1, 0.1, 0.1, 5.0, 5.0, 0.1])
    kinds = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    p = matched_among(sizes, expression, kinds, 4)[:, 0]
    assert p[0] == 1 / 5  # the large ones far away, and the one of another kind, are not asked
    assert np.isnan(p[7])
    assert matched_among(sizes, expression, kinds, 6)[0, 0] == 3 / 7
    assert np.isnan(matched_among(sizes, np.where(sizes[:, 0] > 5, 0.0, np.nan), kinds * 0, 4)).all()

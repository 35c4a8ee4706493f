import numpy as np
import pandas as pd
import pytest

from mmopt.tl._held_out import _label_scores


@pytest.mark.parametrize("labelled", [slice(0, 4), slice(4, 10)])
def test_labels_on_one_side_alone_are_not_scored(labelled):
    labels = pd.Series(np.nan, range(10), dtype=object)
    labels.iloc[labelled] = "B"
    scores = _label_scores(np.eye(10), np.arange(4), labels)
    assert list(scores) == ["accuracy", "precision", "recall", "f1"] and np.isnan(list(scores.values())).all()

import numpy as np
import pandas as pd
import pytest

from mmopt.models import TriVI
from mmopt.models.mosaic import read_mosaic
from mmopt.tl._held_out import _label_scores, baseline_scores


@pytest.mark.parametrize("labelled", [slice(0, 4), slice(4, 10)])
def test_labels_on_one_side_alone_are_not_scored(labelled):
    labels = pd.Series(np.nan, range(10), dtype=object)
    labels.iloc[labelled] = "B"
    scores = _label_scores(np.eye(10), np.arange(4), labels)
    assert list(scores) == ["accuracy", "precision", "recall", "f1"] and np.isnan(list(scores.values())).all()


def test_baselines_without_components_are_left_out(toy_source):
    """The model trains on two proteins; what has no principal components must not keep it from being compared."""
    mdata = toy_source[toy_source.obs_names[:150]].copy()
    mdata.mod["prot"] = mdata["prot"][:, :2].copy()
    mdata.update()
    TriVI.setup_mudata(mdata)
    model = TriVI(mdata)
    mosaic = read_mosaic(model.adata_manager)
    held_out = np.arange(0, 150, 5)
    labels = mdata.obs["cell_type"]
    with_rna = baseline_scores(model, mosaic, held_out, labels, 0)
    assert with_rna["baseline_accuracy"] > 0
    assert np.isfinite(with_rna["baseline_mse_prot"])
    alone = mosaic.subset(np.arange(150))
    for modality in ("rna", "atac"):
        del alone.counts[modality], alone.place[modality]
    assert np.isnan(baseline_scores(model, alone, held_out, labels, 0)["baseline_accuracy"])

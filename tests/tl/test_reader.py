import numpy as np
import pytest

from mmopt.tl._members import restore
from mmopt.tl._reader import Reader, reader_of, telling
from mmopt.tl._scene import set_stage


def test_regulators_and_genes_have_the_same_say():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 50)
    on = (labels == "b")[:, None]
    level = np.hstack([on + rng.normal(0, 0.1, (100, 2)), on + rng.normal(0, 0.1, (100, 3))])
    reader = Reader(np.arange(5), level, labels, n_regulators=2)
    both, regulators, genes, neither = reader(
        np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0] * 5])
    )[:, 1]
    assert neither < 0.1 < 0.35 < min(regulators, genes) <= max(regulators, genes) < 0.65 < 0.9 < both
    np.testing.assert_allclose(reader(np.full((1, 5), 7.0)), reader(np.ones((1, 5))))  # more than fully on


@pytest.mark.parametrize(("n_columns", "n_regulators"), [(3, 3), (3, 0)])
def test_one_kind_alone_and_one_label(n_columns, n_regulators):
    level = np.random.default_rng(1).random((40, n_columns))
    labels = np.where(level[:, 0] > 0.5, "a", "b")
    share = Reader(np.arange(n_columns), level, labels, n_regulators)(level)
    assert ((share.argmax(1) == 1) == (labels == "b")).mean() > 0.8
    alone = Reader(np.arange(n_columns), level, np.full(40, "a"), n_regulators)
    np.testing.assert_array_equal(alone(level), np.ones((40, 1)))


def test_the_features_that_tell_groups_apart():
    centres = np.array([[0.0, 1.0, 0.0, 3.0], [1.0, 1.0, 0.5, 0.0]])
    assert telling(centres, np.array([0.1, 1.0, 0.1, 1.0]), 2).tolist() == [0, 2]
    assert telling(centres, np.ones(4), 2).tolist() == [0, 3]


def test_what_is_held_is_no_gene_to_read_from(twinned):
    mdata = twinned
    course, _ = restore(mdata, "twin")
    stage = set_stage(mdata, regulons="regulons", groupby=None, seed=0)
    labels = mdata.obs["cell_type"]
    names, reader, _ = reader_of(course, stage, labels, [], 0)
    p = len(stage.scene.network.regulators)
    assert names == sorted(labels.unique())
    np.testing.assert_array_equal(reader.columns[:p], stage.scene.network.regulators)
    genes = reader.columns[p:]
    assert len(genes) and not set(genes) & set(reader.columns[:p])
    assert (genes < stage.features.blocks["rna"].stop).all()
    held = [int(genes[0]), int(reader.columns[0])]
    _, other, _ = reader_of(course, stage, labels, held, 0)
    assert held[0] not in other.columns
    assert held[1] in other.columns[:p]

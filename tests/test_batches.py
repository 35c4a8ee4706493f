import logging

import numpy as np
import pandas as pd
import pytest
from mosaics import build, modality

from mmopt._batches import batch_codes


@pytest.fixture
def mosaic():
    """Cells a–d: rna has a, b, c; prot has d, b."""
    return build(rna=modality("abc", donor=["x", "y", "x"]), prot=modality("db", donor=["z", "y"]))


VALUES = {
    "string": ["x", "y", "x"],
    "categorical": pd.Categorical(["x", "y", "x"], categories=["unused", "y", "x"]),
    "integer": [10, 9, 10],
    "float": [0.5, 2.0, 0.5],
    "bool": [True, False, True],
    "nullable": pd.array([10, 9, 10], dtype="Int64"),
    "text": pd.array(["x", "y", "x"], dtype="string"),
}
CATEGORIES = {
    "string": ["x", "y"],
    "categorical": ["y", "x"],
    "integer": ["9", "10"],
    "float": ["0.5", "2"],
    "bool": ["False", "True"],
    "nullable": ["9", "10"],
    "text": ["x", "y"],
}


@pytest.mark.parametrize("where", ["mdata", "modality"])
@pytest.mark.parametrize("kind", VALUES)
def test_batch_codes_for_every_kind_of_column(kind, where):
    mdata = build(rna=modality("abc"))
    (mdata if where == "mdata" else mdata["rna"]).obs["batch"] = VALUES[kind]
    codes, categories = batch_codes(mdata, "batch", {"rna": "rna"})
    assert categories == CATEGORIES[kind]
    expected = [str(int(v)) if kind == "float" and v == 2 else str(v) for v in VALUES[kind]]
    assert [categories[code] for code in codes] == expected


@pytest.mark.parametrize("kind", ["categorical", "integer", "bool"])
def test_batches_spread_over_a_mosaic(kind):
    # cells a, b, c in rna and b, d in prot: neither column covers all cells
    values = pd.Series(VALUES[kind], index=list("abc"))
    rna = modality("abc")
    rna.obs["batch"] = values
    prot = modality("bd")
    prot.obs["batch"] = values[["b", "a"]].to_numpy()
    mdata = build(rna=rna, prot=prot)
    codes, categories = batch_codes(mdata, "batch")
    found = {cell: categories[code] for cell, code in zip(mdata.obs_names, codes, strict=True)}
    assert found == {
        "a": str(values["a"]),
        "b": str(values["b"]),
        "c": str(values["c"]),
        "d": str(values["a"]),
    }
    assert len(categories) == 2


def test_no_batch_key_and_one_category(mosaic, caplog):
    codes, categories = batch_codes(mosaic, None)
    np.testing.assert_array_equal(codes, np.zeros(4))
    assert len(categories) == 1
    mosaic.obs["one"] = "same"
    with caplog.at_level(logging.INFO, "mmopt"):
        codes, categories = batch_codes(mosaic, "one")
    assert "no batch correction" in caplog.text
    assert (list(codes), categories) == ([0, 0, 0, 0], ["same"])


def test_cells_without_a_batch_are_refused(mosaic):
    with pytest.raises(ValueError, match=r"'donor' has no value for 1 cells \('d'\)"):
        batch_codes(mosaic, "donor", {"rna": "rna"})

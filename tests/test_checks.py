import logging
import re

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mosaics import build, modality
from scipy import sparse

from mmopt import _checks
from mmopt._compat import override_pull_on_update


@pytest.fixture
def mosaic():
    """Cells a–d: rna has a, b, c; prot has d, b."""
    return build(rna=modality("abc", donor=["x", "y", "x"]), prot=modality("db", donor=["z", "y"]))


# --- find_modalities


@pytest.mark.parametrize(
    ("names", "arguments", "expected"),
    [
        (["rna", "atac", "prot"], {}, {"rna": "rna", "atac": "atac", "prot": "prot"}),
        (["ADT", "GEX"], {}, {"rna": "GEX", "prot": "ADT"}),
        (["Peaks", "cite"], {}, {"atac": "Peaks", "prot": "cite"}),
        (["rna", "protein"], {"prot": False}, {"rna": "rna"}),
        (["rna", "gex", "adt"], {"rna": "gex"}, {"rna": "gex", "prot": "adt"}),
        (["mine", "rna"], {"prot": "mine"}, {"rna": "rna", "prot": "mine"}),
        (["rna", "gex"], {"rna": "gex", "prot": "rna"}, {"rna": "gex", "prot": "rna"}),
    ],
)
def test_find_modalities(names, arguments, expected):
    mdata = build(**{name: modality("ab") for name in names})
    found = _checks.find_modalities(mdata, **arguments)
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("names", "arguments", "error", "message"),
    [
        (
            ["rna", "gex"],
            {},
            ValueError,
            r"'rna', 'gex' could each be the rna modality; name one with `rna=`",
        ),
        (
            ["rna"],
            {"prot": "adt"},
            KeyError,
            r"prot='adt': no such modality; the modalities there are: 'rna'",
        ),
        (["one", "two"], {}, ValueError, r"no modality was found; .*'one', 'two'; name them with `rna=`"),
        (["rna"], {"rna": "rna", "prot": "rna"}, ValueError, "one modality was given for two roles"),
        (["rna"], {"rna": True}, TypeError, "rna=True: give a modality's name, None to look for it or False"),
    ],
)
def test_find_modalities_refuses(names, arguments, error, message):
    with pytest.raises(error, match=message):
        _checks.find_modalities(build(**{name: modality("ab") for name in names}), **arguments)


def test_find_modalities_wants_a_mudata():
    with pytest.raises(TypeError, match=re.escape('wrap it: `mudata.MuData({"rna": adata})`')):
        _checks.find_modalities(modality("ab"))
    with pytest.raises(TypeError, match=r"a MuData is needed, not dict$"):
        _checks.find_modalities({})


def test_find_modalities_refuses_empty_ones_and_shared_features():
    mdata = build(rna=modality("ab"), prot=modality("ab", n_vars=0))
    with pytest.raises(
        ValueError, match=r"'prot' is empty \(2 cells × 0 features\).*leave it out with `prot=False`"
    ):
        _checks.find_modalities(mdata)
    with override_pull_on_update():
        mdata = mudata.MuData({"rna": modality("ab"), "prot": modality("cd")}, axis=1)
    with pytest.raises(ValueError, match="share features, not cells"):
        _checks.find_modalities(mdata)


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["rna", "antibody"], {}, r"'antibody': not used; .*`atac=` or `prot=`"),
        (["rna", "antibody"], {"atac": False}, r"'antibody': not used; .* name it with `prot=`$"),
        (["rna", "antibody"], {"atac": False, "prot": False}, None),
        (["rna", "atac", "prot", "hto"], {}, None),
        (["rna", "antibody"], {"prot": "antibody"}, None),
    ],
)
def test_modalities_that_are_left_out_are_named(names, given, said, caplog):
    mdata = build(**{name: modality("ab") for name in names})
    found = _checks.find_modalities(mdata, **given)
    _checks.report_unused(mdata, found, **dict.fromkeys(("rna", "atac", "prot")) | given)
    assert re.search(said, caplog.text.strip()) if said else not caplog.text


# --- counts

COUNTS = np.array([[0, 3, 1], [2, 0, 0]], dtype=np.float64)


def with_x(x, **layers):
    return anndata.AnnData(x, layers=layers or None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint16])
@pytest.mark.parametrize(
    "kind", [np.asarray, np.asfortranarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array]
)
def test_counts_of_any_kind_come_back_as_float32(kind, dtype):
    source = kind(COUNTS.astype(dtype))
    result = _checks.counts(with_x(source), "rna")
    assert result.dtype == np.float32
    assert isinstance(result, sparse.csr_matrix if sparse.issparse(source) else np.ndarray)
    np.testing.assert_array_equal(result.toarray() if sparse.issparse(result) else result, COUNTS)


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.float64, (4, 3), elements=st.sampled_from([0.0, 1.0, 7.0, -1.0, 0.5, np.nan, np.inf, 2.0**25]))
)
def test_sparse_and_dense_agree_with_the_definition_of_counts(x):
    good = np.isfinite(x).all() and (x >= 0).all() and (x == np.floor(x)).all() and 0 < x.max() <= 2**24
    for kind in (np.asarray, sparse.csr_matrix):
        if good:
            result = _checks.counts(with_x(kind(x)), "rna")
            np.testing.assert_array_equal(result.toarray() if sparse.issparse(result) else result, x)
        else:
            with pytest.raises(ValueError, match="modality 'rna', X"):
                _checks.counts(with_x(kind(x)), "rna")


def test_which_layer_is_read():
    adata = with_x(COUNTS, counts=COUNTS * 2, other=COUNTS * 3)
    for layer, factor in [(None, 2), ("counts", 2), ("other", 3), ("X", 1)]:
        np.testing.assert_array_equal(_checks.counts(adata, "rna", layer), COUNTS * factor)
    with pytest.raises(
        KeyError,
        match=r"'rna' has no layer 'raw'; the layers there are: 'counts', 'other', 'X'.*in each as layers",
    ):
        _checks.counts(adata, "rna", "raw")


def test_sparse_result_is_canonical_and_the_source_untouched():
    # the entry (0, 1) is stored twice, the entry (0, 2) is a stored zero
    source = sparse.csr_matrix(
        (np.array([1.0, 2.0, 0.0, 5.0]), np.array([1, 1, 2, 0]), np.array([0, 3, 4])), (2, 3)
    )
    adata = with_x(source)
    result = _checks.counts(adata, "rna")
    np.testing.assert_array_equal(result.toarray(), [[0, 3, 0], [5, 0, 0]])
    assert result.nnz == 2
    assert result.has_canonical_format
    np.testing.assert_array_equal(adata.X.data, [1, 2, 0, 5])


def test_views():
    adata = with_x(sparse.csr_matrix(COUNTS))
    np.testing.assert_array_equal(_checks.counts(adata[[1], :2], "rna").toarray(), COUNTS[[1], :2])
    assert adata[[1]].is_view


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_backed(tmp_path, kind):
    with_x(kind(COUNTS)).write_h5ad(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    result = _checks.counts(adata, "rna")
    np.testing.assert_array_equal(result.toarray() if sparse.issparse(result) else result, COUNTS)
    adata.file.close()


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.log1p(COUNTS), "looks log-normalised .*up to 1.39"),
        (COUNTS - COUNTS.mean(0), "looks z-scored or CLR-transformed"),
        (COUNTS * 33.3, "looks normalised or denoised .*`np.rint` mends"),
        (COUNTS - 1, "has 3 negative values"),
        (np.where(COUNTS == 3, np.nan, COUNTS), "has 1 values that are NaN or infinite"),
        (np.where(COUNTS > 1, np.inf, COUNTS), "has 2 values that are NaN or infinite"),
    ],
)
def test_counts_refuses_what_is_not_counts(x, message, kind):
    adata = with_x(kind(x))
    adata.raw = with_x(COUNTS)
    with pytest.raises(ValueError, match=rf"^modality 'adt', X {message}.*raw counts are needed.*has \.raw"):
        _checks.counts(adata, "adt")


def test_the_remedy_in_the_message_works():
    adata = with_x(np.log1p(COUNTS))
    adata.raw = with_x(COUNTS)
    with pytest.raises(ValueError, match="looks log-normalised") as error:
        _checks.counts(adata, "rna")
    remedy = re.search(r"e\.g\. `(.+)`$", str(error.value)).group(1)
    exec(remedy, {"mdata": {"rna": adata}})
    np.testing.assert_array_equal(_checks.counts(adata, "rna"), COUNTS)


def test_no_remedy_is_named_that_is_not_there():
    with pytest.raises(ValueError, match=r"neither layers nor \.raw.*store them, e\.g\.") as error:
        _checks.counts(with_x(np.log1p(COUNTS)), "rna")
    assert ".raw[" not in str(error.value)


def test_counts_refuses_the_rest():
    with pytest.raises(ValueError, match="above 2\\*\\*24 counts are no longer exact"):
        _checks.counts(with_x(COUNTS * 1e7), "rna")
    with pytest.raises(ValueError, match="'rna', X holds nothing but zeros"):
        _checks.counts(with_x(sparse.csr_matrix((2, 3))), "rna")
    with pytest.raises(ValueError, match="is empty: 0 cells × 3 features"):
        _checks.counts(with_x(COUNTS[:0]), "rna")
    with pytest.raises(ValueError, match="X is empty; name the layer"):
        _checks.counts(anndata.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["f"])), "rna")


# --- cells


def test_positions_and_presence(mosaic):
    modalities = {"rna": "rna", "prot": "prot"}
    present = _checks.presence(mosaic, modalities)
    for column, name in enumerate(modalities.values()):
        rows = _checks.positions(mosaic, name)
        for cell, row, here in zip(mosaic.obs_names, rows, present[:, column], strict=True):
            assert here == (cell in mosaic[name].obs_names)
            assert (mosaic[name].obs_names[row] == cell) if here else (row == -1)
        np.testing.assert_array_equal(rows, np.asarray(mosaic.obsmap[name]).ravel().astype(int) - 1)
    view = mosaic[["d", "b"]]
    np.testing.assert_array_equal(_checks.presence(view, modalities), [[False, True], [True, True]])


def test_check_obs_accepts_a_mosaic(mosaic, caplog):
    _checks.check_obs(mosaic, {"rna": "rna", "prot": "prot"})
    assert caplog.records == []


def test_check_obs_refuses_cells_without_a_modality(mosaic):
    with pytest.raises(ValueError, match=r"1 cells have none of the modalities 'rna' \('d'\)"):
        _checks.check_obs(mosaic, {"rna": "rna"})


def test_check_obs_refuses_repeated_names(mosaic):
    mosaic["rna"].obs_names = ["a", "b", "b"]
    with pytest.raises(
        ValueError, match=r"modality 'rna': 1 of the obs names repeat \('b'\).*obs_names_make_unique"
    ):
        _checks.check_obs(mosaic, {"rna": "rna"})
    mosaic["prot"].var_names = ["p", "p", "q"]
    with pytest.raises(
        ValueError, match=r"modality 'prot': 1 of the var names repeat \('p'\).*var_names_make_unique"
    ):
        _checks.check_obs(mosaic, {"prot": "prot"})


def test_check_obs_refuses_modalities_out_of_step(mosaic):
    mosaic["prot"].obs_names = ["d", "new"]
    with pytest.raises(
        ValueError, match=r"'prot': 1 cells are not in mdata.obs_names \('new'\); call `mdata.update"
    ):
        _checks.check_obs(mosaic, {"rna": "rna", "prot": "prot"})


def test_check_obs_reports_modalities_that_nothing_links(caplog):
    mdata = build(rna=modality(["a-1", "b-1"]), prot=modality(["a", "b"]))
    with caplog.at_level(logging.WARNING, "mmopt"):
        _checks.check_obs(mdata, {"rna": "rna", "prot": "prot"})
    assert "share no cells" in caplog.text
    assert "'a-1'" in caplog.text


# --- obs columns


def test_obs_column_is_combined_over_modalities(mosaic):
    column = _checks.obs_column(mosaic, "donor")
    assert column.index.equals(mosaic.obs_names)
    assert column.to_dict() == {"a": "x", "b": "y", "c": "x", "d": "z"}
    only_rna = _checks.obs_column(mosaic, "donor", {"rna": "rna"})
    assert only_rna.isna().to_dict() == {"a": False, "b": False, "c": False, "d": True}
    assert _checks.obs_column(mosaic, "prot:donor").dropna().to_dict() == {"d": "z", "b": "y"}


def test_mdata_obs_wins(mosaic):
    mosaic.obs["donor"] = pd.Series(dict(zip("abcd", "wwvv", strict=True)))
    assert _checks.obs_column(mosaic, "donor").to_dict() == dict(zip("abcd", "wwvv", strict=True))


def test_obs_column_refuses(mosaic):
    with pytest.raises(
        KeyError, match=r"no column 'Doner' in mdata.obs or in the obs of 'rna', 'prot'.*'donor'"
    ):
        _checks.obs_column(mosaic, "Doner")
    with pytest.raises(TypeError, match="the name of one obs column is needed"):
        _checks.obs_column(mosaic, ["donor"])
    mosaic["prot"].obs["donor"] = ["z", "q"]
    with pytest.raises(ValueError, match=r"'rna' and 'prot' disagree about 1 cells \('b': 'y' and 'q'\)"):
        _checks.obs_column(mosaic, "donor")


@pytest.mark.parametrize(("name", "expected"), [("gata1", "GATA1"), ("GATA", "GATA1"), ("qqqq", None)])
def test_nearest(name, expected):
    found = _checks.nearest(name, ["CD4", "GATA1", "SPI1"])
    assert (found[0] if found else None) == expected


@pytest.mark.parametrize(
    "values",
    [
        [True, False, True],
        np.array([True, False, True], object),
        pd.array([True, False, True], dtype="boolean"),
    ],
    ids=["bool", "object", "nullable"],
)
def test_marks(values):
    var = pd.DataFrame({"highly_variable": values}, index=list("abc"))
    assert _checks.marks(var, "highly_variable", "rna").tolist() == [True, False, True]


@pytest.mark.parametrize(
    "values",
    [
        [True, False, np.nan],
        pd.array([True, False, None], dtype="boolean"),
        ["True", "False", "True"],
        pd.Categorical(["True", "False", "True"]),
        [1, 0, 2],
        [1.0, 0.0, np.nan],
    ],
    ids=["NaN", "missing", "text", "categories", "numbers", "numbers and NaN"],
)
def test_marks_that_are_neither_true_nor_false(values):
    var = pd.DataFrame({"highly_variable": values}, index=list("abc"))
    with pytest.raises(TypeError, match=r"modality 'rna': var\['highly_variable'\] must hold True or False"):
        _checks.marks(var, "highly_variable", "rna")

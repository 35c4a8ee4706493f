import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import mmopt as mm
from mmopt._compat import override_pull_on_update
from mmopt.pp._variable import variable_genes, variable_peaks


def modality(x, prefix, cells):
    return anndata.AnnData(
        sparse.csr_matrix(x.astype(np.float32)),
        obs=pd.DataFrame(index=cells),
        var=pd.DataFrame(index=[f"{prefix}{i}" for i in range(x.shape[1])]),
    )


@pytest.fixture
def mdata():
    """100 cells in rna, the last 60 of them in atac, the first 50 in adt; two batches."""
    rng = np.random.default_rng(0)
    cells = np.array([f"cell{i}" for i in range(100)])
    rna = rng.poisson(np.linspace(3, 6, 80) * first_five_vary(np.arange(100) < 50, 80))
    rna[:, 79] = 0
    atac = rng.binomial(1, np.linspace(0.02, 0.98, 40), (60, 40)) * 3
    with override_pull_on_update():
        mdata = mudata.MuData(
            {
                "rna": modality(rna, "gene", cells),
                "atac": modality(atac, "peak", cells[40:]),
                "adt": modality(rng.poisson(9, (50, 6)), "protein", cells[:50]),
            }
        )
    mdata.obs["donor"] = np.where(np.arange(100) % 2, "a", "b")
    return mdata


def first_five_vary(high, n_genes):
    """Fold changes: 1.8 and 0.2 for the first five genes, whose mean stays that of the others."""
    return np.where(np.arange(n_genes) < 5, np.where(high, 1.8, 0.2)[:, None], 1.0)


def marked(mdata, name):
    return list(mdata[name].var_names[mdata[name].var["highly_variable"]])


def test_counts_are_kept_features_marked_and_nothing_else_changes(mdata):
    before = mdata.copy()
    assert mm.pp.prepare(mdata, batch_key="donor", n_top_genes=5, n_top_peaks=10) is None
    for name in mdata.mod:
        np.testing.assert_array_equal(mdata[name].X.toarray(), before[name].X.toarray())
        np.testing.assert_array_equal(mdata[name].layers["counts"].toarray(), before[name].X.toarray())
        assert not np.shares_memory(mdata[name].layers["counts"].data, mdata[name].X.data)
        assert list(mdata[name].var.columns) == ["highly_variable"]
        assert mdata[name].var["highly_variable"].dtype == bool
        assert list(mdata[name].obs.columns) == []
    assert set(marked(mdata, "rna")) == {f"gene{i}" for i in range(5)}
    assert len(marked(mdata, "atac")) == 10
    assert len(marked(mdata, "adt")) == 6


def test_copy_leaves_the_original_alone_and_a_view_needs_it(mdata):
    prepared = mm.pp.prepare(mdata, copy=True)
    assert "highly_variable" in prepared["rna"].var
    assert "highly_variable" not in mdata["rna"].var
    assert "counts" not in mdata["rna"].layers
    with pytest.raises(ValueError, match=r"mdata is a view.*`mdata = mdata.copy"):
        mm.pp.prepare(mdata[:50])
    assert "highly_variable" in mm.pp.prepare(mdata[:50], copy=True)["rna"].var


def test_it_can_be_repeated_and_survives_normalisation_of_x(mdata):
    mm.pp.prepare(mdata, n_top_genes=5)
    first, counts = marked(mdata, "rna"), mdata["rna"].layers["counts"].toarray()
    sc.pp.normalize_total(mdata["rna"])
    sc.pp.log1p(mdata["rna"])
    mm.pp.prepare(mdata, n_top_genes=5)
    assert marked(mdata, "rna") == first
    np.testing.assert_array_equal(mdata["rna"].layers["counts"].toarray(), counts)


def test_none_marks_every_feature_seen_in_min_cells(mdata):
    mm.pp.prepare(mdata, n_top_genes=None, n_top_peaks=None, min_cells=3)
    assert marked(mdata, "rna") == [f"gene{i}" for i in range(79)]
    open_cells = (mdata["atac"].X.toarray() > 0).sum(0)
    assert len(marked(mdata, "atac")) == (open_cells >= 3).sum() < 40


def test_kept_features(mdata):
    mm.pp.prepare(mdata, n_top_genes=5, keep=["gene79", "rna:gene40", "adt:protein1"])
    assert set(marked(mdata, "rna")) == {*(f"gene{i}" for i in range(5)), "gene40", "gene79"}
    mdata["adt"].var_names = ["gene1", *mdata["adt"].var_names[1:]]
    with pytest.raises(ValueError, match=r"'gene1' is in modalities 'rna', 'adt'; say e.g. 'rna:gene1'"):
        mm.pp.prepare(mdata, keep=["gene1"])
    with pytest.raises(KeyError, match="no feature 'Gene41'; nearest names: 'gene41'"):
        mm.pp.prepare(mdata, keep="Gene41")


def test_numbers_may_be_written_as_floats_and_what_is_no_number_or_name_is_refused(mdata):
    mm.pp.prepare(mdata, n_top_genes=1e1, n_top_peaks=np.float64(20))
    assert (len(marked(mdata, "rna")), len(marked(mdata, "atac"))) == (10, 20)
    for name in ("n_top_genes", "n_top_peaks", "min_cells"):
        for wrong in (5.5, "5", np.nan):
            with pytest.raises(TypeError, match=f"{name}={wrong!r}: a whole number is needed"):
                mm.pp.prepare(mdata, **{name: wrong})
    for wrong in (3, np.nan):
        with pytest.raises(TypeError, match=f"keep: names of features are needed, got {wrong}"):
            mm.pp.prepare(mdata, keep=[wrong])


def test_modalities_left_out_stay_untouched(mdata):
    mm.pp.prepare(mdata, atac=False)
    assert "highly_variable" not in mdata["atac"].var


def test_a_refusal_changes_nothing(mdata):
    mdata["adt"].X = mdata["adt"].X / np.float32(3)
    with pytest.raises(ValueError, match="modality 'adt', X looks log-normalised"):
        mm.pp.prepare(mdata)
    assert "highly_variable" not in mdata["rna"].var
    assert "counts" not in mdata["rna"].layers


def test_refusals(mdata):
    with pytest.raises(ValueError, match="n_top_genes must be at least 1; got 0"):
        mm.pp.prepare(mdata, n_top_genes=0)
    with pytest.raises(ValueError, match="'rna': no feature is detected in 101 cells; lower `min_cells`"):
        mm.pp.prepare(mdata, min_cells=101)
    with pytest.raises(KeyError, match=r"no column 'doner'.*'donor'"):
        mm.pp.prepare(mdata, batch_key="doner")
    mdata["rna"].layers["counts"], mdata["rna"].layers["raw"] = mdata["rna"].X.copy(), mdata["rna"].X * 2
    with pytest.raises(ValueError, match=r'layers\["counts"\] holds other values than layer \'raw\''):
        mm.pp.prepare(mdata, atac=False, prot=False, layer="raw")


def test_one_batch_of_genes_is_what_scanpy_chooses(mdata):
    counts = mdata["rna"].X[:, :79]
    adata = anndata.AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, flavor="seurat", n_top_genes=20, n_bins=1)
    chosen = variable_genes(counts, 20, np.zeros(100, dtype=int))
    np.testing.assert_array_equal(chosen, adata.var["highly_variable"])


def test_a_batch_too_small_to_judge_has_no_vote(mdata):
    counts = mdata["rna"].X[:, :79]
    small = np.arange(100) < 3
    chosen = variable_genes(counts, 5, small.astype(int))
    np.testing.assert_array_equal(chosen, variable_genes(counts[~small], 5, np.zeros(97, dtype=int)))
    # nothing but small batches: they are taken as one
    np.testing.assert_array_equal(
        variable_genes(counts, 5, np.arange(100)), variable_genes(counts, 5, np.zeros(100, dtype=int))
    )


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_genes_that_differ_between_batches_only_are_not_chosen(kind):
    rng = np.random.default_rng(1)
    batch = np.repeat([0, 1], 100)
    between, within = first_five_vary(batch == 0, 60)[:, ::-1], first_five_vary(np.arange(200) % 2 == 0, 60)
    x = kind(rng.poisson(4.0 * between * within).astype(np.float32))
    assert set(np.flatnonzero(variable_genes(x, 10, np.zeros(200, dtype=int)))) == {*range(5), *range(55, 60)}
    np.testing.assert_array_equal(np.flatnonzero(variable_genes(x, 5, batch)), np.arange(5))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_peaks_are_ranked_by_variance_within_batches(kind):
    rng = np.random.default_rng(2)
    batch = rng.integers(0, 3, 90)
    x = rng.binomial(1, rng.uniform(0, 1, (3, 30))[batch]) * 3
    within = sum((batch == b).mean() * (x[batch == b] > 0).var(0) for b in range(3))
    chosen = variable_peaks(kind(x), 7, batch)
    assert chosen.sum() == 7
    assert within[chosen].min() >= within[~chosen].max()


def test_marks_survive_the_file(mdata, tmp_path):
    mm.pp.prepare(mdata, n_top_genes=5)
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "a.h5mu")
        again = mudata.read_h5mu(tmp_path / "a.h5mu")
    assert marked(again, "rna") == marked(mdata, "rna")
    np.testing.assert_array_equal(
        again["rna"].layers["counts"].toarray(), mdata["rna"].layers["counts"].toarray()
    )


def test_backed_data_and_cells_that_are_all_alike(mdata, tmp_path):
    mdata.write_h5mu(tmp_path / "x.h5mu")
    with pytest.raises(ValueError, match=r"backed by a file.*copy=False"):
        mm.pp.prepare(mudata.read_h5mu(tmp_path / "x.h5mu", backed=True), copy=True)
    with override_pull_on_update():
        alike = mudata.MuData(
            {"rna": modality(np.tile(np.arange(1, 6), (8, 1)), "gene", [f"c{i}" for i in range(8)])}
        )
    with pytest.raises(ValueError, match=r"no gene varies between the 8 cells.*`n_top_genes=None`"):
        mm.pp.prepare(alike, n_top_genes=2)
    mm.pp.prepare(alike, n_top_genes=None)
    assert alike["rna"].var["highly_variable"].all()


class TestCutSites:
    @pytest.fixture
    def cut(self, mdata):
        """Cut sites as 10x counts them: two of a fragment, one where the other end is outside of the peak."""
        rng = np.random.default_rng(0)
        x = 2 * rng.poisson(0.6, (60, 40))
        mdata["atac"].X = sparse.csr_matrix((x - ((x > 0) & (rng.random(x.shape) < 0.1))).astype(np.float32))
        return mdata

    @pytest.mark.parametrize("as_dense", [False, True])
    def test_the_layer_has_fragments_and_once_is_enough(self, cut, caplog, as_dense):
        if as_dense:
            cut["atac"].X = cut["atac"].X.toarray()
        before = cut["atac"].X.copy()
        with caplog.at_level("WARNING"):
            mm.pp.prepare(cut)
        assert caplog.text.count("'atac': twos outnumber ones") == 1
        dense = before if as_dense else before.toarray()
        halved = cut["atac"].layers["counts"]
        halved = halved if as_dense else halved.toarray()
        np.testing.assert_array_equal(halved, np.ceil(dense / 2))
        now = cut["atac"].X if as_dense else cut["atac"].X.toarray()
        np.testing.assert_array_equal(now, dense)
        caplog.clear()
        mm.pp.prepare(cut)
        mm.pp.prepare(cut, layer="counts")
        assert not caplog.text
        mm.pp.prepare(cut, layer="X")
        again = cut["atac"].layers["counts"]
        np.testing.assert_array_equal(again if as_dense else again.toarray(), halved)

    def test_a_layer_of_cut_sites_is_replaced(self, cut):
        cut["atac"].layers["counts"] = cut["atac"].X.copy()
        mm.pp.prepare(cut)
        np.testing.assert_array_equal(
            cut["atac"].layers["counts"].toarray(), np.ceil(cut["atac"].X.toarray() / 2)
        )

    @pytest.mark.parametrize("depth", [0.1, 1, 3, 5, 12])
    def test_deep_fragments_are_not_taken_for_cut_sites(self, cut, depth):
        cut["atac"].X = sparse.csr_matrix(
            np.random.default_rng(0).poisson(depth, (60, 40)).astype(np.float32)
        )
        mm.pp.prepare(cut)
        assert (cut["atac"].layers["counts"] != cut["atac"].X).nnz == 0

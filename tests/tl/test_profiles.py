import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mmopt._checks import find_modalities
from mmopt.tl._features import choose_features
from mmopt.tl._profiles import read_profiles


@pytest.fixture
def mdata():
    """40 cells with 6 genes and 3 proteins; the third protein is counted in every cell, and less than the others."""
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(40)]
    parts = {
        "rna": rng.poisson(3, (40, 6)),
        "prot": np.column_stack([rng.poisson(60, (40, 2)), np.ones(40, int)]),
    }
    made = mudata.MuData(
        {
            role: anndata.AnnData(
                values.astype(np.float32),
                obs=pd.DataFrame(index=names),
                var=pd.DataFrame(index=[f"{role}{i}" for i in range(values.shape[1])]),
            )
            for role, values in parts.items()
        }
    )
    made.obsm["X_pca"] = rng.standard_normal((40, 3))
    return made


def read(mdata, use_rep="X_pca"):
    features = choose_features(mdata, find_modalities(mdata), {})
    return read_profiles(mdata, features, layer=None, use_rep=use_rep)


def test_counts_per_ten_thousand_of_all_that_was_counted_and_of_the_features(mdata):
    assert read(mdata).features.within(5.0, "rna") == 5.0
    mdata["rna"].var["highly_variable"] = [True, True, False, False, False, False]
    features = read(mdata).features
    counts = mdata["rna"].X
    share = (counts[:, :2].sum(1) / counts.sum(1)).mean()
    assert features.within(5.0, "rna") == pytest.approx(5 / share)
    assert features.within(5.0, "prot") == 5.0


def test_a_protein_was_counted_where_it_has_counts_however_many_the_others_have(mdata):
    mdata["prot"].X[:7, 2] = 0
    profiles, everyone = read(mdata), np.ones(40, dtype=bool)
    n = int((mdata["rna"].X[:, 0] > 0).sum())
    assert profiles.detected([8, 0, 6], everyone) == {0: (n, 40), 6: (40, 40), 8: (33, 40)}
    assert profiles.detected([8], np.arange(40) < 10) == {8: (3, 10)}


def test_asked_genes_of_a_sparse_matrix_are_read_at_once(mdata, monkeypatch):
    mdata["rna"].X = sparse.csr_matrix(mdata["rna"].X)
    profiles, reads = read(mdata), []
    slices = sparse.csr_matrix.__getitem__
    monkeypatch.setattr(
        sparse.csr_matrix, "__getitem__", lambda m, key: reads.append(key) or slices(m, key), raising=False
    )
    found = profiles.detected([5, 3], np.ones(40, dtype=bool))
    assert found == {c: (int((mdata["rna"].X.toarray()[:, c] > 0).sum()), 40) for c in (3, 5)}
    assert sum(isinstance(key, tuple) for key in reads) == 1


def test_counts_of_all_cells_are_not_copied(mdata):
    mdata["rna"].X = sparse.csr_matrix(mdata["rna"].X)
    profiles = read(mdata)
    assert np.shares_memory(profiles.counts["rna"].data, mdata["rna"].X.data)
    turned = mudata.MuData({"rna": mdata["rna"][::-1].copy(), "prot": mdata["prot"].copy()})
    turned = turned[mdata.obs_names].copy()
    turned.obsm["X_pca"] = mdata.obsm["X_pca"]
    query = np.arange(0, 40, 7)
    np.testing.assert_array_equal(read(turned).values(query, 5), profiles.values(query, 5))

import numpy as np
import pandas as pd
import pytest

from mmopt.grn.evidence import cognate_genes, combined, labels, signs, support


def test_signs_from_whichever_column_there_is():
    assert signs(pd.DataFrame({"weight": [2.5, -1]})).tolist() == [1, -1]
    assert signs(pd.DataFrame({"mor": [-3]})).tolist() == [-1]
    assert np.isnan(signs(pd.DataFrame({"source": ["A"]}))).all()
    assert np.isnan(signs(pd.DataFrame({"weight": [0]}))).all()
    written = signs(pd.DataFrame({"sign": ["+", "-", "-1", None, 2, pd.NA]}))
    np.testing.assert_array_equal(written, [1, -1, -1, np.nan, 1, np.nan])
    with pytest.raises(
        ValueError, match=r"'sign' has values that are neither numbers .*'Activation'.*give 1"
    ):
        signs(pd.DataFrame({"sign": ["+", "Activation"]}))


def test_edges_that_repeat_are_taken_once_whatever_their_order():
    edges = pd.DataFrame(
        {
            "target": [0, 0, 1, 1, 2, 2, 2, 3],
            "source": [0, 0, 0, 0, 0, 0, 1, 1],
            "sign": [np.nan, 1, -1, 1, -1, -1, 1, np.nan],
        }
    )
    expected = [[0, 0, 1], [1, 0, np.nan], [2, 0, -1], [2, 1, 1], [3, 1, np.nan]]
    for order in (edges, edges[::-1]):
        np.testing.assert_array_equal(combined(order).to_numpy(float), expected)


def test_peaks_and_proteins_inherit_what_regulates_their_gene_and_motifs_count():
    # columns: genes 0, 1; peaks 2, 3; protein 4
    direct = pd.DataFrame({"target": [0, 1], "source": [0, 1], "sign": [-1, np.nan]})
    serves = pd.DataFrame({"feature": [2, 4], "gene": [0, 1]})
    motifs = pd.DataFrame({"peak": [3, 2], "gene": [1, 0], "source": [0, 0]})
    sign, in_prior, by_motif = support(5, 2, direct, serves, motifs)
    np.testing.assert_array_equal(sign, [[-1, 0], [np.nan, np.nan], [-1, 0], [np.nan, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(np.argwhere(in_prior), [[0, 0], [1, 1], [2, 0], [4, 1]])
    np.testing.assert_array_equal(np.argwhere(by_motif), [[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]])
    np.testing.assert_array_equal(in_prior | by_motif, sign != 0)
    agrees = np.zeros((5, 2), bool)
    agrees[0, 0] = agrees[1, 1] = agrees[1, 0] = True
    target, source = np.array([0, 1, 3, 0, 4, 1, 2, 4]), np.array([0, 1, 0, 1, 1, 0, 0, 0])
    assert labels(in_prior, by_motif, agrees, target, source).tolist() == [
        "prior+peak",
        "prior+peak",
        "motif+peak",
        "covariation",
        "prior",
        "motif+peak",
        "prior",
        "motif+peak",
    ]


def test_without_motifs():
    nothing = pd.DataFrame({"feature": [], "gene": []})
    sign, in_prior, by_motif = support(
        1, 1, pd.DataFrame({"target": [0], "source": [0], "sign": [1]}), nothing
    )
    assert sign.tolist() == [[1]]
    assert in_prior.all()
    assert not by_motif.any()


def test_the_gene_behind_a_protein():
    genes = pd.Index(["CD8A", "CD4", "PTPRC"])
    found = cognate_genes(pd.Index(["CD4_ADT", "CD8a-TotalSeqB", "IgG1"]), genes)
    assert found.to_numpy().tolist() == [[0, 1], [1, 0]]
    given = pd.Series(["PTPRC", "none"], index=["CD45RA", "x"])
    assert cognate_genes(given.index, genes, given).to_numpy().tolist() == [[0, 2]]

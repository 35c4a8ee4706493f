import numpy as np
import pandas as pd
import pytest

from mmopt.grn.links import activity, link_peaks, positions


@pytest.mark.parametrize(
    ("table", "index", "expected"),
    [
        ({"chrom": ["chr1"], "tss": [5000]}, ["A"], ("chr1", 5000)),
        ({"chrom": ["chr1"], "start": [100], "end": [900], "strand": ["-"]}, ["A"], ("chr1", 900)),
        ({"chrom": ["chr1"], "start": [100], "end": [900], "strand": ["+"]}, ["A"], ("chr1", 100)),
        ({"Chromosome": ["chr1"], "Start": [100], "End": [900]}, ["x"], ("chr1", 500)),
        ({"interval": ["chr2:10-30"]}, ["A"], ("chr2", 20)),
        ({}, ["chrX-200-400"], ("chrX", 300)),
        ({}, ["chrX:200-400"], ("chrX", 300)),
    ],
)
def test_positions_in_the_forms_they_come(table, index, expected):
    found = positions(pd.DataFrame(table, index=index)).iloc[0]
    assert (found["chrom"], found["position"]) == expected


def test_no_positions():
    assert positions(pd.DataFrame({"n_cells": [3]}, index=["GATA1"])) is None
    some = positions(pd.DataFrame({"interval": ["chr2:10-30", "nan"]}, index=["A", "B"]))
    assert some["position"].isna().tolist() == [False, True]


def test_links_need_a_promoter_or_distance_and_covariation():
    rng = np.random.default_rng(0)
    expression = rng.gamma(2, 10, (200, 2))
    noise = rng.gamma(2, 10, (200, 1))
    accessibility = np.hstack([noise, expression[:, :1], expression[:, :1], noise, expression[:, 1:]])
    genes = pd.DataFrame({"chrom": ["1", "2"], "position": [1e6, 1e6]}, index=["A", "B"])
    peaks = pd.DataFrame(
        {"chrom": ["1", "1", "1", "1", np.nan], "position": [1e6 + 500, 1.1e6, 1.3e6, 0.95e6, np.nan]},
        index=list("vwxyz"),
    )
    links = link_peaks(genes, peaks, expression, accessibility, window=150_000)
    assert list(zip(links["gene"], links["peak"], strict=True)) == [
        (0, 0),
        (0, 1),
    ]  # promoter, covarying enhancer
    np.testing.assert_allclose(links["weight"], [1, 0.5])
    np.testing.assert_allclose(links["distance"], [500, 1e5])
    summed, linked = activity(links, accessibility, 2)
    np.testing.assert_allclose(summed[:, 0], accessibility[:, 0] + 0.5 * accessibility[:, 1])
    assert linked.tolist() == [True, False]


def test_no_chromosome_in_common_gives_no_links():
    genes = pd.DataFrame({"chrom": ["1"], "position": [1.0]}, index=["A"])
    peaks = pd.DataFrame({"chrom": ["chr1"], "position": [1.0]}, index=["p"])
    links = link_peaks(genes, peaks, np.ones((5, 1)), np.ones((5, 1)))
    assert len(links) == 0
    assert not activity(links, np.ones((5, 1)), 1)[1].any()

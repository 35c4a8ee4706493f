import numpy as np
import pytest

import mmopt as mm


@pytest.fixture(scope="module")
def course():
    mdata = mm.datasets.simulate_trimodal(
        700, n_genes=150, n_peaks=250, n_proteins=8, unspliced=0.25, random_state=4
    )
    edges = mdata.uns["truth"]["edges"].rename(columns={"sign": "weight"})
    return mdata, edges[["source", "target", "weight"]]


def fit(mdata, prior, **kwargs):
    mm.tl.regulons(mdata, prior=prior, **{"n_boot": 6, "unspliced": "unspliced"} | kwargs)
    return mdata.uns["regulons"]


def test_it_shows_what_is_made_where_there_is_no_chromatin(course):
    """Of regulators that rise or fall: their own past, which their expression shows, is no cause of what is made now."""
    mdata, prior = course
    known = {}
    for layer in (None, "unspliced"):
        slot = fit(mdata, prior, unspliced=layer, atac=False, prot=False)
        edges = slot["edges"].merge(mdata.uns["truth"]["edges"], on=["source", "target"])
        known[layer] = edges[(edges["evidence"] == "prior").to_numpy()]
        assert slot["params"]["unspliced"] == (layer or "")
        assert slot["spectral_radius"] <= 0.95 + 1e-6
    assert (np.sign(known["unspliced"]["weight"]) == known["unspliced"]["sign"]).mean() > 0.85
    own = [((e["source"] == e["target"]).sum()) for e in known.values()]
    assert own[0] == 0 < own[1]  # without anything that shows production a regulator must not explain itself


def test_counts_and_not_their_unit_or_the_order_of_cells_decide(course):
    mdata, prior = course
    first = fit(mdata, prior)
    again = mdata.copy()
    layers = again["rna"].layers
    layers["unspliced"] = layers["unspliced"].toarray()
    del layers["spliced"]
    np.testing.assert_allclose(first["members"]["weights"], fit(again, prior)["members"]["weights"])


def test_cells_without_rna_and_genes_without_introns_are_no_hindrance(course):
    _, prior = course
    partly = mm.datasets.simulate_trimodal(
        500, n_genes=150, n_peaks=250, n_proteins=8, unspliced=0.25, missing={"rna": 0.2}, random_state=4
    )
    counts = partly["rna"].layers["unspliced"].tolil()
    counts[:, 20:40] = 0
    partly["rna"].layers["unspliced"] = counts.tocsr()
    partly.obsm["X_any"] = np.random.default_rng(0).standard_normal((500, 3))
    slot = fit(partly, prior, use_rep="X_any")
    assert np.isfinite(slot["members"]["weights"]).all()
    assert np.isfinite(slot["edges"]["weight"]).all()


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        (
            {"unspliced": "nowhere"},
            KeyError,
            "'rna' has no such layer; there are 'spliced', 'unspliced', 'smooth'",
        ),
        ({"unspliced": "X"}, KeyError, "Name the one with the raw counts of unspliced RNA"),
        ({"unspliced": "smooth"}, ValueError, "raw counts"),
        ({"layer": "unspliced", "atac": False, "prot": False}, ValueError, "is what is read as expression"),
    ],
)
def test_what_it_is_named_by_is_checked(course, named, error, message):
    mdata, prior = course
    mdata = mdata.copy()
    mdata["rna"].layers["smooth"] = mdata["rna"].layers["unspliced"] * 0.37
    with pytest.raises(error, match=message):
        fit(mdata, prior, **named)

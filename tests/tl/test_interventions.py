import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt._response import log_odds
from mmopt.tl._interventions import build, parse
from mmopt.tl._journey import place
from mmopt.tl._scene import set_stage


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


def test_all_peaks_of_a_gene_closed_are_all_of_its_chromatin(mdata):
    links = mdata.uns["regulons"]["links"]
    several = links["gene"].value_counts()
    gene = next(g for g in several.index[several >= 2] if g in set(mdata["rna"].var_names))
    peaks = links.loc[links["gene"] == gene, "peak"].tolist()
    stage = set_stage(mdata, regulons="regulons", groupby=None)
    column = stage.features.find(gene, mdata)

    def shift(names):
        asked = parse(names, "block", None, stage.features, mdata)
        return build(asked, stage.features, stage.scene, stage.links, stage.cognate, None).shifts[column]

    level = stage.scene.cells.level[:, column]
    np.testing.assert_allclose(shift(peaks), log_odds(0 * level) - log_odds(level))
    alone = [shift([peak]) for peak in peaks[:2]]
    both = shift(peaks[:2])
    assert (both <= np.minimum(*alone) + 1e-12).all()


def test_levels_are_counts_per_ten_thousand_of_all_genes(regulated):
    mdata, prior = regulated[0].copy(), regulated[1]
    names = mdata["rna"].var_names
    busy = names[~names.isin(prior["source"])][:20]
    counts = mdata["rna"].X.toarray()
    counts[:, names.isin(busy)] *= 20
    mdata["rna"].X = counts
    mdata["rna"].var["highly_variable"] = ~names.isin(busy)
    mm.tl.regulons(mdata, prior=prior, n_boot=5)
    stage = set_stage(mdata, regulons="regulons", groupby=None)
    expressed = 1e4 * counts / counts.sum(1, keepdims=True)
    asked = parse({"GATA1": expressed[:, names.get_loc("GATA1")].mean()}, "set", None, stage.features, mdata)
    clamps = build(asked, stage.features, stage.scene, stage.links, stage.cognate, None).clamps
    column = stage.features.find("GATA1", mdata)
    assert clamps[column] == pytest.approx(stage.scene.cells.level[:, column].mean(), rel=0.2)
    vector = pd.Series(np.log1p(expressed.mean(0)), names)[~names.isin(busy)]
    state = place(mdata, stage, vector, "target", None).state
    mine = stage.features.blocks["rna"]
    assert np.median(state[mine] / stage.scene.cells.level[:, mine].mean(0)) == pytest.approx(1, abs=0.15)


def test_a_multiple_that_lowers_a_gene_is_told(mdata):
    with pytest.warns(UserWarning, match=r"GATA1 over-expressed 0\.01 times: .* so it is lowered"):
        mm.tl.perturb(mdata, "GATA1", mode="overexpress", level=0.01, n_null=5, key_added="little")
    mm.tl.perturb(mdata, "GATA1", mode="overexpress", n_null=5, key_added="much")
    said = {key: "is lowered" in " ".join(found["warnings"]) for key, found in mdata.uns["perturb"].items()}
    assert said == {"little": True, "much": False}

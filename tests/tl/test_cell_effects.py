import numpy as np
import pandas as pd
import pytest

import mmopt as mm


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


def test_effects_on_cells_have_those_on_groups_as_their_mean(mdata, perturbed):
    some = mdata.obs_names[: mdata.n_obs // 2]
    effects = perturbed(mdata, "GATA1", cells=some, per_cell=["rna", "prot"])["effects"].query(
        "group == 'all'"
    )
    for name in ("rna", "prot"):
        layer = mdata[name].layers["delta_GATA1_knockout"]
        assert layer.dtype == np.float32 and layer.shape == mdata[name].shape
        known = mdata[name].obs_names.isin(some)
        assert np.isnan(layer[~known]).all()
        group = effects[effects["modality"] == name].set_index("feature")["delta"]
        np.testing.assert_allclose(layer[known].mean(0), group[mdata[name].var_names], atol=1e-5)
        assert layer[known].std(0).max() > 0.05
    assert "delta_GATA1_knockout" not in mdata["atac"].layers
    perturbed(mdata, "GATA1", cells=some)
    assert "delta_GATA1_knockout" not in mdata["rna"].layers  # that of a call that wanted it
    with pytest.raises(
        ValueError, match="per_cell: no 'gex2' in the network, which has 'rna', 'atac', 'prot'"
    ):
        mm.tl.perturb(mdata, "GATA1", per_cell="gex2")


def test_effects_on_cells_of_features_the_network_lacks_are_not_known(regulated, perturbed):
    mdata, prior = regulated[0].copy(), regulated[1]
    mdata["rna"].var["highly_variable"] = [g not in ("GENE9", "GENE11") for g in mdata["rna"].var_names]
    mm.tl.regulons(mdata, prior=prior, n_boot=5)
    effects = perturbed(mdata, "GATA1", groupby="cell_type", per_cell="rna")["effects"]
    layer = mdata["rna"].layers["delta_GATA1_knockout"]
    lost = mdata["rna"].var_names[np.isnan(layer).any(0)]
    assert list(lost) == [g for g in mdata["rna"].var_names if g in ("GENE9", "GENE11")]
    for group, rows in mdata.obs.groupby("cell_type", observed=True).indices.items():
        here = (effects["group"] == group) & (effects["modality"] == "rna")
        delta = effects[here].set_index("feature")["delta"]
        mean = pd.Series(layer[rows].mean(0), mdata["rna"].var_names)[delta.index]
        # the group's is that of 50 of its cells
        assert np.corrcoef(delta, mean)[0, 1] > 0.98, group
        if len(rows) <= 50:
            np.testing.assert_allclose(mean, delta, atol=1e-5)

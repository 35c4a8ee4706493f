import numpy as np
import pytest

from mmopt.datasets import interventions
from mmopt.datasets.dynamics import TRANSCRIPT
from mmopt.datasets.storage import restore


@pytest.fixture
def mdata(regulated):
    return regulated[0].copy()


def test_states_move_where_the_simulated_cells_do(mdata, perturbed):
    """Share of each cell type after a knock-out, beside what the simulator's own cells would have become without the gene."""
    system, cells = restore(mdata)
    predicted, true = [], []
    for gene in ("GATA1", "SPI1", "CEBPA"):
        states = perturbed(mdata, gene, groupby="cell_type")["states"]
        names = list(dict.fromkeys(states["state"]))
        assert states["group"].tolist() == list(np.repeat(["all", *names], len(names)))
        parts = states.groupby("group")[["before", "after", "delta"]].sum()
        np.testing.assert_allclose(parts[["before", "after"]], 1)
        np.testing.assert_allclose(parts["delta"], 0, atol=1e-12)
        np.testing.assert_allclose(states["after"] - states["before"], states["delta"], atol=1e-12)
        assert states[["before", "after"]].to_numpy().min() >= 0
        assert (states["q05"] <= states["q95"]).all() and (states["null95"] >= 0).all()
        own = states[states["group"] == states["state"]]
        assert (own["before"] > 0.5).sum() >= 4
        clamps = interventions.parse(gene, system.layout.genes.index, mode="knockout")
        before, (after,) = system.wild_type[0], system.read([system.time], clamps)
        was, now = (system.network.stage(s.levels[TRANSCRIPT])[cells] for s in (before, after))
        true += [(now == name).mean() - (was == name).mean() for name in names]
        predicted += states.loc[states["group"] == "all", "delta"].tolist()
    predicted, true = np.array(predicted), np.array(true)
    changed = np.abs(true) > 0.05
    assert changed.sum() >= 10
    assert (np.sign(predicted) == np.sign(true))[changed].mean() >= 0.75
    assert np.corrcoef(predicted, true)[0, 1] > 0.5


def test_states_need_groups_and_no_gene_is_a_state(mdata, perturbed):
    assert "states" not in perturbed(mdata, "GATA1")
    mdata.obs["one"] = "only"
    assert "states" not in perturbed(mdata, "GATA1", groupby="one")
    # a gene without edges changes nothing but itself, and itself is left out
    alone = perturbed(mdata, "GENE9", on_missing="zero", groupby="cell_type")["states"]
    assert (alone[["delta", "q05", "q95", "null95"]] == 0).all(axis=None)

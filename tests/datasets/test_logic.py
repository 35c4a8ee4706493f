import itertools

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt.datasets import krumsiek2011
from mmopt.datasets.logic import EDGE_COLUMNS, Logic

SOURCES, TARGETS = ["a", "b", "c"], ["x", "y", "z"]

edge = st.tuples(
    st.sampled_from(SOURCES),
    st.sampled_from(TARGETS),
    st.sampled_from([-1, 1]),
    st.floats(0.1, 1),
    st.floats(0.1, 2),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.integers(0, 2),
)


def naive(edges: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
    """The rule read aloud, one target, complex and cell at a time."""
    out = np.ones((len(TARGETS), levels.shape[1]))
    for t, target in enumerate(TARGETS):
        for cell in range(levels.shape[1]):
            free = {1: 1.0, -1: 1.0}
            own = edges[edges["target"] == target]
            for (sign, _), members in own.groupby(["sign", "complex"]):
                bound = 1.0
                for e in members.itertuples():
                    x = levels[SOURCES.index(e.source), cell]
                    bound *= e.strength * x**e.hill / (x**e.hill + e.threshold**e.hill)
                free[sign] *= 1 - bound
            on = 1 - free[1] if (own["sign"] > 0).any() else 1.0
            out[t, cell] = on * free[-1]
    return out


@settings(max_examples=40, deadline=None)
@given(st.lists(edge, max_size=12, unique_by=lambda e: e[:2]), st.integers(0, 2**32 - 1))
def test_logic_is_the_naive_rule(edges, seed):
    frame = pd.DataFrame(edges, columns=EDGE_COLUMNS)
    levels = np.random.default_rng(seed).uniform(0, 2, (len(SOURCES), 4))
    levels[:, 0] = 0
    np.testing.assert_allclose(
        Logic(frame, SOURCES, TARGETS)(levels), naive(frame, levels), rtol=1e-12, atol=1e-14
    )


def test_myeloid_network_is_the_published_boolean_model():
    network = krumsiek2011(markers=False)
    assert len(network.regulators) == 11
    names = network.regulators
    states = np.array(list(itertools.product([0.0, 1.0], repeat=11))).T
    steep = network.edges.assign(hill=400.0, threshold=0.5)
    s = {name: row > 0.5 for name, row in zip(names, states, strict=True)}
    published = {
        "GATA2": s["GATA2"] & ~(s["GATA1"] & s["ZFPM1"]) & ~s["SPI1"],
        "GATA1": (s["GATA1"] | s["GATA2"] | s["FLI1"]) & ~s["SPI1"],
        "ZFPM1": s["GATA1"],
        "KLF1": s["GATA1"] & ~s["FLI1"],
        "FLI1": s["GATA1"] & ~s["KLF1"],
        "TAL1": s["GATA1"] & ~s["SPI1"],
        "CEBPA": s["CEBPA"] & ~(s["GATA1"] & s["ZFPM1"] & s["TAL1"]),
        "SPI1": (s["CEBPA"] | s["SPI1"]) & ~(s["GATA1"] | s["GATA2"]),
        "JUN": s["SPI1"] & ~s["GFI1"],
        "EGR1": (s["SPI1"] & s["JUN"]) & ~s["GFI1"],
        "GFI1": s["CEBPA"] & ~s["EGR1"],
    }
    made = Logic(steep, names, names)(states)
    for row, name in enumerate(names):
        np.testing.assert_allclose(made[row], published[name].astype(float), atol=1e-6, err_msg=name)

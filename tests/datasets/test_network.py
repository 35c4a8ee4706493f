import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmopt.datasets import Kinetics, Network, krumsiek2011, random_network
from mmopt.datasets.attractors import find_stages
from mmopt.datasets.dynamics import TRANSCRIPT, integrate
from mmopt.datasets.logic import Logic


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"source": ["A", "B"], "target": ["B", "A"], "sign": [1, -1]} | columns)


def run(network: Network, n: int = 400, day: float = 12.0) -> np.ndarray:
    logic = Logic(network.edges, network.regulators, network.regulators)
    return integrate(logic, network.initial.to_numpy(), np.full((1, n), day))[0, TRANSCRIPT]


def fates(network: Network, n: int = 400) -> dict[str, float]:
    reached = network.fate(run(network, n))
    return {f: float((reached == f).mean()) for f in [*network.fates, "none"]}


def test_weights_become_signs_and_strengths():
    edges = pd.DataFrame({"source": ["A", "B", "C"], "target": ["X", "X", "X"], "weight": [4.0, 1.0, -0.5]})
    network = Network.from_edges(edges)
    assert network.edges["sign"].tolist() == [1, 1, -1]
    assert network.edges["strength"].tolist() == [1.0, 0.25, 1.0]
    assert network.regulators == ["A", "B", "C"]
    assert network.leaves == ["X"]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (frame().drop(columns="target"), "column target missing"),
        (frame().drop(columns="sign"), "sign .* or weight"),
        (frame().iloc[:0], "no rows"),
        (frame(sign=[1, 0]), "is 0"),
        (frame(sign=[1, np.nan]), "not finite"),
        (frame(sign=["up", "down"]), "not finite"),
        (frame(source=["A", None]), "source must be names"),
        (frame(source=["A", "B C"]), "without blanks"),
        (frame(target=["B", "A/C"]), "without blanks"),
        (frame(source=["A", "A"], target=["B", "B"]), "1 duplicate edges, the first A -> B"),
        (frame(strength=[1, 2]), "strength must be positive and at most 1"),
        (frame(threshold=[0, 1]), "threshold must be positive"),
        (frame(hill=[np.inf, 1]), "not finite"),
    ],
)
def test_bad_edges_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        Network.from_edges(edges)


def test_what_is_no_frame_is_refused():
    with pytest.raises(TypeError, match="DataFrame of edges, got list"):
        Network.from_edges([("A", "B")])


def test_bad_starts_and_stages_are_refused():
    with pytest.raises(ValueError, match="not among the sources of the edges: C"):
        Network.from_edges(frame(), initial={"C": 1.0})
    with pytest.raises(ValueError, match="finite and not negative"):
        Network.from_edges(frame(), initial={"A": -1.0})
    good = pd.DataFrame({"kind": ["fate"], "on": ["A"], "off": ["B"]}, index=["one"])
    assert Network.from_edges(frame(), stages=good).fates == ["one"]
    for change, message in (
        ({"kind": ["end"]}, "kind must be"),
        ({"on": ["Z"]}, "Z not among the regulators"),
        ({"on": [""], "off": [""]}, "at least one"),
        ({"decisive": ["Z"]}, "Z not among the regulators"),
    ):
        with pytest.raises(ValueError, match=message):
            Network.from_edges(frame(), stages=good.assign(**change))
    with pytest.raises(ValueError, match="column off missing"):
        Network.from_edges(frame(), stages=good.drop(columns="off"))


def test_stages_are_the_nearest_pattern():
    network = krumsiek2011()
    x = pd.DataFrame(0.0, index=network.regulators, columns=["start", "ery", "mep", "over", "gran"])
    x["start"] = network.initial
    for on, column in (
        ("GATA1 ZFPM1 KLF1 TAL1", "ery"),
        ("GATA1", "mep"),
        ("GATA1 ZFPM1 FLI1 TAL1", "over"),
        ("SPI1 CEBPA GFI1", "gran"),
    ):
        x.loc[on.split(), column] = 1.0
    x.loc["FLI1", "over"] = 9.0
    assert network.stage(x.to_numpy()).tolist() == [
        "progenitor",
        "erythrocyte",
        "MEP",
        "megakaryocyte",
        "granulocyte",
    ]
    assert network.fate(x.to_numpy()).tolist() == [
        "none",
        "erythrocyte",
        "none",
        "megakaryocyte",
        "granulocyte",
    ]


def test_no_fate_without_its_decisive_gene_or_with_that_of_another():
    network = krumsiek2011()
    patterns = {
        "GATA1 ZFPM1 TAL1": "none",  # neither KLF1 nor FLI1: as near to the erythrocyte as to the megakaryocyte
        "SPI1 CEBPA": "none",
        "SPI1 CEBPA GFI1 JUN": "none",
        "SPI1 CEBPA GFI1 GATA1": "none",
        "SPI1 JUN EGR1": "monocyte",
        "SPI1 JUN EGR1 GATA1 ZFPM1": "none",
    }
    x = pd.DataFrame(0.0, index=network.regulators, columns=list(patterns))
    for on in patterns:
        x.loc[on.split(), on] = 1.0
    assert network.fate(x.to_numpy()).tolist() == list(patterns.values())


def test_the_four_myeloid_fates_are_about_equally_frequent():
    reached = fates(krumsiek2011(), n=800)
    assert reached.pop("none") < 0.05
    assert min(reached.values()) > 0.15


def test_fates_of_a_users_toggle_are_found():
    toggle = frame(sign=[-1, -1], threshold=[0.4, 0.4])
    network = find_stages(Network.from_edges(toggle), Kinetics(), seed=0)
    patterns = set(zip(network.stages["on"], network.stages["off"], strict=True))
    assert {("A", "B"), ("B", "A")} <= patterns
    assert fates(network)["none"] < 0.1


def test_a_network_with_one_resting_state_has_one_fate():
    network = find_stages(Network.from_edges(frame(sign=[1, 1])), Kinetics(), seed=0)
    assert len(network.fates) >= 1
    assert fates(network)["none"] < 0.1


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 12), st.integers(0, 10**6))
def test_every_fate_of_a_random_network_is_reached(n_fates, branching, followers, seed):
    network = random_network(2 * n_fates - 1 + followers, n_fates, branching=branching, random_state=seed)
    assert len(network.regulators) == 2 * n_fates - 1 + followers
    assert len(network.fates) == n_fates
    reached = fates(network)
    assert reached.pop("none") < 0.15
    assert min(reached.values()) > 0.02


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n_regulators", "n_fates"), [(12, 3), (14, 4), (15, 5)])
def test_branches_of_a_random_network_stay_apart(n_regulators, n_fates, seed):
    # a decided child that switches its parent off must keep off the parent's siblings, or they come on late
    network = random_network(n_regulators, n_fates, branching=2, random_state=seed)
    on = run(network, day=24.0) > 0.5
    rows = pd.Index(network.regulators)
    patterns = network.stages.query("kind == 'fate'")["on"]
    shown = np.stack([on[rows.get_indexer(pattern.split())].all(0) for pattern in patterns])
    assert (shown.sum(0) > 1).mean() < 0.1


def test_the_programme_of_another_branch_is_no_new_fate():
    network = random_network(16, 4, branching=2, random_state=3)
    on, off = (network.stages[c].str.split() for c in ("on", "off"))
    rows = pd.Index(network.regulators)
    way = {f: [s for s in network.stages.index if not set(on[s]) & set(off[f])] for f in network.fates}
    apart = [(f, g) for f in way for g in way if not set(way[f]) & set(way[g])]
    assert len(apart) == 8  # two branches with two fates each
    for fate, other in apart:
        level = np.zeros((len(rows), 1))
        level[rows.get_indexer([r for s in [*way[fate], other] for r in on[s]])] = 1
        assert network.fate(level)[0] == fate, (fate, other)


def test_branching_shapes_the_tree():
    assert (random_network(16, 6, branching=6).stages["kind"] == "fate").all()
    assert (random_network(16, 6, branching=2).stages["kind"] == "intermediate").sum() == 4


def test_random_networks_are_reproducible():
    one, two, other = (random_network(random_state=s).edges for s in (3, 3, 4))
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(other)


def test_random_network_refuses():
    with pytest.raises(ValueError, match="need at least 7, got 6"):
        random_network(6, 4)
    with pytest.raises(ValueError, match="at least 2"):
        random_network(6, 1)
    with pytest.raises(TypeError, match=r"n_regulators must be an integer, got 12\.0"):
        random_network(12.0, 3)

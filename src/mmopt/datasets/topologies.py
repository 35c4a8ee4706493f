"""Random networks that differentiate, of any size and branching."""

from numbers import Integral

import numpy as np
import pandas as pd

from mmopt.datasets.network import Network


def random_network(
    n_regulators: int = 16, n_fates: int = 4, *, branching: int = 2, random_state: int = 0
) -> Network:
    """Draw a differentiating network: a progenitor programme that decays into mutually exclusive fates.

    The fates are the leaves of a tree. Each node has a master regulator that sustains itself, is switched on by its
    parent's and represses its siblings'; a decided child switches its parent off (always the progenitor, half of the
    other nodes) and then keeps off what the parent kept off. The remaining regulators are followers of a master: some
    reinforce it, some repress its siblings.

    Parameters
    ----------
    n_regulators, n_fates
        Size of the network; the tree needs a master for each of its nodes.
    branching
        Most children a node may have: 2 is a cascade of binary decisions, ``n_fates`` one decision for all.
    random_state
        Seed of the draw.

    Raises
    ------
    TypeError, ValueError
        A size that is no integer, fewer than 2 fates or children, or fewer regulators than the tree has nodes.

    Examples
    --------
    >>> network = random_network(12, 3, random_state=1)
    >>> len(network.regulators), network.fates
    (12, ['fate1', 'fate2', 'fate3'])
    """
    for name, value in {"n_regulators": n_regulators, "n_fates": n_fates, "branching": branching}.items():
        if not isinstance(value, Integral):
            raise TypeError(f"{name} must be an integer, got {value!r}")
    if n_fates < 2 or branching < 2:
        raise ValueError(f"n_fates and branching must be at least 2, got {n_fates} and {branching}")
    rng = np.random.default_rng(random_state)
    parent = _tree(n_fates, branching, rng)
    n_nodes = len(parent)
    if n_regulators < n_nodes:
        raise ValueError(
            f"n_regulators: {n_fates} fates with branching={branching} need at least {n_nodes}, got {n_regulators}"
        )
    names = [f"TF{i + 1:02d}" for i in rng.permutation(n_regulators)]
    module = [[names[node]] for node in range(n_nodes)]
    children = [[c for c in range(n_nodes) if parent[c] == node] for node in range(n_nodes)]
    edges = []

    def edge(source: str, target: str, sign: int, threshold: float) -> None:
        edges.append({"source": source, "target": target, "sign": sign, "threshold": threshold})

    kept_off: list[dict[int, float]] = [{} for _ in range(n_nodes)]
    for node in range(n_nodes):
        edge(names[node], names[node], 1, 0.4)
        decisive = node == 0 or rng.random() < 0.5
        # equal among siblings: the decision is left to the noise and every fate is reached
        on, exclusion = rng.uniform(0.4, 0.55), rng.uniform(0.25, 0.35)
        for child in children[node]:
            edge(names[node], names[child], 1, on)
            if decisive:
                edge(names[child], names[node], -1, 0.7)
            for sibling in children[node]:
                if sibling != child:
                    edge(names[child], names[sibling], -1, exclusion)
                    kept_off[child][sibling] = exclusion
            if decisive:
                for other, threshold in kept_off[node].items():
                    edge(names[child], names[other], -1, threshold)
                kept_off[child] |= kept_off[node] | {node: 0.7}
    for number, follower in enumerate(names[n_nodes:]):
        node = number % n_nodes
        master = names[node]
        edge(master, follower, 1, rng.uniform(0.4, 0.6))
        siblings = [s for s in children[parent[node]] if s != node] if node else []
        if siblings and rng.random() < 0.5:
            edge(follower, names[rng.choice(siblings)], -1, 0.5)
        else:
            edge(follower, master, 1, 0.5)
        module[node].append(follower)

    inner = [node for node in range(1, n_nodes) if children[node]]
    leaves = [node for node in range(n_nodes) if not children[node]]
    kinds = ["intermediate"] * len(inner) + ["fate"] * len(leaves)
    stages = pd.DataFrame(
        {
            "kind": kinds,
            "on": [" ".join(module[node]) for node in inner + leaves],
            "off": [" ".join(_elsewhere(node, parent, module)) for node in inner + leaves],
        },
        index=[f"{kind}{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)],
    )
    initial = dict.fromkeys(names, 0.0) | dict.fromkeys(module[0], 1.0)
    return Network.from_edges(pd.DataFrame(edges), initial=initial, stages=stages)


def _elsewhere(node: int, parent: list[int], module: list[list[str]]) -> list[str]:
    """List the regulators of every node that is neither on the way to ``node`` nor beyond it.

    With one of their programmes on besides its own, a cell has not left its fate.
    """

    def way(to: int) -> list[int]:
        return [] if to < 0 else [to, *way(parent[to])]

    return [
        r
        for other, own in enumerate(module)
        if other not in way(node) and node not in way(other)
        for r in own
    ]


def _tree(n_fates: int, branching: int, rng: np.random.Generator) -> list[int]:
    """Parent of each node (-1: the root) of a tree with ``n_fates`` leaves, split shallowest first."""
    parent, depth, leaves = [-1], [0], [0]
    while len(leaves) < n_fates:
        shallow = [leaf for leaf in leaves if depth[leaf] == min(depth[x] for x in leaves)]
        node = int(rng.choice(shallow))
        leaves.remove(node)
        for _ in range(min(branching, n_fates - len(leaves))):
            leaves.append(len(parent))
            parent.append(node)
            depth.append(depth[node] + 1)
    return parent

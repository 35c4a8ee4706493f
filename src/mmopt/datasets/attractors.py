"""The fates of a network that says nothing about them: where its cells come to rest."""

from dataclasses import replace

import numpy as np
import pandas as pd

from mmopt.datasets.dynamics import TRANSCRIPT, Kinetics, integrate
from mmopt.datasets.logic import Logic
from mmopt.datasets.network import Network

_CELLS, _WANDER, _SETTLE = 500, 40.0, 10.0
_ON, _RARE = 0.5, 0.04


def find_stages(network: Network, kinetics: Kinetics, seed: int) -> Network:
    """Return ``network`` with the on/off patterns in which at least 4 % of its cells come to rest as its fates.

    Cells run from day 0 with noise for 40 days, then without for 10. A network that does not come to rest (it
    oscillates) may be left without fates.
    """
    regulators = network.regulators
    logic = Logic(network.edges, regulators, regulators)
    wandered = integrate(
        logic, network.initial.to_numpy(), np.full((1, _CELLS), _WANDER), kinetics=kinetics, seed=(seed, 4)
    )[0, TRANSCRIPT]
    quiet = replace(kinetics, noise=0.0)
    settled = integrate(logic, wandered, np.full((1, _CELLS), _SETTLE), kinetics=quiet, seed=(seed, 4))[
        0, TRANSCRIPT
    ]
    patterns, counts = np.unique(settled > _ON, axis=1, return_counts=True)
    patterns = patterns[:, np.argsort(-counts, kind="stable")][:, : (counts >= _RARE * _CELLS).sum()]
    telling = (
        np.flatnonzero(patterns.min(1) != patterns.max(1))
        if patterns.shape[1] > 1
        else np.arange(len(regulators))
    )
    rows = [
        (
            "fate",
            *(" ".join(regulators[r] for r in telling if pattern[r] == state) for state in (True, False)),
        )
        for pattern in patterns.T
    ]
    names = [f"fate{i + 1}" for i in range(len(rows))]
    return replace(
        network, stages=pd.DataFrame(rows, columns=network.stages.columns, index=names, dtype=object)
    )

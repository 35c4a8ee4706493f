"""Features of a data set without a regulatory network: what a simulation reads out when nothing is intervened upon."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt.grn.effects import Scene
from mmopt.grn.network import Network
from mmopt.grn.propagation import Cells, Readout
from mmopt.tl._features import choose_features
from mmopt.tl._profiles import read_profiles
from mmopt.tl._scene import ALL, Stage

_POOL, _CELLS = 30, 300


def plain_stage(mdata: MuData, modalities: Mapping[str, str], use_rep: str) -> Stage:
    """Pooled profiles on their own scale (counts per 10,000), no regulators and no edges."""
    features = choose_features(mdata, modalities, {})
    profiles = read_profiles(mdata, features, layer=None, use_rep=use_rep)
    n = len(features.table)
    blocks = [(block, "ratio" if role == "prot" else "share") for role, block in features.blocks.items()]
    readout = Readout(blocks, np.ones(n), np.zeros(n))
    none = np.zeros(0, dtype=int)
    network = Network(none, none, none, np.zeros((1, 0)), (), (), n)
    rows = np.unique(np.linspace(0, mdata.n_obs - 1, min(_CELLS, mdata.n_obs)).astype(int))
    cells = Cells(profiles.values(rows, _POOL), np.full(n, np.inf))
    scene = Scene(network, cells, readout, np.full((1, len(rows)), 1 / len(rows)))
    return Stage(
        scene,
        features,
        profiles,
        pd.DataFrame({"gene": [], "peak": [], "weight": []}),
        pd.DataFrame({"protein": [], "gene": []}),
        {ALL: np.arange(mdata.n_obs)},
        rows,
        np.ones(mdata.n_obs, dtype=bool),
        _POOL,
        [],
    )

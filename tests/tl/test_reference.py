from types import SimpleNamespace

import anndata
import mudata
import numpy as np
import pandas as pd

from mmopt.tl._features import Features
from mmopt.tl._reference import _with_model


class Mirror:
    """A model whose embedding is the counts it is given."""

    modalities = ("rna",)

    def __init__(self, names):
        state = {"modality": "rna", "layer": None, "features": list(names)}
        self.registry = {"field_registries": {"rna": {"state_registry": state}}}

    def get_latent_representation(self, mdata):
        return np.asarray(mdata["rna"].X.todense() if hasattr(mdata["rna"].X, "todense") else mdata["rna"].X)


def test_what_rises_is_a_share_of_the_counts_of_the_network_s_features():
    counts = np.random.default_rng(0).poisson(500, (30, 6)).astype(np.float32)
    names = pd.Index([f"g{i}" for i in range(6)])
    adata = anndata.AnnData(
        counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(30)]), var=pd.DataFrame(index=names)
    )
    stage = SimpleNamespace(features=Features({"rna": "rna"}, {"rna": names[:2]}), chosen=np.array([], int))
    known = counts[:, :2].sum(1, keepdims=True)
    before = 1e4 * counts[:, :2] / known
    after = before + [2000.0, 0.0]
    old, new, _ = _with_model(
        mudata.MuData({"rna": adata}),
        stage,
        Mirror(names),
        np.arange(30),
        before,
        after,
        np.random.default_rng(0),
    )
    np.testing.assert_allclose((new - old)[:, [0]], 0.2 * known, atol=1)
    np.testing.assert_array_equal(new[:, 2:], old[:, 2:])

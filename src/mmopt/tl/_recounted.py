"""Counts of some cells as a perturbation would leave them: what a trained model can encode."""

from typing import TYPE_CHECKING

import numpy as np
from mudata import MuData
from scipy import sparse

from mmopt._checks import counts, positions
from mmopt._compat import layer_names
from mmopt._keys import COUNTS_LAYER
from mmopt.grn.pooling import SCALE
from mmopt.tl._scene import Stage

if TYPE_CHECKING:
    from mmopt.models import TriVI


class Recounted:
    """Cells whose counts are changed as the values of the network's features change.

    Parameters
    ----------
    mdata, rows
        The data and the cells; they are copied.
    stage, model
        Which features the network has, and what the model calls its modalities.
    """

    def __init__(self, mdata: MuData, stage: Stage, model: "TriVI", rows: np.ndarray) -> None:
        self.cells, self.stage = mdata[rows].copy(), stage
        registry = model.registry["field_registries"]
        self.roles = [role for role in stage.features.blocks if role in model.modalities]
        self._state = {role: registry[role]["state_registry"] for role in self.roles}
        self._raw = {}
        for role, state in self._state.items():
            raw = counts(self.cells.mod[state["modality"]], state["modality"], state["layer"])
            self._raw[role] = np.array(raw.todense() if sparse.issparse(raw) else raw, dtype=np.float32)

    def changed(self, before: np.ndarray, after: np.ndarray, rng: np.random.Generator) -> MuData:
        """Give the cells the counts they would have; the same object at every call.

        Parameters
        ----------
        before, after
            Values of the network's features, ``(n_cells, n_features)``.
        rng
            Counts are integers: what is between two of them is drawn.
        """
        for role, state in self._state.items():
            block, adata = self.stage.features.blocks[role], self.cells.mod[state["modality"]]
            place = positions(self.cells, state["modality"])
            here = np.flatnonzero(place >= 0)
            columns = adata.var_names.get_indexer(self.stage.features.names[role])
            raw = self._raw[role].copy()
            was, old, new = raw[np.ix_(place[here], columns)], before[here, block], after[here, block]
            if role == "prot":
                expected = np.maximum((was + 1) * (new + 1e-6) / (old + 1e-6) - 1, 0)
            else:
                # what falls, falls in proportion to what was counted; what rises is added: nothing gets below zero
                risen = was + (new - old) * was.sum(1, keepdims=True) / SCALE
                expected = np.where(new < old, was * new / np.maximum(old, 1e-9), risen)
            # drawn to an integer: the model asks for counts, and one that does not change stays as it is
            raw[np.ix_(place[here], columns)] = np.floor(expected + rng.random(expected.shape))
            layers = layer_names(adata)
            target = state["layer"] or (COUNTS_LAYER if COUNTS_LAYER in layers else "X")
            if target in layers:
                adata.layers[target] = sparse.csr_matrix(raw)
            else:
                adata.X = sparse.csr_matrix(raw)
        return self.cells

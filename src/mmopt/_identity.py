"""Whether a MuData holds the cells, their order and the embedding that a twin was fitted to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mudata import MuData

from mmopt._cells import digest

# of an embedding's size: what single precision and another order of summation may change in its sums
_ALIKE = 1e-4


def identity(mdata: MuData, states: np.ndarray) -> dict[str, str | np.ndarray]:
    """Return what tells the cells, their order and their embedding from others, in a few bytes.

    ``names``: digest of the names in their order. ``sums``: ``(2, d)`` weighted sums over the embedding's cells, which change when
    cells or axes change places, and root mean squares. Both hardly change with the precision or the machine.
    """
    n = len(states)
    weights = np.cos(np.arange(n)) / np.sqrt(max(n, 1))
    return {
        "names": digest(mdata.obs_names),
        "sums": np.stack([weights @ states, np.sqrt(np.mean(states**2, axis=0))]),
    }


def check_identity(twin: Mapping[str, Any], mdata: MuData) -> None:
    """Refuse cells, an order of them or an embedding that are not those of ``twin``, a slot of :func:`mmopt.tl.twin`."""
    if len(twin["point"]) != mdata.n_obs:
        raise ValueError(
            f"the twin was fitted to {len(twin['point'])} cells, there are {mdata.n_obs}; call `mm.tl.twin` again after changing "
            "the cells"
        )
    use_rep = str(twin["params"]["use_rep"])
    if use_rep not in mdata.obsm:
        raise KeyError(
            f"the twin lives in mdata.obsm[{use_rep!r}], which is gone; compute it again, or call `mm.tl.twin`"
        )
    # twins of earlier versions know their cells by number only
    if "identity" not in twin:
        return
    stored, now = twin["identity"], identity(mdata, np.asarray(mdata.obsm[use_rep], dtype=float))
    if str(stored["names"]) != now["names"]:
        raise ValueError(
            "the twin was fitted to other cells, or to these in another order (mdata.obs_names differ); call `mm.tl.twin` again "
            "after renaming or reordering cells"
        )
    before, after = np.asarray(stored["sums"], dtype=float), now["sums"]
    if before.shape == after.shape and (np.abs(before - after) > _ALIKE * before[1].max()).any():
        raise ValueError(
            f"mdata.obsm[{use_rep!r}] is not the embedding that the twin was fitted to; call `mm.tl.twin` again after changing it"
        )

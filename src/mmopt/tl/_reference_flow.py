"""The way cells go by themselves, with which the move of a perturbed cell is compared."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed, obs_column
from mmopt.tl._descent import TWIN
from mmopt.tl._members import restore

_PSEUDOTIME = "dpt_pseudotime"
_VELOCITY = "velocity_"

# rows of cells (n,) and of neighbours of each (n, k) to how far ahead of the cell these lie (n, k); NaN where that is not known
Ahead: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


def reference_flow(
    mdata: MuData, pseudotime_key: str | None, flow: str | None, twin: str, usual: str | None = None
) -> tuple[str, Ahead | None]:
    """Name of the reference and how far ahead of a cell it puts others; nothing where there is no reference.

    ``usual``: the ``flow`` where none is asked for and there is no pseudotime.

    Raises
    ------
    KeyError, ValueError
        No such column, twin, velocity or embedding; a pseudotime beside another reference.
    """
    if flow is not None and pseudotime_key is not None:
        raise ValueError("pseudotime_key and flow are two references: leave one of them out")
    if flow is None and (pseudotime_key is not None or _has_pseudotime(mdata)):
        key = pseudotime_key or _PSEUDOTIME
        values = pd.to_numeric(obs_column(mdata, key), errors="coerce").to_numpy(dtype=float)
        values = np.where(np.isfinite(values), values, np.nan)
        return key, lambda cells, near: values[near] - values[cells][:, None]
    flow = flow or usual
    if flow is None:
        return "", None
    if flow == TWIN:
        course, members = restore(mdata, twin)
        states, velocity = course.states, np.full(course.states.shape, np.nan)
        timed = np.flatnonzero(course.point >= 0)
        times = course.times[course.point[timed]]
        velocity[timed] = np.mean([m.flow.velocity(states[timed], times) for m in members], axis=0)
    else:
        states, velocity = _stored(mdata, flow)
    return flow, lambda cells, near: np.einsum(
        "nkd,nd->nk", states[near] - states[cells][:, None], velocity[cells]
    )


def _has_pseudotime(mdata: MuData) -> bool:
    return _PSEUDOTIME in mdata.obs or any(_PSEUDOTIME in a.obs for a in mdata.mod.values())


def _stored(mdata: MuData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Embedding ``X_umap`` and its velocity ``velocity_umap``."""
    embedding = f"X_{key.removeprefix(_VELOCITY)}"
    if not key.startswith(_VELOCITY) or key not in mdata.obsm or embedding not in mdata.obsm:
        raise KeyError(
            f"flow={key!r}: 'twin' is needed, or a velocity in mdata.obsm beside its embedding, such as 'velocity_umap' beside "
            f"'X_umap'; mdata.obsm has {listed(mdata.obsm, 20) or 'nothing'}"
        )
    states, velocity = (np.asarray(mdata.obsm[k], dtype=float) for k in (embedding, key))
    if states.shape != velocity.shape:
        raise ValueError(
            f"mdata.obsm[{key!r}] has shape {velocity.shape} and mdata.obsm[{embedding!r}] {states.shape}: a velocity is one "
            "of the same embedding"
        )
    return states, velocity

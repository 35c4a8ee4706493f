"""Effects of a perturbation on every single cell, for those who want more than the means of groups."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from mudata import MuData

from mmopt import _keys
from mmopt._checks import listed, positions
from mmopt.grn.effects import Perturbation, Scene
from mmopt.tl._features import role_of
from mmopt.tl._scene import ALL, Stage

_BLOCK = 2000


def wanted_roles(per_cell: str | Sequence[str], modalities: Mapping[str, str]) -> list[str]:
    """Roles of the modalities of which effects on cells are wanted.

    Raises
    ------
    ValueError
        One that the network does not have.
    """
    asked = [per_cell] if isinstance(per_cell, str) else list(per_cell)
    roles = {name: role_of(str(name), modalities) for name in asked}
    if lost := [name for name, role in roles.items() if role not in modalities]:
        raise ValueError(
            f"per_cell: no {listed(lost)} in the network, which has {listed(modalities.values())}"
        )
    return [role for role in modalities if role in roles.values()]


def cell_effects(
    mdata: MuData,
    stage: Stage,
    build: Callable[[Scene], Perturbation],
    role: str,
    kept: np.ndarray | float,
) -> np.ndarray:
    """Mean change of each cell's logged values over the ensemble, ``(n_cells_of_the_modality, n_vars)``.

    Parameters
    ----------
    build
        Makes the perturbation of a scene.
    role
        Of the modality.
    kept
        Share of the effects that is claimed, ``(n_groups, n_features)``.

    Returns
    -------
    numpy.ndarray
        Single precision; NaN for cells that are not perturbed and features the network does not have.
    """
    adata, block = mdata.mod[stage.features.modalities[role]], stage.features.blocks[role]
    place = positions(mdata, stage.features.modalities[role])
    n = block.stop - block.start
    groups = {name: rows for name, rows in stage.groups.items() if name != ALL}
    number = np.zeros(mdata.n_obs, dtype=int)
    for name, rows in groups.items():
        number[rows] = list(stage.groups).index(name)
    cells = stage.groups[ALL][place[stage.groups[ALL]] >= 0]
    columns = adata.var_names.get_indexer(stage.features.names[role])
    out = np.full(adata.shape, np.nan, dtype=np.float32)
    for start in range(0, len(cells), _BLOCK):
        rows = cells[start : start + _BLOCK]
        whole = stage.on(rows)
        scene, within = whole.narrowed(block)
        done = build(whole).placed(within)
        before, change = scene.before(done), np.zeros((len(rows), n))
        for member in range(scene.network.n_members):
            level = scene.moved(done, member)[0]
            change += (scene.readout.logged(level, list(done.clamps)) - before)[:, :n]
        change /= scene.network.n_members
        if np.ndim(kept):
            change *= kept[number[rows], block]
        out[np.ix_(place[rows], columns)] = change
    return out


def store_cell_effects(mdata: MuData, key: str, effects: Mapping[str, np.ndarray]) -> None:
    """Write the layers of a result, by the names of the modalities, and remove those of one of the same name before."""
    layer = _keys.cell_effects_layer(key)
    for name, adata in mdata.mod.items():
        if name in effects:
            adata.layers[layer] = effects[name]
        elif layer in adata.layers:
            del adata.layers[layer]

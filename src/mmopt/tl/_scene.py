"""The network and the cells that every perturbation of one call shares."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import check_mudata, listed, obs_column
from mmopt._response import Form
from mmopt.grn.effects import Scene
from mmopt.grn.network import Network
from mmopt.grn.propagation import Cells, Readout
from mmopt.tl._evidence import FEW_PREDICTED, cognates
from mmopt.tl._features import Features
from mmopt.tl._profiles import Profiles, read_profiles_of

ALL = "all"
# cells that stand for all where there are no groups, and for each group
_ALONE, _PER_GROUP = 300, 50
# a smaller group is spoken of
_FEW = 10


@dataclass(frozen=True, eq=False)
class Stage:
    """A scene with names: what the groups are, and where the numbers came from.

    ``groups``: name to its cells, ``"all"`` first. ``chosen``: rows of the cells in the scene. ``member``: boolean
    ``(n_obs,)``, the cells asked for. ``pool``: boolean ``(n_obs,)``, the cells whose counts may be added up.
    """

    scene: Scene
    features: Features
    profiles: Profiles
    links: pd.DataFrame
    cognate: pd.DataFrame
    groups: dict[str, np.ndarray]
    chosen: np.ndarray
    member: np.ndarray
    k: int
    remarks: list[str]
    pool: np.ndarray | None = None

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each feature's logged value over the cells of the scene."""
        return self.scene.readout.logged(self.scene.cells.level).std(0)

    def cells(self, rows: np.ndarray) -> Cells:
        """Other cells of the data on the scene's scale."""
        values = self.profiles.values(rows, self.k, self.pool)
        return Cells(self.scene.readout.level(values), self.scene.cells.highest)

    def on(self, rows: np.ndarray) -> Scene:
        """Scene of other cells of the data, none of them averaged."""
        return replace(self.scene, cells=self.cells(rows), averaging=np.zeros((1, len(rows))))


def set_stage(
    mdata: MuData,
    *,
    regulons: str,
    groupby: str | None,
    cells: object = None,
    seed: int = 0,
    per_group: int = _PER_GROUP,
    alone: int = _ALONE,
    apart: bool = False,
) -> Stage:
    """Read the network and pool the cells that stand for each group; ``apart``: with none but the chosen cells.

    Raises
    ------
    KeyError, ValueError
        No network, other features than it was fitted to, no such column or cells.
    """
    check_mudata(mdata)
    if regulons not in mdata.uns:
        raise KeyError(
            f"no regulatory network in mdata.uns[{regulons!r}]; call `mm.tl.regulons(mdata, prior=...)` first"
        )
    slot = mdata.uns[regulons]
    features, profiles = read_profiles_of(mdata, regulons)
    member = members_of(mdata, cells)
    groups, remarks = {ALL: np.flatnonzero(member)}, []
    if groupby is not None:
        labels = obs_column(mdata, groupby, features.modalities)
        names = pd.Categorical(labels[member].dropna()).remove_unused_categories().categories
        if ALL in map(str, names):
            raise ValueError(
                f"groupby={groupby!r}: a group is called {ALL!r}, the name of all cells; rename it"
            )
        groups |= {str(g): np.flatnonzero(member & (labels == g).to_numpy()) for g in names}
        if small := [g for g, rows in groups.items() if len(rows) < _FEW]:
            remarks.append(f"fewer than {_FEW} cells in {', '.join(small)}")
    predictable = float(slot["params"]["predictable"])
    if predictable < FEW_PREDICTED:
        remarks.append(
            f"the network predicts {predictable:.0%} of the genes in held-out cells: effects are mostly noise"
        )
    chosen, averaging = _representatives(groups, per_group, alone, np.random.default_rng([seed, 11]))

    table, stored = slot["features"], slot["members"]
    top, bottom, highest = (table[c].to_numpy(dtype=float) for c in ("top", "bottom", "highest"))
    network = Network(
        np.asarray(stored["regulators"], dtype=int),
        np.asarray(stored["source"], dtype=int),
        np.asarray(stored["target"], dtype=int),
        np.asarray(stored["weights"], dtype=float),
        tuple(Form(float(e), float(h)) for e, h in zip(stored["exponent"], stored["half"], strict=True)),
        tuple(int(n) for n in stored["n_steps"]),
        len(table),
    )
    k = int(slot["params"]["n_neighbors"])
    pool = member if apart else None
    values = profiles.values(chosen, k, pool)
    blocks = [(block, "ratio" if role == "prot" else "share") for role, block in features.blocks.items()]
    readout = Readout(blocks, top, bottom)
    scene = Scene(network, Cells(readout.level(values), highest), readout, averaging)
    none = pd.DataFrame({"protein": [], "gene": []})
    cognate = cognates(mdata, features) if "prot" in features.modalities else none
    return Stage(scene, features, profiles, slot["links"], cognate, groups, chosen, member, k, remarks, pool)


def members_of(mdata: MuData, cells: object) -> np.ndarray:
    if cells is None:
        return np.ones(mdata.n_obs, dtype=bool)
    given = np.asarray(cells)
    if pd.api.types.is_bool_dtype(getattr(cells, "dtype", given.dtype)):
        member = mask_of(mdata, cells, "cells")
    else:
        rows = mdata.obs_names.get_indexer(pd.Index(np.ravel(given)))
        if (rows < 0).any():
            raise KeyError(f"cells: not in mdata.obs_names: {listed(np.ravel(given)[rows < 0])}")
        member = np.isin(np.arange(mdata.n_obs), rows)
    if not member.any():
        raise ValueError("cells: none was chosen")
    return member


def mask_of(mdata: MuData, mask: object, what: str) -> np.ndarray:
    """Boolean ``(n_obs,)`` of a mask: a Series by its index, anything else in the order of the cells.

    Raises
    ------
    KeyError, ValueError
        Cells of which the Series says nothing, missing values, another number of values than of cells.
    """
    if isinstance(mask, pd.Series):
        if len(lost := mdata.obs_names.difference(mask.index)) or not mask.index.is_unique:
            raise KeyError(
                f"{what}: the index of the mask "
                + (f"lacks {len(lost)} cells ({listed(lost, 3)})" if len(lost) else "has names that repeat")
                + "; index it by mdata.obs_names, or give a mask in their order with `.to_numpy()`"
            )
        mask = mask.reindex(mdata.obs_names).array
    if pd.isna(mask).any():
        raise ValueError(f"{what}: the mask has missing values; say `.fillna(False)`")
    given = np.asarray(mask, dtype=bool)
    if given.shape != (mdata.n_obs,):
        raise ValueError(f"{what}: a mask of {mdata.n_obs} values is needed, got {given.shape}")
    return given


def _representatives(
    groups: dict[str, np.ndarray], per_group: int, alone: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the cells that stand for the groups, and the matrix that averages them; all cells weigh the same."""
    everyone = groups[ALL]
    labelled = {name: rows for name, rows in groups.items() if name != ALL}
    rest = np.setdiff1d(everyone, np.concatenate(list(labelled.values()))) if labelled else everyone
    parts = {**labelled, ALL: rest} if len(rest) else labelled
    limit = per_group if labelled else alone
    drawn = {name: np.sort(rng.permutation(rows)[:limit]) for name, rows in parts.items()}
    chosen = np.concatenate(list(drawn.values()))
    averaging = np.zeros((len(groups), len(chosen)))
    start = 0
    for name, rows in drawn.items():
        columns = slice(start, start + len(rows))
        start += len(rows)
        if name != ALL:
            averaging[list(groups).index(name), columns] = 1 / len(rows)
        averaging[0, columns] += len(parts[name]) / len(rows)
    averaging[0] /= averaging[0].sum()
    return chosen, averaging

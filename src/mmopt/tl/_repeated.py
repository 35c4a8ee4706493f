"""What a stored prediction was made with, so that it can be made again, and with other networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt import _keys
from mmopt.grn.effects import Perturbation, Scene
from mmopt.tl._conformal import control_cells
from mmopt.tl._descent import TWIN, claimed, with_past
from mmopt.tl._interventions import Intervention, build, label
from mmopt.tl._members import restore
from mmopt.tl._scene import ALL, Stage, set_stage

MEMBER, COURSE = "member", "course"
# of the same float32 number
_SAME = {"rtol": 1e-4, "atol": 1e-6}


def recorded(
    mdata: MuData,
    stage: Stage,
    jobs: Sequence[Sequence[Intervention]],
    method: str,
    n_steps: int | str | None,
    twin: str,
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Tables ``cells`` and ``interventions`` of a result, and what of its parameters it takes to repeat it."""
    rows = [(_keys.perturbation_key(label(job)), one) for job in jobs for one in job]
    table = stage.features.table.iloc[[one.column for _, one in rows]]
    interventions = pd.DataFrame(
        {
            "perturbation": [name for name, _ in rows],
            "modality": table["modality"].to_numpy(dtype=object),
            "feature": table["feature"].to_numpy(dtype=object),
            "mode": [one.mode for _, one in rows],
            "level": [np.nan if one.level is None else float(one.level) for _, one in rows],
        }
    ).astype({"perturbation": object, "mode": object})
    names = mdata.obs_names[stage.chosen].astype(object)
    cells = pd.DataFrame({"cell": names, "weight": stage.scene.averaging[0]})
    params = {
        "method": method,
        "n_steps": COURSE if method == TWIN else MEMBER if n_steps is None else str(n_steps),
        "twin": twin if method == TWIN else "",
    }
    return {"cells": cells, "interventions": interventions}, params


def members_used(n_members: int, wanted: int) -> np.ndarray:
    """Numbers of so many members of an ensemble, evenly drawn; all where there are fewer."""
    return np.unique(np.linspace(0, n_members - 1, min(wanted, n_members)).round().astype(int))


def stored_results(mdata: MuData) -> list[Mapping]:
    """Results of perturbations and screens that say what they were made with."""
    found = [*mdata.uns.get(_keys.PERTURB, {}).values(), *mdata.uns.values()]
    parts = ("effects", "cells", "interventions", "params")
    return [each for each in found if isinstance(each, Mapping) and all(part in each for part in parts)]


@dataclass(frozen=True, eq=False)
class Repeated:
    """A prediction as it was made, in one modality.

    Parameters
    ----------
    scene
        Its cells, and the columns of the modality (first) and of the regulators.
    jobs
        Name of each perturbation to what it does there.
    features
        Of the modality in the network.
    method
        As in :func:`mmopt.tl.perturb`.
    members
        Numbers of the members of the ensemble.
    """

    scene: Scene
    jobs: dict[str, Perturbation]
    features: pd.Index
    method: str
    members: np.ndarray

    def effects(
        self, name: str, members: Sequence[int] | None = None, order: np.ndarray | None = None
    ) -> np.ndarray:
        """Effects on all cells, ``(n_features,)``; with ``order`` in the network whose targets are in that order."""
        done = self.jobs[name]
        before, chosen = self.scene.before(done), self.members if members is None else members
        draws = np.stack([self.scene.effect(done, before, m, order)[0] for m in chosen])
        return (draws.mean(0) * claimed(draws, self.method))[0, : len(self.features)]


def repeat(mdata: MuData, result: Mapping, role: str) -> Repeated | None:
    """Set the scene of a stored result again; nothing where its network, cells or course are gone.

    Parameters
    ----------
    result
        One of :func:`stored_results`.
    role
        Of the modality.
    """
    params = result["params"]
    regulons, names = params["regulons"], result["cells"]["cell"]
    rows = mdata.obs_names.get_indexer(pd.Index(names))
    twin = params["twin"]
    if regulons not in mdata.uns or (rows < 0).any() or (twin and twin not in mdata.uns):
        return None
    seed = int(params["random_state"])
    conformal = params["interval"] == "conformal"
    cells = control_cells(mdata, params["perturbation_key"], params["control"])[0] if conformal else None
    try:
        stage = set_stage(
            mdata, regulons=regulons, groupby=None, cells=cells, seed=seed, alone=10, apart=conformal
        )
    except (KeyError, ValueError):  # the network is one of other features, or its embedding is gone
        return None
    weights = result["cells"]["weight"].to_numpy(dtype=float)[None]
    scene = replace(stage.on(rows), averaging=weights)
    stage = replace(stage, chosen=rows, groups={ALL: rows}, scene=scene)
    if twin:
        stage = with_past(stage, *restore(mdata, twin), seed)
    if role not in stage.features.blocks:
        return None
    steps = params["n_steps"]
    n_steps = None if steps in (MEMBER, COURSE) else steps if steps == "steady" else int(steps)
    block = stage.features.blocks[role]
    narrow, place = stage.scene.narrowed(block)
    jobs = {}
    for name, part in result["interventions"].groupby("perturbation", sort=False, observed=True):
        job = [_read(stage, mdata, row) for row in part.itertuples()]
        whole = build(job, stage.features, stage.scene, stage.links, stage.cognate, n_steps)
        jobs[str(name)] = whole.placed(place)
    members = members_used(narrow.network.n_members, int(params["n_members"]))
    return Repeated(narrow, jobs, stage.features.names[role], params["method"], members)


def is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a prediction is the stored one where it says anything, and says something at all."""
    known = np.isfinite(one)
    return bool(np.allclose(one[known], other[known], **_SAME) and (np.abs(one[known]) > 1e-6).any())


def _read(stage: Stage, mdata: MuData, row) -> Intervention:
    column = stage.features.find(f"{row.modality}:{row.feature}", mdata)
    return Intervention(
        column, str(row.feature), str(row.mode), None if np.isnan(row.level) else float(row.level)
    )

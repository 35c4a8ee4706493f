"""Towards which other groups a perturbation moves the cells of each group."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt.grn.effects import Perturbation
from mmopt.grn.states import Surroundings
from mmopt.tl._recounted import Recounted
from mmopt.tl._reference import Shift, components, less_talk
from mmopt.tl._scene import ALL, Stage

if TYPE_CHECKING:
    from mmopt.models import TriVI

# embeds the cells of the scene after the perturbation, by one member of the network and in one order of its targets
After = Callable[[int, np.ndarray | None], np.ndarray]


def state_table(
    mdata: MuData,
    stage: Stage,
    clamp: Perturbation,
    shift: Shift,
    model: "TriVI | None",
    n_null: int,
    seed: int,
) -> pd.DataFrame | None:
    """Share of each group among the unperturbed cells nearest to those of each group, before and after.

    The cells are those that stand for the groups in the table of effects, in the model's embedding, or else in principal
    components of the network's pooled RNA. Nothing where there are not two groups to tell apart.
    """
    names = [g for g in stage.groups if g != ALL]
    group = np.full(len(stage.chosen), -1)
    for number, name in enumerate(names):
        group[np.isin(stage.chosen, stage.groups[name])] = number
    if len(set(group[group >= 0])) < 2:
        return None
    before, after = (
        _pooled(stage, clamp, seed) if model is None else _encoded(mdata, stage, clamp, shift, model, seed)
    )
    among, averaging = Surroundings(before, group, len(names)), stage.scene.averaging
    now, rng = averaging @ among.shares(before), np.random.default_rng([seed, 17])
    n_members = stage.scene.network.n_members
    then = np.stack([averaging @ among.shares(after(m, None)) for m in range(n_members)])
    chance = np.stack(
        [
            averaging @ among.shares(after(i % n_members, stage.scene.shuffled(rng))) - now
            for i in range(n_null)
        ]
    )
    delta = then - now
    return pd.DataFrame(
        {
            "group": np.repeat(list(stage.groups), len(names)),
            "state": np.tile(names, len(stage.groups)),
            "before": now.ravel(),
            "after": then.mean(0).ravel(),
            "delta": delta.mean(0).ravel(),
            "q05": np.quantile(delta, 0.05, axis=0).ravel(),
            "q95": np.quantile(delta, 0.95, axis=0).ravel(),
            "null95": np.quantile(np.abs(chance), 0.95, axis=0).ravel(),
        }
    ).astype({"group": object, "state": object})


def _pooled(stage: Stage, clamp: Perturbation, seed: int) -> tuple[np.ndarray, After]:
    """Principal components of logged RNA; what is clamped is left out, or its own change would pass for one of state."""
    rna = stage.features.blocks["rna"]
    scene, place = stage.scene.narrowed(rna)
    done = clamp.placed(place)
    # a whole network is shuffled, of which the narrowed one has some columns
    columns = np.array(list(place))
    free = np.setdiff1d(np.arange(rna.stop - rna.start), list(done.clamps))
    if not len(free):
        free = np.arange(rna.stop - rna.start)
    old = scene.before(done)[:, free]
    embed = components(old, seed)

    def after(member: int, order: np.ndarray | None) -> np.ndarray:
        mine = None if order is None else np.array([place[c] for c in order[columns]])
        level = scene.moved(done, member, mine)[0]
        return embed(scene.readout.logged(level, list(done.clamps))[:, free])

    return embed(old), after


def _encoded(
    mdata: MuData, stage: Stage, clamp: Perturbation, shift: Shift, model: "TriVI", seed: int
) -> tuple[np.ndarray, After]:
    """Embedding of the model; the counts of all members are drawn by the same numbers."""
    scene, recounted = stage.scene, Recounted(mdata, stage, model, stage.chosen)
    values = scene.readout.values(scene.cells.level)

    def after(member: int, order: np.ndarray | None) -> np.ndarray:
        new = scene.readout.values(scene.moved(clamp, member, order)[0])
        cells = recounted.changed(values, new, np.random.default_rng([seed, 16]))
        with less_talk():
            return np.asarray(model.get_latent_representation(cells), dtype=float)

    return shift.before[np.searchsorted(shift.rows, stage.chosen)], after

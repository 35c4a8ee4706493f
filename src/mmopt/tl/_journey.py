"""Source cells and target of a reprogramming, from names of groups, cells or a vector to arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from numbers import Integral
from typing import TypeAlias

import numpy as np
import pandas as pd
from mudata import MuData
from pandas.api.types import is_bool_dtype

from mmopt._checks import listed, nearest, obs_column
from mmopt._random import derived
from mmopt.dynamics import drifts_apart
from mmopt.grn.propagation import Cells
from mmopt.grn.search import KNOCKOUT, OVEREXPRESS, Journey
from mmopt.tl._interventions import OVEREXPRESS_FACTOR, hardly_counted
from mmopt.tl._scene import Stage, members_of

WAYS = {"knockout": KNOCKOUT, "overexpress": OVEREXPRESS}
# cells that stand for a group, and features by which groups are told apart
_CELLS, _SEEN = 60, 60
# fewest ways to divide the cells with which p = 0.05 can be reached
_LEAST_WAYS = 20
# least spread (within the groups it is added): what hardly varies must not outweigh the rest
_LEAST_SPREAD = 0.05
# a smaller group is no place to end up in
_LEAST_GROUP = 10

End: TypeAlias = str | Sequence | np.ndarray | Mapping | pd.Series


@dataclass(frozen=True, eq=False)
class Place:
    """A source or target: its rows in the data, or a single state given as a vector, and its name."""

    name: str
    rows: np.ndarray | None
    state: np.ndarray | None = None
    known: np.ndarray | None = None


def place(mdata: MuData, stage: Stage, end: End, what: str, groupby: str | None) -> Place:
    """Read a group's name, cells (a mask, which may be a Series, or names) or a vector of features.

    Raises
    ------
    KeyError, TypeError, ValueError
        What cannot be read; the message names what there is.
    """
    # groups of an integer column are named by their text
    if isinstance(end, Integral) and groupby is not None:
        end = str(end)
    if isinstance(end, str):
        if groupby is None:
            raise ValueError(f"{what}={end!r}: to name a group say in which column it is, with `groupby=`")
        labels = obs_column(mdata, groupby, stage.features.modalities)
        names = [str(n) for n in pd.unique(labels.dropna())]
        if end not in names:
            raise KeyError(
                f"{what}={end!r}: no such group in obs column {groupby!r}; nearest: {listed(nearest(end, names) or names)}"
            )
        return Place(end, np.flatnonzero((labels.astype(str) == end).to_numpy() & labels.notna().to_numpy()))
    if isinstance(end, Mapping) or (isinstance(end, pd.Series) and not is_bool_dtype(end)):
        return _vector(stage, pd.Series(end, dtype=float), what, mdata)
    if not isinstance(end, Sequence | np.ndarray | pd.Index | pd.Series):
        raise TypeError(
            f"{what}: a group's name, cells (a mask or names) or a vector (a Series or dict of features) is needed, "
            f"not {end!r:.60}"
        )
    try:
        return Place(what, np.flatnonzero(members_of(mdata, end)))
    except (KeyError, ValueError) as error:
        raise type(error)(f"{what}: {error.args[0]}") from None


def _vector(stage: Stage, values: pd.Series, what: str, mdata: MuData) -> Place:
    if values.empty or not np.isfinite(values).all():
        raise ValueError(
            f"{what}: the vector has {'no features' if values.empty else 'NaN or infinite values'}"
        )
    columns = np.array([stage.features.find(str(f), mdata) for f in values.index])
    readout = stage.scene.readout
    logged = values.to_numpy(dtype=float)
    share = np.array([stage.features.role(c) != "prot" for c in columns])
    plain = np.where(share, np.expm1(logged), np.exp(logged))
    plain = np.array(
        [stage.features.within(v, stage.features.role(c)) for v, c in zip(plain, columns, strict=True)]
    )
    level = readout.level(plain, columns)
    far = (level < -0.5) | (level > 3) | (share & (logged < 0))
    if far.any():
        odd = values.index[far]
        raise ValueError(
            f"{what}: values of {listed(odd, 3)} are far from what the cells have; a vector holds log1p of counts per "
            "10,000 of all that was counted (RNA, ATAC) or centred log ratios (protein), not z scores or raw counts"
        )
    state = stage.scene.cells.level.mean(0).astype(float)
    state[columns] = level
    known = np.isin(np.arange(len(state)), columns)
    return Place(what, None, state, known)


def journey(
    mdata: MuData, stage: Stage, source: Place, target: Place, groupby: str | None, seed: int
) -> tuple[Journey, list[str]]:
    """Arrays of the task, and names of the groups, target and source first.

    Distances are measured on the features that tell the groups apart best, in units of the spread within them.
    """
    rng = np.random.default_rng([seed, 31])
    scene, network = stage.scene, stage.scene.network
    names, places = [target.name, source.name], [target, source]
    if groupby is not None:
        labels = obs_column(mdata, groupby, stage.features.modalities)
        text = labels.astype(str).to_numpy()
        for group in map(str, pd.unique(labels.dropna())):
            rows = np.flatnonzero((text == group) & labels.notna().to_numpy())
            same = any(p.rows is not None and np.array_equal(rows, p.rows) for p in (target, source))
            if len(rows) >= _LEAST_GROUP and not same:
                names.append(group)
                places.append(Place(group, rows))
    levels = []
    for p in places:
        if p.rows is None:
            levels.append(p.state[None].astype(np.float32))
        else:
            # as drawn, not as in the file: the search looks at the first few only
            levels.append(stage.cells(rng.permutation(p.rows)[:_CELLS]).level)
    if same_cells(source, target):  # two draws would make a way of nothing
        levels[0] = levels[1]
    centres = np.stack([level.mean(0) for level in levels])
    several = [level.var(0) for level in levels if len(level) > 1]
    within = np.sqrt(np.mean(several, axis=0)) if several else scene.cells.level.std(0)
    within = within + _LEAST_SPREAD
    # what nothing acts on can not be moved: it says nothing about the choice
    moved = np.unique(network.target)
    for p in (target, source):
        if p.known is not None:
            moved = moved[p.known[moved]]
    if not moved.size:
        raise ValueError(
            f"{target.name}: the network regulates none of the vector's features; give more of them"
        )
    telling = centres[:, moved].std(0) / within[moved]
    seen = np.sort(moved[np.argsort(-telling, kind="stable")[:_SEEN]])
    cells = Cells(levels[1], scene.cells.highest)
    regulators = network.regulators
    gap = centres[0, regulators] - centres[1, regulators]
    for p in (target, source):
        if p.known is not None:
            # a vector says nothing of the others: the mean over all cells, which stands for them, is no target
            gap = np.where(p.known[regulators], gap, 0)
    task = Journey(
        network,
        cells,
        seen,
        centres[:, seen].astype(np.float32),
        within[seen].astype(np.float32),
        (OVEREXPRESS_FACTOR * scene.cells.highest[regulators]).astype(np.float32),
        gap,
    )
    return task, names


def same_cells(source: Place, target: Place) -> bool:
    """Whether source and target are one set of cells."""
    return source.rows is not None and target.rows is not None and np.array_equal(source.rows, target.rows)


def alike_by_chance(stage: Stage, source: Place, target: Place, seed: int) -> float:
    """How often cells divided at random differ as much, in what the network regulates, as those of source and target.

    1 for the same cells; NaN where one of them is a vector, or there are too few cells for 0.05 or less.
    """
    if same_cells(source, target):
        return 1.0
    if source.rows is None or target.rows is None:
        return float("nan")
    rng = np.random.default_rng([seed, 34])
    drawn = [rng.permutation(p.rows)[:_CELLS] for p in (source, target)]
    if comb(sum(map(len, drawn)), len(drawn[0])) < _LEAST_WAYS:
        return float("nan")
    level = stage.cells(np.concatenate(drawn)).level[:, np.unique(stage.scene.network.target)]
    level = level / np.maximum(level.std(0), _LEAST_SPREAD)
    n = len(drawn[0])
    return drifts_apart(level[:n], level[n:], n_permutations=199, seed=derived(seed, 34))


def allowed_ways(
    mdata: MuData,
    stage: Stage,
    source: Place,
    features: str | Sequence[str],
    modes: Sequence[str],
    allow_extrapolation: bool,
) -> tuple[list[tuple[int, int]], list[tuple[str, str]]]:
    """Interventions that make sense, as numbers of regulators with a way; and what was left out, and why.

    Raises
    ------
    KeyError, TypeError, ValueError
        Unknown or misspelt features and modes, one that regulates nothing, nothing left.
    """
    if unknown := [m for m in modes if m not in WAYS]:
        raise ValueError(f"modes must be among {listed(WAYS)}, got {listed(unknown)}")
    if not modes:
        raise ValueError(f"modes must be among {listed(WAYS)}, got none")
    network = stage.scene.network
    acting = set(np.unique(network.source).tolist())
    number = {int(column): i for i, column in enumerate(network.regulators)}
    genes = stage.features.blocks["rna"]
    if isinstance(features, str):
        if features != "regulators":
            raise ValueError(f"features must be 'regulators' or a list, got {features!r}")
        columns = [int(network.regulators[i]) for i in sorted(acting) if network.regulators[i] < genes.stop]
    else:
        columns = list(dict.fromkeys(stage.features.find(f, mdata) for f in features))
        if silent := [c for c in columns if number.get(c, -1) not in acting or c >= genes.stop]:
            raise ValueError(
                f"{listed([stage.features.name(c) for c in silent])}: no gene with an outgoing edge in the network, so "
                "nothing is known of what follows from it; take it out, or call `mm.tl.regulons` with a prior or "
                "`regulators=` that has it"
            )
    mine = np.zeros(mdata.n_obs, dtype=bool)
    mine[source.rows if source.rows is not None else slice(None)] = True
    in_source, in_all = (stage.profiles.detected(columns, m) for m in (mine, stage.member))
    ways, left_out = [], []
    for column in columns:
        name = stage.features.name(column)
        for mode in modes:
            n, of = (in_source if mode == "knockout" else in_all)[column]
            if hardly_counted(n, of) and not (mode == "overexpress" and allow_extrapolation):
                where = "of the source" if mode == "knockout" else "in all"
                why = (
                    "a knock-out has no effect to propagate"
                    if mode == "knockout"
                    else "what it does at a high level was never seen; `allow_extrapolation=True` computes it"
                )
                left_out.append(
                    (f"{name}_{mode}", f"{name!r} was counted in {n} of {of} cells {where}: {why}")
                )
                continue
            ways.append((number[column], WAYS[mode]))
    if not ways:
        raise ValueError(
            f"no intervention is left; the first refusal: {left_out[0][1] if left_out else 'features is empty'}"
        )
    return ways, left_out

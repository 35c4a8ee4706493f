"""Run a twin forward, with and without interventions, and read out fates and every modality."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mudata import MuData
from scipy.stats import norm

from mmopt import _keys
from mmopt._checks import obs_column
from mmopt._compat import versions
from mmopt._progress import progress
from mmopt._random import derived
from mmopt.dynamics import FateMap, descendants, sample_chains, shrink
from mmopt.tl._counterfactual import Held, Reader, features_along, hold, interpolated, regulators_along
from mmopt.tl._course import Course
from mmopt.tl._interventions import refuse_unsound
from mmopt.tl._members import Member, fate_matrix, one_hot, restore
from mmopt.tl._scene import Stage, set_stage
from mmopt.tl._schedule import Planned, parse_schedule, schedule_grid
from mmopt.tl._stages import plain_stage
from mmopt.tl._starts import Start, find_start

if TYPE_CHECKING:
    from mmopt.models import TriVI

_Z = float(norm.ppf(0.95))
# what the members share and cannot disagree on: factors on the ensemble's standard deviation and on the change, and the
# share of the cells that is never known. Set on simulated networks, see benchmarks/twin
ENSEMBLE, TRANSFER, UNSEEN = 1.5, 0.35, 0.04
_REFERENCE, _PATHS, _NEIGHBOURS = 5000, 40, 15
_MUCH = 0.2


@dataclass(frozen=True, eq=False)
class _Arms:
    """What one call collects over the members; arrays are ``(n_grid, ...)``."""

    fractions: list[np.ndarray]
    changes: list[np.ndarray]
    features: dict[str, list[np.ndarray]]
    outside: list[np.ndarray]
    embedded: list[np.ndarray]


def simulate(
    mdata: MuData,
    *,
    start: object,
    model: "TriVI | None" = None,
    interventions: Sequence | None = None,
    terminal_key: str | None = None,
    features: Sequence[str] | None = None,
    n_cells: int = 150,
    n_times: int = 9,
    stochastic: bool = False,
    twin: str = _keys.TWIN,
    regulons: str = _keys.REGULONS,
    allow_extrapolation: bool = False,
    on_missing: str = "raise",
    progress_bar: bool = True,
    key_added: str = _keys.SIMULATE,
    random_state: int = 0,
    copy: bool = False,
) -> MuData | None:
    """Follow cells to the last time point, with and without interventions.

    Without an intervention the fates are those of the descendants in the couplings, so that the whole population ends as it
    was measured. An intervention is felt inside the dynamics of the regulators: along lines of descent of observed cells they
    are held or set free as the schedule says, act on each other through the network of :func:`mmopt.tl.regulons`, and the
    difference to the same line left alone is what is reported. What the members of the ensemble do not agree on is taken back:
    where they do not agree at all, the answer is no change.

    Parameters
    ----------
    mdata
        Data with the result of :func:`mmopt.tl.twin`; interventions need that of :func:`mmopt.tl.regulons` too.
    start
        ``{"day": 0}`` (all cells of a time point), ``{"cell_type": "HSC"}`` (a group), both together, names or a mask of cells,
        or ``{"day": 0, "states": x}`` (points of the embedding).
    model
        Not needed: the twin lives in the stored embedding, and read-outs are of observed cells, not decoded ones. Accepted so
        that all tools are called alike.
    interventions
        ``[("GATA1", "overexpress", 2, 4), ("SPI1", "knockout")]``: feature, mode and window, from ``start`` up to ``stop``;
        without a window the whole simulation. Modes as in :func:`mmopt.tl.perturb`.
    terminal_key
        Column with the labels of the fates; without it no fates are read.
    features
        Features to read out; default: all of the network (or all that are marked highly variable).
    n_cells
        Lines of descent per member.
    n_times
        Evenly spaced times to read, beside the time points and the switches of the schedule.
    stochastic
        Run the flow with the noise of its bridges instead of its mean.
    twin, regulons
        Slots.
    allow_extrapolation, on_missing
        As in :func:`mmopt.tl.perturb`.
    progress_bar
        Show one.
    key_added
        Slot in ``mdata.uns``.
    random_state
        Seed.
    copy
        Return a changed copy.

    Returns
    -------
    Nothing, or the copy. Sets ``mdata.uns["simulate"]``:

    ``t``
        ``(n_grid,)`` times.
    ``fate``
        Table ``label, p, lo, hi, wild_type, wild_type_lo, wild_type_hi, flow``: share of the population at the end, with 90 %
        intervals, under the interventions and without; ``flow`` is what integrating the velocity gives on its own, as a check.
        The label ``unassigned`` is for unlabelled cells, and in ``flow`` for states outside of the data.
    ``fate_time``
        Table ``time, arm, label, p, lo, hi``; arms ``wild_type`` and, with interventions, ``perturbed``.
    ``features``
        Table ``modality, feature, time, arm, mean, lo, hi``: log1p counts per 10,000 for RNA and ATAC, the centred log ratio for
        protein.
    ``ood``
        Table ``time, arm, share`` of states farther from the observed ones than 99 % of those from each other.
    ``paths``
        ``wild_type`` and ``perturbed``: ``(n_grid, n_paths, d)`` in the embedding.
    ``effect``
        ``factor`` (what is left of the raw change), ``total_variation`` and ``verdict``.
    ``fate_names``, ``params``, ``warnings``, ``versions``

    ``mdata.obsm["fate_simulate"]``: probability of each cell's descendants to end in each of ``fate_names``, left alone.

    Raises
    ------
    KeyError, TypeError, ValueError
        No twin or network, a start that was not measured or lies outside of the data, features that are unknown, ambiguous or
        without outgoing edges, a window that is empty or outside of the simulation.

    Notes
    -----
    In simulations with known truth the fates after an intervention come out nearer to the truth than "no change" on average,
    not always; see ``benchmarks/twin``. A regulator whose loss leaves the cells in a state that was never observed is
    missed most often. Tests of differential expression on simulated cells are not valid.

    Examples
    --------
    >>> mm.tl.simulate(mdata, start={"day": 2}, interventions=[("GATA1", "overexpress", 2, 4)], terminal_key="cell_type")
    >>> mdata.uns["simulate"]["fate"]
    """
    if n_cells < 20 or n_times < 2:
        raise ValueError(f"n_cells must be at least 20 and n_times at least 2, got {n_cells=}, {n_times=}")
    if copy:
        mdata = mdata.copy()
    course, members = restore(mdata, twin)
    time_key = mdata.uns[twin]["params"]["time_key"]
    begin = find_start(mdata, course, start, time_key)
    labels = obs_column(mdata, terminal_key) if terminal_key is not None else None
    stage = _stage(mdata, regulons, bool(interventions), mdata.uns[twin]["params"]["use_rep"], random_state)
    t0, end = float(course.times[begin.point]), float(course.times[-1])
    planned = parse_schedule(interventions, stage.features, mdata, t0, end)
    remarks = list(begin.remarks)
    if planned:
        detected = {p.what.column: stage.profiles.detected(p.what.column, stage.member) for p in planned}
        remarks += refuse_unsound(
            [p.what for p in planned],
            stage.features,
            stage.scene,
            stage.links,
            detected,
            allow_extrapolation=allow_extrapolation,
            on_missing=on_missing,
        )
    shown = _shown(features, stage, mdata)
    grid = schedule_grid(course.times, t0, end, planned, n_times)
    names, reader, reference = _reader(course, stage, labels, random_state)
    arms = _Arms([], [], {"wild_type": [], "perturbed": []}, [], [])
    for m in progress(range(len(members)), "simulate", len(members), progress_bar):
        _run(
            arms, course, stage, members[m], m, len(members), begin, planned, grid, names, labels, reader, reference,
            shown, n_cells, derived(random_state, 31, m),
        )  # fmt: skip
    flow_paths, flow_share, flow_out = _flow(
        course, members, begin, grid, labels, names, n_cells, stochastic, random_state
    )
    tables = _tables(arms, stage, grid, names, flow_share, shown, bool(planned))
    ood = [pd.DataFrame({"time": grid, "arm": "wild_type", "share": flow_out})]
    if planned:
        ood.append(pd.DataFrame({"time": grid, "arm": "perturbed", "share": np.mean(arms.outside, axis=0)}))
    remarks += _warned(tables, ood, course.units, bool(planned))
    for remark in remarks:
        warnings.warn(f"{key_added}: {remark}", stacklevel=2)
    mdata.uns[key_added] = tables | {
        "t": grid,
        "ood": pd.concat(ood, ignore_index=True),
        "paths": {"wild_type": flow_paths.astype(np.float32)}
        | ({"perturbed": np.mean(arms.embedded, axis=0).astype(np.float32)} if planned else {}),
        "params": {
            "start": begin.name,
            "start_time": t0,
            "interventions": [f"{p.what.name} {p.what.mode} {p.start:g}-{p.stop:g}" for p in planned],
            "features": [p.what.name for p in planned],
            "modes": [p.what.mode for p in planned],
            "windows": np.array([[p.start, p.stop] for p in planned]).reshape(-1, 2),
            "terminal_key": terminal_key or "",
            "time_key": time_key,
            "units": course.units,
            "use_rep": mdata.uns[twin]["params"]["use_rep"],
            "stochastic": stochastic,
            "n_cells": n_cells,
            "n_members": len(members),
            "twin": twin,
            "random_state": random_state,
        },
        "warnings": np.array(remarks, dtype=object),
        "versions": versions(),
    }
    if labels is not None:
        matrix, _ = fate_matrix(course, members, labels)
        mdata.obsm[_keys.fate_slot(key_added)] = matrix
    return mdata if copy else None


def _stage(mdata: MuData, regulons: str, needed: bool, use_rep: str, seed: int) -> Stage:
    if needed and regulons not in mdata.uns:
        raise KeyError(
            f"interventions act through a regulatory network, and there is none in mdata.uns[{regulons!r}]; call "
            "`mm.tl.regulons(mdata, prior=...)` first"
        )
    if regulons in mdata.uns:
        return set_stage(mdata, regulons=regulons, groupby=None, seed=seed)
    return plain_stage(mdata, use_rep)


def _shown(features: Sequence[str] | None, stage: Stage, mdata: MuData) -> np.ndarray:
    if features is None:
        return np.arange(len(stage.features.table))
    if isinstance(features, str):
        raise TypeError(f"features: a list of names is needed, not {features!r}")
    return np.array([stage.features.find(f, mdata) for f in features], dtype=int)


def _reader(
    course: Course, stage: Stage, labels: pd.Series | None, seed: int
) -> tuple[list[str], Reader | None, tuple[np.ndarray, np.ndarray]]:
    """Names of the fates, who reads labels from regulators, and the observed regulators with their embedding."""
    known = course.point >= 0
    if labels is not None:
        last = labels.iloc[course.rows(len(course.times) - 1)]
        if not last.notna().any():
            raise ValueError("terminal_key: no cell of the last time point has a label")
        known &= labels.notna().to_numpy()
    rows = np.flatnonzero(known)
    rows = np.sort(np.random.default_rng([seed, 33]).permutation(rows)[:_REFERENCE])
    regulators = stage.scene.network.regulators
    level = (
        np.maximum(stage.cells(rows).level[:, regulators], 0) if len(regulators) else np.zeros((len(rows), 0))
    )
    if labels is None:
        return [], None, (level, course.states[rows])
    names = sorted({str(v) for v in labels.iloc[rows]})
    reader = Reader(level, labels.iloc[rows].astype(str).to_numpy()) if len(regulators) else None
    return names, reader, (level, course.states[rows])


def _run(
    arms: _Arms, course: Course, stage: Stage, member: Member, m: int, n_members: int, begin: Start,
    planned: list[Planned], grid: np.ndarray, names: list[str], labels: pd.Series | None, reader: Reader | None,
    reference: tuple[np.ndarray, np.ndarray], shown: np.ndarray, n_cells: int, seed: int,
) -> None:  # fmt: skip
    """Add one member of the twin, and the members of the network that run on its lines, to ``arms``."""
    rng = np.random.default_rng(seed)
    mass = begin.mass * member.weights[begin.point]
    if names:
        arms.fractions.append(_fractions(course, member, mass, begin.point, grid, names, labels))
    chains = sample_chains(member.couplings, mass, begin.point, n_cells, rng, member.weights)
    rows = np.stack([course.rows(begin.point + i)[c] for i, c in enumerate(chains)])
    unique, where = np.unique(rows, return_inverse=True)
    level = stage.cells(unique).level[where.reshape(rows.shape)]
    lines = interpolated(level, course.times[begin.point :], grid)
    held = hold(planned, stage, lines) if planned else Held([{}] * len(grid), [{}] * len(grid))
    readout, direct = stage.scene.readout, held.columns
    arms.features["wild_type"].append(
        np.stack([readout.logged(lines.level[i], direct)[:, shown].mean(0) for i in range(len(grid))])
    )
    if not planned:
        return
    network, span = stage.scene.network, float(np.ptp(course.times))
    before = np.maximum(lines.level[:, :, network.regulators], 0)
    near = FateMap(reference[0], np.zeros(len(reference[0]), dtype=int), k=_NEIGHBOURS)
    asked = None if reader is None else np.stack([reader(x) for x in before])
    for g in range(m, network.n_members, n_members):
        moved = regulators_along(stage, lines, held, g, span)
        if reader is not None:
            arms.changes.append(
                np.stack([(reader(x) - w).mean(0) for x, w in zip(moved, asked, strict=True)])
            )
        arms.features["perturbed"].append(
            np.stack(
                [
                    readout.logged(features_along(stage, lines, held, moved, g, i), direct)[:, shown].mean(0)
                    for i in range(len(grid))
                ]
            )
        )
        if g == m:
            capped = np.minimum(moved, np.maximum(before, stage.scene.cells.highest[network.regulators]))
            arms.outside.append(np.array([near.outside(x).mean() for x in capped]))
            if not arms.embedded:
                arms.embedded.append(np.stack([reference[1][near.near(x[:_PATHS])].mean(1) for x in capped]))


def _fractions(
    course: Course,
    member: Member,
    mass: np.ndarray,
    first: int,
    grid: np.ndarray,
    names: list[str],
    labels: pd.Series,
) -> np.ndarray:
    """Share of each label among the descendants, ``(n_grid, n_labels)``, linear between two time points."""
    steps = descendants(member.couplings, mass, first, member.weights)
    at = np.stack(
        [step @ one_hot(labels.iloc[course.rows(first + i)], names)[1] for i, step in enumerate(steps)]
    )
    return np.stack([np.interp(grid, course.times[first:], column) for column in at.T], axis=1)


def _flow(
    course: Course,
    members: list[Member],
    begin: Start,
    grid: np.ndarray,
    labels: pd.Series | None,
    names: list[str],
    n_cells: int,
    stochastic: bool,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paths of the velocity, the labels where they end (last entry: outside of the data), and the share outside by time."""
    last = course.rows(len(course.times) - 1)
    rng = np.random.default_rng([seed, 32])
    cells = rng.choice(course.rows(begin.point), n_cells, p=begin.mass / begin.mass.sum())
    known = np.flatnonzero(course.point >= 0)
    known = rng.permutation(known)[:_REFERENCE]
    everywhere = FateMap(course.states[known], np.zeros(len(known), dtype=int))
    text = np.full(len(last), _keys.UNASSIGNED, dtype=object)
    if labels is not None:
        text[:] = (
            labels.iloc[last].astype(object).where(labels.iloc[last].notna(), _keys.UNASSIGNED).astype(str)
        )
    ends = FateMap(course.states[last], text)
    shares, outside, paths = [], [], []
    for m, member in enumerate(members):
        path = member.flow.run(course.states[cells], grid, stochastic=stochastic, seed=derived(seed, 34, m))
        share, out = ends(path[-1])
        found = dict(zip(ends.names, share.mean(0), strict=True))
        unassigned = found.pop(_keys.UNASSIGNED, 0.0) + out.mean()
        shares.append([*(found.get(n, 0.0) for n in names), unassigned])
        outside.append([everywhere.outside(x).mean() for x in path])
        paths.append(path[:, :_PATHS])
    return np.mean(paths, axis=0) if not stochastic else paths[0], np.array(shares), np.mean(outside, axis=0)


def _tables(
    arms: _Arms,
    stage: Stage,
    grid: np.ndarray,
    names: list[str],
    flow: np.ndarray,
    shown: np.ndarray,
    planned: bool,
) -> dict:
    out: dict = {"fate_names": names}
    if names:
        own, own_sd = np.mean(arms.fractions, axis=0), np.std(arms.fractions, axis=0, ddof=1)
        change, sd, factor = np.zeros_like(own), np.zeros_like(own), 1.0
        if planned:
            draws = np.stack(arms.changes)
            for i in range(len(grid)):
                change[i], factor = shrink(draws[:, i])
            touched = np.abs(draws).max(axis=(0, 1)) > 1e-6
            sd = np.sqrt(
                (ENSEMBLE * draws.std(0, ddof=1)) ** 2 + (TRANSFER * draws.mean(0)) ** 2 + touched * UNSEEN**2
            )
        p = np.clip(own + change, 0, None)
        p *= own.sum(1, keepdims=True) / np.maximum(p.sum(1, keepdims=True), 1e-12)
        arm_values = {"wild_type": (own, own_sd)}
        if planned:
            arm_values["perturbed"] = (p, np.sqrt(own_sd**2 + sd**2))
        frames = [
            pd.DataFrame(
                {
                    "time": np.repeat(grid, len(names)),
                    "arm": arm,
                    "label": np.tile(names, len(grid)),
                    "p": value.ravel(),
                    "lo": np.clip(value - _Z * spread, 0, 1).ravel(),
                    "hi": np.clip(value + _Z * spread, 0, 1).ravel(),
                }
            )
            for arm, (value, spread) in arm_values.items()
        ]
        out["fate_time"] = pd.concat(frames, ignore_index=True)
        final = {arm: f.iloc[-len(names) :] for arm, f in zip(arm_values, frames, strict=True)}
        main, wild = final["perturbed" if planned else "wild_type"], final["wild_type"]
        without = max(1 - float(own[-1].sum()), 0.0)
        out["fate"] = pd.DataFrame(
            {
                "label": [*names, _keys.UNASSIGNED],
                **{c: [*main[c], without] for c in ("p", "lo", "hi")},
                **{
                    f"wild_type{s}": [*wild[c], without] for s, c in (("", "p"), ("_lo", "lo"), ("_hi", "hi"))
                },
                "flow": flow.mean(0),
            }
        )
        moved = 0.5 * float(np.abs(p[-1] - own[-1]).sum())
        out["effect"] = {
            "factor": float(factor),
            "total_variation": moved,
            "verdict": "none asked for" if not planned else "no effect" if moved < 0.01 else "effect",
        }
    out["features"] = _feature_table(arms, stage, grid, shown, planned)
    return out


def _feature_table(
    arms: _Arms, stage: Stage, grid: np.ndarray, shown: np.ndarray, planned: bool
) -> pd.DataFrame:
    table = stage.features.table.iloc[shown]
    spread = stage.spread[shown]
    wild = np.stack(arms.features["wild_type"])
    values = {"wild_type": (wild.mean(0), wild.std(0, ddof=1))}
    if planned:
        # a member of the network stands beside the lines it ran on, so that only the change varies with it
        n = len(wild)
        order = [g for m in range(n) for g in range(m, stage.scene.network.n_members, n)]
        draws = np.stack(arms.features["perturbed"])
        change = draws - wild[[g % n for g in order]]
        mean = change.mean(0)
        sd = np.sqrt(
            (ENSEMBLE * change.std(0, ddof=1)) ** 2
            + (TRANSFER * mean) ** 2
            + (np.abs(change).max(0) > 1e-9) * (TRANSFER * spread) ** 2
        )
        values["perturbed"] = (values["wild_type"][0] + mean, np.sqrt(values["wild_type"][1] ** 2 + sd**2))
    n_grid, n_shown = len(grid), len(table)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "modality": pd.Categorical(np.tile(table["modality"], n_grid)),
                    "feature": np.tile(table["feature"], n_grid),
                    "time": np.repeat(grid, n_shown),
                    "arm": arm,
                    "mean": value.ravel(),
                    "lo": (value - _Z * sd).ravel(),
                    "hi": (value + _Z * sd).ravel(),
                }
            )
            for arm, (value, sd) in values.items()
        ],
        ignore_index=True,
    )


def _warned(tables: dict, ood: list[pd.DataFrame], units: str, planned: bool) -> list[str]:
    remarks = []
    for frame in ood:
        worst = frame.loc[frame["share"].idxmax()]
        if worst["share"] > _MUCH:
            remarks.append(
                f"{worst['share']:.0%} of the {worst['arm'].replace('_', ' ')} states at {worst['time']:g} lie outside of the "
                "data: what happens there was never seen"
            )
    if "fate" in tables:
        fate = tables["fate"]
        gap = 0.5 * float(np.abs(fate["flow"] - fate["wild_type"]).sum())
        if gap > _MUCH:
            remarks.append(
                f"the velocity on its own ends elsewhere than the couplings (total variation {gap:.2f}); trust neither far "
                "from the time points"
            )
    if planned and units == "pseudotime":
        remarks.append(
            "the schedule counts in pseudotime, so how long an intervention lasts is not known in days"
        )
    return remarks

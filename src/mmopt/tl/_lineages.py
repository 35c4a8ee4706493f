"""Whether the fates a twin gives to traced cells are those of their lineages, beside what knows no dynamics."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from mudata import MuData
from sklearn.neighbors import NearestNeighbors

from mmopt._checks import listed, obs_column
from mmopt.metrics import fate_scores
from mmopt.tl._course import Course
from mmopt.tl._members import Member, fate_matrix, one_hot

TWIN, FLOW, MEASURED, MAJORITY, NEAREST, TRACED = (
    "twin",
    "flow",
    "measured_shares",
    "majority",
    "nearest_last",
    "nearest_traced",
)
# with fewer lineages a bootstrap over them says nothing
_MANY, _LEAST, _NEIGHBOURS = 20, 20, 15


@dataclass(frozen=True, eq=False)
class Traced:
    """Cells whose lineage was seen again at the last time point.

    ``rows``: of the cells in the data, all before the last time point. ``true``: ``(n, n_labels)`` shares of the labels
    among the lineage's cells of the last time point. ``lineage``: ``(n,)`` numbers. ``labels``: of all cells.
    """

    rows: np.ndarray
    true: np.ndarray
    lineage: np.ndarray
    labels: pd.Series
    names: list[str]


def read_lineages(
    mdata: MuData, course: Course, lineage_key: str | None, terminal_key: str | None
) -> Traced | None:
    """Read which early cells are traced to which labels at the last time point.

    Raises
    ------
    KeyError, ValueError
        No such column, one key without the other, one label, or hardly any cells of one lineage at both times.
    """
    if lineage_key is None and terminal_key is None:
        return None
    if lineage_key is None or terminal_key is None:
        raise ValueError(
            "to score fates takes both `lineage_key` (the clone or lineage of each cell) and `terminal_key` (the labels at "
            "the last time point), or neither"
        )
    if lineage_key == terminal_key:
        raise ValueError(
            f"lineage_key and terminal_key are both {lineage_key!r}: cells would be scored on their own label; name the "
            "clone or the traced lineage in `lineage_key`"
        )
    lineage, labels = obs_column(mdata, lineage_key), obs_column(mdata, terminal_key)
    numbers = pd.factorize(lineage)[0]
    last = course.rows(len(course.times) - 1)
    names, hot = one_hot(labels.iloc[last])
    if len(names) < 2:
        raise ValueError(
            f"terminal_key={terminal_key!r} has {len(names)} label at the last time point ({listed(names) or 'none'}): fates "
            "can only be told apart where there are two"
        )
    ends = np.zeros((max(numbers.max(initial=-1), 0) + 1, len(names)))
    known = numbers[last] >= 0
    np.add.at(ends, numbers[last][known], hot[known])
    early = np.flatnonzero((course.point >= 0) & (course.point < len(course.times) - 1) & (numbers >= 0))
    rows = early[ends[numbers[early]].sum(1) > 0]
    if len(rows) < _LEAST:
        raise ValueError(
            f"lineage_key={lineage_key!r}: {len(rows)} cells before the last time point share a lineage with a labelled cell "
            f"of it ({len(early)} cells before it have a lineage, {int(known.sum())} of it), at least {_LEAST} are needed"
        )
    shares = ends[numbers[rows]]
    return Traced(rows, shares / shares.sum(1, keepdims=True), numbers[rows], labels, names)


def fate_rows(course: Course, members: list[Member], traced: Traced, seed: int) -> pd.DataFrame:
    """Scores at each time point with traced cells, one row per prediction."""
    last = course.rows(len(course.times) - 1)
    matrix = fate_matrix(course, members, traced.labels, traced.names)
    _, hot = one_hot(traced.labels.iloc[last], traced.names)
    labelled = np.flatnonzero(hot.sum(1) > 0)
    ends, hot = course.states[last[labelled]], hot[labelled]
    index = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(ends))).fit(ends)

    def read(states: np.ndarray) -> np.ndarray:
        return hot[index.kneighbors(states, return_distance=False)].mean(1)

    frames = []
    for t in range(len(course.times) - 1):
        here = np.flatnonzero(course.point[traced.rows] == t)
        if len(here) < _LEAST:
            continue
        rows, lineage = traced.rows[here], traced.lineage[here]
        n_lineages = len(np.unique(lineage))
        unit = lineage if n_lineages >= _MANY else np.arange(len(here))
        span = np.array([course.times[t], course.times[-1]])
        flows = [read(member.flow.run(course.states[rows], span)[-1]) for member in members]
        shares = hot.mean(0)
        every = np.ones((len(here), 1))
        predicted = {
            TWIN: _summing_to_one(matrix[rows]),
            FLOW: np.mean(flows, axis=0),
            MEASURED: every * shares,
            MAJORITY: every * (np.arange(len(shares)) == shares.argmax()),
            NEAREST: read(course.states[rows]),
            TRACED: _of_others(course.states[rows], traced.true[here], unit),
        }
        table = fate_scores(predicted, traced.true[here], unit, reference=MEASURED, random_state=seed)
        said = {"time": float(course.times[t]), "space": "fate"}
        more = {"n_cells": len(here), "n_lineages": n_lineages}
        frames.append(table.assign(**said, **more, resampled="lineages" if unit is lineage else "cells"))
    if not frames:
        raise ValueError(
            f"lineage_key: no time point before the last has {_LEAST} traced cells; merge time points, or leave it out"
        )
    return pd.concat(frames, ignore_index=True)


def _summing_to_one(share: np.ndarray) -> np.ndarray:
    """Leave out what ends in cells without a label; nothing known is equal shares."""
    total = share.sum(1, keepdims=True)
    return np.where(total > 1e-12, share / np.maximum(total, 1e-12), 1 / share.shape[1])


def _of_others(states: np.ndarray, true: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Mean of the traced fates of the nearest cells of the same time point that are not of the cell's own unit."""
    # so many that enough are left when the largest unit is taken out
    k = min(_NEIGHBOURS + int(np.unique(unit, return_counts=True)[1].max()), len(states))
    near = NearestNeighbors(n_neighbors=k).fit(states).kneighbors(states, return_distance=False)
    out = np.empty_like(true)
    for i, around in enumerate(near):
        others = around[unit[around] != unit[i]][:_NEIGHBOURS]
        out[i] = true[others].mean(0) if len(others) else true.mean(0)
    return out

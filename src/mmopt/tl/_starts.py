"""Where a simulation starts: a time point, a group, given cells or given states."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed, obs_column
from mmopt.dynamics import FateMap
from mmopt.tl._course import Course
from mmopt.tl._scene import mask_of

# cells a simulation can start from
_FEW = 10
# share of the starting states outside of the data that is refused, and that is spoken of
_MUCH, _SOME = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Start:
    """Time point, and the mass on each of its cells."""

    point: int
    mass: np.ndarray
    name: str
    remarks: list[str]


def find_start(mdata: MuData, course: Course, start: object, time_key: str) -> Start:
    """Read ``{"day": 2}``, ``{"cell_type": "HSC"}``, both together, names or a mask of cells, or ``{"day": 2, "states": x}``.

    Raises
    ------
    KeyError, TypeError, ValueError
        What cannot be read, times that were not measured, no or hardly any cells, states outside of the data.
    """
    given = dict(start) if isinstance(start, Mapping) else {}
    # with a time key of its own a column called "time" is a group like any other
    time = given.pop(time_key) if time_key in given else given.pop("time", None)
    states = given.pop("states", None)
    member = np.ones(mdata.n_obs, dtype=bool)
    if not isinstance(start, Mapping):
        member = _cells(mdata, start)
    elif time is None and states is None and not given:
        raise ValueError(
            f'start: nothing is said; give a time such as {{"{time_key}": {course.times[0]:g}}}, or a group'
        )
    for key, value in given.items():
        column = obs_column(mdata, key)
        # a missing label is no group
        column = column.astype(str).where(column.notna(), None)
        there = set(column.dropna())
        wanted = [_spellings(v) for v in (value if isinstance(value, list | tuple | np.ndarray) else [value])]
        if unknown := [w[0] for w in wanted if there.isdisjoint(w)]:
            raise KeyError(
                f"start: no {listed(unknown)} in {key!r}; there are {listed(column.dropna().unique(), 20)}"
            )
        member &= column.isin([text for w in wanted for text in w]).to_numpy()
    sizes = np.array([(member & (course.point == t)).sum() for t in range(len(course.times))])
    if time is not None:
        t = _point(course, time)
    elif states is not None:
        raise ValueError(
            f'start: states need their time too, e.g. {{"{time_key}": {course.times[0]:g}, "states": x}}'
        )
    else:
        t = int(np.argmax(sizes[:-1]))
    if t == len(course.times) - 1:
        raise ValueError(
            f"start: {course.times[t]:g} is the last time point, so there is nothing left to simulate"
        )
    remarks: list[str] = []
    if states is not None:
        mass, remarks = _from_states(np.asarray(states, dtype=float), course, t)
        return Start(t, mass, "states", remarks)
    if sizes[t] < _FEW:
        raise ValueError(
            f"start: {sizes[t]} cells at {course.times[t]:g}, at least {_FEW} are needed; cells by time point: "
            + ", ".join(f"{x:g}: {n}" for x, n in zip(course.times, sizes, strict=True))
        )
    if time is None and sizes.sum() > sizes[t]:
        remarks.append(
            f"the start has cells at several times; those at {course.times[t]:g} are used ({sizes[t]} of {sizes.sum()})"
        )
    mass = member[course.point == t].astype(float)
    named = ", ".join(f"{k} {v}" for k, v in given.items()) or (
        "cells" if not isinstance(start, Mapping) else "all"
    )
    return Start(t, mass, named, remarks)


def _spellings(value: object) -> list[str]:
    """Texts of a label; a whole number is one whether its column is of integers or, with values missing, of floats."""
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_) and float(value).is_integer():
        return [str(value), str(int(float(value))), str(float(value))]
    # a column of dates writes them without their time
    return [str(value), str(value.date())] if isinstance(value, pd.Timestamp) else [str(value)]


def _point(course: Course, time: object) -> int:
    points = ", ".join(f"{t:g}" for t in course.times)
    try:
        value = float(time)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"start: one of the time points {points} is needed, not {time!r:.60}")
    near = int(np.argmin(np.abs(course.times - value)))
    if abs(course.times[near] - value) > 1e-6 * max(np.ptp(course.times), 1e-9):
        where = (
            "outside of the course" if not course.times[0] <= value <= course.times[-1] else "not measured"
        )
        raise ValueError(f"start: {value:g} is {where}; the time points are {points}")
    return near


def _cells(mdata: MuData, start: object) -> np.ndarray:
    if isinstance(start, str | int | float) or start is None:
        raise TypeError(
            f"start: a dict such as {{'day': 2}}, names or a mask of cells are needed, not {start!r}"
        )
    cells = np.asarray(start)
    if pd.api.types.is_bool_dtype(getattr(start, "dtype", cells.dtype)):
        return mask_of(mdata, start, "start")
    if cells.ndim != 1 or cells.dtype.kind not in "OUST":
        raise TypeError(
            f"start: names of cells are needed, not an array of {cells.dtype}; states go into {{'states': x}}"
        )
    rows = mdata.obs_names.get_indexer(pd.Index(cells))
    if (rows < 0).any():
        raise KeyError(f"start: not in mdata.obs_names: {listed(cells[rows < 0])}")
    return np.isin(np.arange(mdata.n_obs), rows)


def _from_states(states: np.ndarray, course: Course, t: int) -> tuple[np.ndarray, list[str]]:
    here = course.at(t)
    if states.ndim != 2 or states.shape[1] != here.shape[1] or not np.isfinite(states).all():
        raise ValueError(
            f"start: states must be finite and (n, {here.shape[1]}) as the embedding, got {states.shape}"
        )
    near = FateMap(here, np.zeros(len(here), dtype=int), k=5)
    share = float(near.outside(states).mean())
    if share > _MUCH:
        raise ValueError(
            f"start: {share:.0%} of the states lie outside of the data at {course.times[t]:g} (farther from the cells than "
            "99 % of those from each other); a twin knows nothing there. Map them with the model first, or start from cells"
        )
    mass = np.bincount(near.near(states).ravel(), minlength=len(here)).astype(float)
    return mass, [f"{share:.0%} of the starting states lie outside of the data"] if share > _SOME else []

"""Interventions with a start and a stop: what is held when, on the grid of a simulation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mudata import MuData

from mmopt.tl._features import Features
from mmopt.tl._interventions import MODES, Intervention, parse

# times of the grid are rounded to as many decimals, and those closer than this share of the span are one
_DECIMALS, _SAME = 9, 1e-6


@dataclass(frozen=True)
class Planned:
    """One intervention and its window, from ``start`` up to but not including ``stop``."""

    what: Intervention
    start: float
    stop: float

    def __str__(self) -> str:
        """``GATA1 overexpress 0-8``, ``GATA1 overexpress (level 1.5) 0-8``."""
        level = "" if self.what.level is None else f" (level {self.what.level:g})"
        return f"{self.what.name} {self.what.mode}{level} {self.start:g}-{self.stop:g}"

    def active(self, time: float, begin: float, end: float) -> bool:
        """Whether it holds at a ``time`` of the grid; what lasts to the end of the simulation holds there too."""
        # thirds and float32 are not on the grid to the last digit
        near = _near(begin, end)
        before_stop = time < self.stop - near or (time >= end - near and self.stop >= end - near)
        return self.start <= time + near and before_stop


@dataclass(frozen=True)
class Asked:
    """One entry as it was written: ``what`` and ``level`` for :func:`parse`, ``None`` for the first or last time there is."""

    what: Mapping | Sequence
    start: float | None = None
    stop: float | None = None
    level: float | None = None


def read_schedule(interventions: Mapping | Sequence | None) -> list[Asked]:
    """Read ``[("GATA1", "overexpress", 2, 4, 1.5), ("SPI1", "knockout"), "KLF1"]``, or a dict as :func:`parse` takes it.

    Raises
    ------
    TypeError
        Entries that cannot be read.
    """
    if interventions is None:
        return []
    if isinstance(interventions, Mapping):
        return [Asked({name: value}) for name, value in interventions.items()]
    if isinstance(interventions, str) or (
        isinstance(interventions, tuple) and len(interventions) > 1 and interventions[1] in MODES
    ):
        interventions = [interventions]
    if not isinstance(interventions, Sequence):
        raise _unreadable(interventions)
    return [_asked(entry) for entry in interventions]


def parse_schedule(
    asked: Sequence[Asked], features: Features, mdata: MuData, begin: float, end: float
) -> list[Planned]:
    """Find what is asked for in the data and its windows in the simulation; without a window: from begin to end.

    Raises
    ------
    TypeError, KeyError, ValueError
        Unknown features and modes, windows that are empty or outside of the simulation, a feature held twice at one time.
    """
    planned: list[Planned] = []
    near = _near(begin, end)
    for one in asked:
        what = parse(one.what, "knockout", one.level, features, mdata)[0]
        start = begin if one.start is None else one.start
        stop = end if one.stop is None else one.stop
        if not stop - start > 2 * near:
            raise ValueError(
                f"interventions: {what.name!r}: start must be before stop, by more than {2 * near:g}; got {start!r} and {stop!r}"
            )
        if not (np.isfinite([start, stop]).all() and start < end - near and stop > begin + near):
            raise ValueError(
                f"interventions: {what.name!r} from {start:g} to {stop:g} lies outside of the simulation, {begin:g} to {end:g}"
            )
        for other in planned:
            if other.what.column == what.column and start < other.stop - near and other.start < stop - near:
                raise ValueError(f"interventions: {what.name!r} is held twice at the same time")
        planned.append(Planned(what, max(start, begin), min(stop, end)))
    return planned


def schedule_grid(
    times: np.ndarray, begin: float, end: float, planned: Sequence[Planned], n: int
) -> np.ndarray:
    """Return the times at which a simulation is read: evenly spaced, and where anything is measured or switched."""
    wanted = [*np.linspace(begin, end, n), *times, *(p.start for p in planned), *(p.stop for p in planned)]
    inside = np.unique(np.round([t for t in wanted if begin <= t <= end], _DECIMALS))
    apart = np.diff(inside, prepend=-np.inf) > _SAME * max(end - begin, 1e-9)
    return inside[apart]


def _near(begin: float, end: float) -> float:
    """Return how far a switch may lie from the time of the grid that stands for it."""
    return max(2 * _SAME * (end - begin), 10.0**-_DECIMALS)


def _asked(entry: object) -> Asked:
    parts = (entry,) if isinstance(entry, str) else tuple(entry) if isinstance(entry, tuple | list) else ()
    if not 1 <= len(parts) <= 5 or not isinstance(parts[0], str):
        raise _unreadable(entry)
    name, mode, *numbers = parts if len(parts) > 1 else (*parts, "knockout")
    try:
        numbers = [None if n is None else float(n) for n in numbers]
    except (TypeError, ValueError):
        raise _unreadable(entry) from None
    start, stop, level = numbers + [None] * (3 - len(numbers))
    if mode == "set" and level is None:
        raise ValueError(
            f"interventions: {name!r}: mode='set' needs a level: ({name!r}, 'set', start, stop, level), as in `mm.tl.perturb`"
        )
    return Asked([(name, mode)], start, stop, level)


def _unreadable(given: object) -> TypeError:
    return TypeError(
        "interventions: a list of 'GATA1', ('GATA1', 'overexpress'), ('GATA1', 'overexpress', start, stop) or ('GATA1', "
        "'overexpress', start, stop, level) is needed, where start, stop and level are numbers or None; or a dict such as "
        f"{{'GATA1': 'overexpress'}}; not {given!r:.60}"
    )

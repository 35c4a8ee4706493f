"""Interventions with a start and a stop: what is held when, on the grid of a simulation."""

from collections.abc import Sequence
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

    def active(self, time: float, begin: float, end: float) -> bool:
        """Whether it holds at a ``time`` of the grid; what lasts to the end of the simulation holds there too."""
        # thirds and float32 are not on the grid to the last digit
        near = _near(begin, end)
        before_stop = time < self.stop - near or (time >= end - near and self.stop >= end - near)
        return self.start <= time + near and before_stop


def parse_schedule(
    interventions: Sequence | None, features: Features, mdata: MuData, begin: float, end: float
) -> list[Planned]:
    """Read ``[("GATA1", "overexpress", 2, 4), ("SPI1", "knockout"), "KLF1"]``; without a window: from begin to end.

    Raises
    ------
    TypeError, KeyError, ValueError
        Entries that cannot be read, unknown features and modes, windows that are empty or outside of the simulation, a
        feature held twice at one time.
    """
    if isinstance(interventions, str) or (
        isinstance(interventions, tuple) and len(interventions) > 1 and interventions[1] in MODES
    ):
        interventions = [interventions]
    planned: list[Planned] = []
    near = _near(begin, end)
    for entry in interventions or ():
        parts = (
            (entry,) if isinstance(entry, str) else tuple(entry) if isinstance(entry, tuple | list) else ()
        )
        if len(parts) not in (1, 2, 4) or not isinstance(parts[0], str):
            raise TypeError(
                "interventions: a list of 'GATA1', ('GATA1', 'overexpress') or ('GATA1', 'overexpress', start, stop) is "
                f"needed, not {entry!r:.60}"
            )
        name, mode = parts[0], parts[1] if len(parts) > 1 else "knockout"
        start, stop = (float(parts[2]), float(parts[3])) if len(parts) == 4 else (begin, end)
        if not stop - start > 2 * near:
            raise ValueError(
                f"interventions: {name!r}: start must be before stop, by more than {2 * near:g}; got {start!r} and {stop!r}"
            )
        if not (np.isfinite([start, stop]).all() and start < end - near and stop > begin + near):
            raise ValueError(
                f"interventions: {name!r} from {start:g} to {stop:g} lies outside of the simulation, {begin:g} to {end:g}"
            )
        if mode == "set":
            raise ValueError(
                f"interventions: {name!r}: mode='set' needs a level, which a schedule has no place for; use 'knockout', 'knockdown', "
                "'overexpress' or 'block', or `mm.tl.perturb(mdata, ..., mode='set', level=...)`"
            )
        what = parse([(name, mode)], mode, None, features, mdata)[0]
        for other in planned:
            if other.what.column == what.column and start < other.stop - near and other.start < stop - near:
                raise ValueError(f"interventions: {name!r} is held twice at the same time")
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

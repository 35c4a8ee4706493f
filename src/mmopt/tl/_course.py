"""A time course: which cell was measured when, where it lies, and what makes a course too poor to learn from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import check_mudata, listed, obs_column
from mmopt._keys import EMBEDDING
from mmopt.models.trained import check_model
from mmopt.tl._profiles import stored_embedding

if TYPE_CHECKING:
    from mmopt.models import TriVI

PSEUDOTIME, UNKNOWN = "pseudotime", "time"
_LEAST_CELLS = 50
# more distinct values than this and the column is no list of time points
_MOST_POINTS, _BINS = 40, 6


@dataclass(frozen=True, eq=False)
class Course:
    """Cells by time point.

    Parameters
    ----------
    times
        ``(n_times,)``, increasing.
    point
        ``(n_obs,)`` number of each cell's time point, -1 where its time is not known.
    states
        ``(n_obs, d)`` embedding.
    growth
        ``(n_obs,)`` expected descendants per unit of time, or ``None``.
    units
        What the times count, ``"pseudotime"`` where they count nothing.
    """

    times: np.ndarray
    point: np.ndarray
    states: np.ndarray
    growth: np.ndarray | None
    units: str

    def rows(self, t: int) -> np.ndarray:
        """Rows of the cells of time point ``t``."""
        return np.flatnonzero(self.point == t)

    def at(self, t: int) -> np.ndarray:
        """States of the cells of time point ``t``."""
        return self.states[self.point == t]

    def offspring(self, t: int) -> np.ndarray:
        """Descendants that each cell of time point ``t`` has by the next one, relative to each other."""
        rows = self.rows(t)
        if self.growth is None:
            return np.ones(len(rows))
        return self.growth[rows] ** (self.times[t + 1] - self.times[t])

    def without(self, t: int) -> "Course":
        """Leave time point ``t`` out."""
        point = np.where(self.point > t, self.point - 1, np.where(self.point == t, -1, self.point))
        return Course(np.delete(self.times, t), point, self.states, self.growth, self.units)


def read_course(
    mdata: MuData,
    time_key: str,
    *,
    use_rep: str | None,
    model: "TriVI | None" = None,
    growth_key: str | None = None,
    units: str | None = None,
    least_cells: int = _LEAST_CELLS,
) -> Course:
    """Read a course from a MuData.

    Raises
    ------
    KeyError
        No such column or embedding.
    ValueError
        Times that are no numbers, one time point, too few cells at one, pseudotime that is to count something.
    """
    # no role is asked for: an embedding will do, whatever the modalities are called
    check_mudata(mdata)
    check_model(model)
    times, point, units = read_times(mdata, time_key, units, least_cells)
    growth = None
    if growth_key is not None:
        growth = pd.to_numeric(obs_column(mdata, growth_key)).to_numpy(dtype=float)
        known = point >= 0
        if not (np.isfinite(growth[known]).all() and (growth[known] > 0).all()):
            raise ValueError(
                f"growth_key={growth_key!r}: descendants per unit of time must be positive and finite, 1 for a cell that "
                "neither divides nor dies"
            )
    return Course(times, point, _states(mdata, use_rep, model), growth, units)


def read_times(
    mdata: MuData, time_key: str, units: str | None = None, least_cells: int | None = None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Read times, number of each cell's time point (-1 where it is not known) and what the times count; raises as :func:`read_course`.

    ``least_cells``: where the caller can choose it; else it is 50.
    """
    column = obs_column(mdata, time_key)
    times = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(dtype=float, copy=True)
    known = np.isfinite(times)
    if lost := int((~known & column.notna().to_numpy()).sum()):
        odd = column[~known & column.notna().to_numpy()].astype(str).unique()
        how = (
            ".dt.total_seconds() / 3600"
            if column.dtype.kind == "m"
            else r".astype(str).str.extract(r'((?:(?<!\w)-)?\d+(?:\.\d+)?)')[0].astype(float)"
        )
        raise ValueError(
            f"time_key={time_key!r}: {lost} values are no finite numbers ({listed(odd)}); give numbers of one unit, e.g. "
            f"`mdata.obs[{time_key!r}]{how}`"
        )
    values, units = np.unique(times[known]), units or ""
    pseudo = "pseudotime" in time_key.lower() or len(values) > _MOST_POINTS or units == PSEUDOTIME
    if pseudo:
        if units not in ("", PSEUDOTIME):
            raise ValueError(
                f"time_key={time_key!r} is a pseudotime ({len(values)} values): an order of cells without a clock, so it "
                f"cannot be counted in {units}; leave `units` out, or give a `time_key` with the times of sampling"
            )
        units = PSEUDOTIME
        if len(values) > _MOST_POINTS:
            times[known], values = _binned(times[known])
    if len(values) < 2:
        raise ValueError(
            f"time_key={time_key!r} has {len(values)} time point ({listed(values)}): dynamics need at least two, better "
            "four or more; with a single snapshot `mm.tl.twin` takes a pseudotime, e.g. `sc.tl.dpt` and time_key='dpt_pseudotime'"
        )
    point = np.where(known, np.searchsorted(values, np.nan_to_num(times)), -1)
    sizes = np.bincount(point[known], minlength=len(values))
    least = _LEAST_CELLS if least_cells is None else least_cells
    if sizes.min() < least:
        few = [f"{v:g}: {n}" for v, n in zip(values, sizes, strict=True) if n < least]
        remedies = "merge or leave out these points" + (
            "" if least_cells is None else ", or lower `least_cells`"
        )
        raise ValueError(
            f"time_key={time_key!r}: fewer than {least} cells at some time points ({', '.join(few)}); {remedies}"
        )
    return values, point, units or UNKNOWN


def _binned(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins of equal numbers of cells, each at its mean."""
    edges = np.quantile(times, np.linspace(0, 1, _BINS + 1)[1:-1])
    number = np.searchsorted(edges, times, side="right")
    means = np.array([times[number == b].mean() for b in np.unique(number)])
    return means[np.unique(number, return_inverse=True)[1]], np.unique(means)


def _states(mdata: MuData, use_rep: str | None, model: "TriVI | None") -> np.ndarray:
    if use_rep is None and EMBEDDING not in mdata.obsm and model is not None:
        mdata.obsm[EMBEDDING] = np.asarray(model.get_latent_representation(mdata), dtype=np.float32)
    return stored_embedding(mdata, use_rep or EMBEDDING)

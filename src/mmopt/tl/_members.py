"""A fitted twin as it was stored: its course and its members."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from mmopt._checks import check_mudata, listed
from mmopt._identity import check_identity
from mmopt.dynamics import Flow
from mmopt.tl._course import Course


@dataclass(frozen=True, eq=False)
class Member:
    """Weights of the cells of each time point, couplings of the intervals and the flow."""

    weights: list[np.ndarray]
    couplings: list[sparse.csr_matrix]
    flow: Flow


def restore(mdata: MuData, key: str) -> tuple[Course, list[Member]]:
    """Course and members from ``mdata.uns[key]``.

    Raises
    ------
    KeyError, ValueError
        No twin there, other cells than it was fitted to, another order of them or another embedding.
    """
    check_mudata(mdata)
    if key not in mdata.uns:
        raise KeyError(
            f"no twin in mdata.uns[{key!r}] (there is {listed(mdata.uns, 20) or 'nothing'}); call "
            "`mm.tl.twin(mdata, time_key=...)` first"
        )
    slot = mdata.uns[key]
    point, times = np.asarray(slot["point"], dtype=int), np.asarray(slot["times"], dtype=float)
    check_identity(slot, mdata)
    use_rep = slot["params"]["use_rep"]
    states = np.asarray(mdata.obsm[use_rep], dtype=float)
    course = Course(times, point, states, None, str(slot["params"]["units"]))
    members = []
    for m in range(len(slot["members"])):
        stored = slot["members"][f"member{m}"]
        weights = np.asarray(stored["weights"], dtype=float)
        plans = [
            sparse.csr_matrix(stored["couplings"][f"interval{t}"]).astype(float)
            for t in range(len(times) - 1)
        ]
        flow = Flow.from_arrays(stored["flow"], times)
        if len(flow.centre) != states.shape[1]:
            raise ValueError(
                f"mdata.obsm[{use_rep!r}] has {states.shape[1]} dimensions, the twin was fitted to {len(flow.centre)}; call "
                "`mm.tl.twin` again"
            )
        members.append(Member([weights[course.rows(t)] for t in range(len(times))], plans, flow))
    return course, members


def fate_matrix(course: Course, members: list[Member], labels: pd.Series, names: list[str]) -> np.ndarray:
    """Probability of each cell's descendants to carry each of ``names`` at the last time point, ``(n_obs, n_names)``.

    Mean over the members; NaN for cells without a time.
    """
    last = course.rows(len(course.times) - 1)
    hot = one_hot(labels.iloc[last], names)[1]
    total = np.zeros((len(course.point), len(names)))
    for member in members:
        now = hot
        total[last] += now
        for t in range(len(course.times) - 2, -1, -1):
            plan = member.couplings[t]
            out = np.maximum(np.asarray(plan.sum(1)).ravel(), 1e-300)
            now = (plan @ now) / out[:, None]
            total[course.rows(t)] += now
    total /= len(members)
    total[course.point < 0] = np.nan
    return total


def names_of(labels: pd.Series) -> list[str]:
    """Names of the labels that are there, in the order of a categorical column, else sorted; numbers by size."""
    there = pd.Categorical(labels).remove_unused_categories().categories
    return list(dict.fromkeys(map(str, there)))


def one_hot(labels: pd.Series, names: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Names in order, and ``(n, n_names)`` indicators; a missing label is a row of zeros."""
    as_text = labels.astype(object).where(labels.notna())
    names = sorted({str(v) for v in as_text.dropna()}) if names is None else names
    place = {name: i for i, name in enumerate(names)}
    hot = np.zeros((len(labels), len(names)))
    for row, value in enumerate(as_text):
        if value is not None and value == value and str(value) in place:
            hot[row, place[str(value)]] = 1
    return names, hot

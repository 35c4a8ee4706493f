"""A fitted twin as it was stored: its course and its members."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from mmopt._checks import listed
from mmopt.dynamics import Flow
from mmopt.tl._course import Course

# of an embedding's size: what single precision and another order of summation may change in its sums
_ALIKE = 1e-4


@dataclass(frozen=True, eq=False)
class Member:
    """Weights of the cells of each time point, couplings of the intervals and the flow."""

    weights: list[np.ndarray]
    couplings: list[sparse.csr_matrix]
    flow: Flow


def identity(mdata: MuData, states: np.ndarray) -> dict[str, str | np.ndarray]:
    """Return what tells the cells, their order and their embedding from others, in a few bytes.

    ``names``: digest of the names in their order. ``sums``: ``(2, d)`` weighted sums over the embedding's cells, which change when
    cells or axes change places, and root mean squares. Both hardly change with the precision or the machine.
    """
    n = len(states)
    digest = hashlib.sha256("\n".join(map(str, mdata.obs_names)).encode()).hexdigest()
    weights = np.cos(np.arange(n)) / np.sqrt(max(n, 1))
    return {"names": digest, "sums": np.stack([weights @ states, np.sqrt(np.mean(states**2, axis=0))])}


def _check_identity(stored: dict, mdata: MuData, states: np.ndarray, use_rep: str) -> None:
    now = identity(mdata, states)
    if str(stored["names"]) != now["names"]:
        raise ValueError(
            "the twin was fitted to other cells, or to these in another order (mdata.obs_names differ); call `mm.tl.twin` again "
            "after renaming or reordering cells"
        )
    before, after = np.asarray(stored["sums"], dtype=float), now["sums"]
    if before.shape == after.shape and (np.abs(before - after) > _ALIKE * before[1].max()).any():
        raise ValueError(
            f"mdata.obsm[{use_rep!r}] is not the embedding that the twin was fitted to; call `mm.tl.twin` again after changing it"
        )


def restore(mdata: MuData, key: str) -> tuple[Course, list[Member]]:
    """Course and members from ``mdata.uns[key]``.

    Raises
    ------
    KeyError, ValueError
        No twin there, other cells than it was fitted to, another order of them or another embedding.
    """
    if not isinstance(mdata, MuData):
        raise TypeError(f"a MuData is needed, not {type(mdata).__name__}")
    if key not in mdata.uns:
        raise KeyError(
            f"no twin in mdata.uns[{key!r}] (there is {listed(mdata.uns, 20) or 'nothing'}); call "
            "`mm.tl.twin(mdata, time_key=...)` first"
        )
    slot = mdata.uns[key]
    point, times = np.asarray(slot["point"], dtype=int), np.asarray(slot["times"], dtype=float)
    if len(point) != mdata.n_obs:
        raise ValueError(
            f"the twin was fitted to {len(point)} cells, there are {mdata.n_obs}; call `mm.tl.twin` again after changing "
            "the cells"
        )
    use_rep = slot["params"]["use_rep"]
    if use_rep not in mdata.obsm:
        raise KeyError(
            f"the twin lives in mdata.obsm[{use_rep!r}], which is gone; compute it again, or call `mm.tl.twin`"
        )
    states = np.asarray(mdata.obsm[use_rep], dtype=float)
    # twins of earlier versions know their cells by number only
    if "identity" in slot:
        _check_identity(slot["identity"], mdata, states, use_rep)
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

"""Leave a time point out and predict it, beside everything a twin has to beat."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from mudata import MuData
from sklearn.neighbors import NearestNeighbors

from mmopt import _keys, optim
from mmopt._checks import check_obs, counts, positions
from mmopt._compat import versions
from mmopt._progress import progress
from mmopt._random import derived
from mmopt.dynamics import fit_flow, maximum_mean_discrepancy, wasserstein
from mmopt.metrics import energy_distance
from mmopt.tl._course import Course, read_course
from mmopt.tl._lineages import fate_rows, read_lineages
from mmopt.tl._members import Member
from mmopt.tl._profiles import known_modalities
from mmopt.tl._twin import coupled, torch_device

TWIN, LINEAR, PREVIOUS, NEXT, FLOOR = (
    "twin",
    "linear_interpolation",
    "previous_time",
    "next_time",
    "split_half_floor",
)
_TRUTH = "truth"
_MOST, _GENES, _POOL = 300, 200, 15


def evaluate_twin(
    mdata: MuData,
    *,
    time_key: str,
    hold_out: float | Sequence[float] | None = None,
    use_rep: str | None = None,
    growth_key: str | None = None,
    lineage_key: str | None = None,
    terminal_key: str | None = None,
    rna: str | None = None,
    layer: str | None = None,
    genes: bool = True,
    n_members: int = 5,
    n_steps: int = 2000,
    optimizer: str = "asgdadam",
    lr: float = 5e-3,
    least_cells: int = 50,
    accelerator: str = "auto",
    progress_bar: bool = True,
    key_added: str = _keys.TWIN_EVALUATION,
    random_state: int = 0,
) -> pd.DataFrame:
    """Fit a twin without a time point and say how far its prediction of that point is from what was measured.

    Where lineages were traced, also say how often the fates that the twin gives are those of the lineages.

    Parameters
    ----------
    mdata
        Data with an embedding.
    time_key, use_rep, growth_key, n_steps, optimizer, lr, least_cells, accelerator
        As for :func:`mmopt.tl.twin`.
    hold_out
        Time or times to leave out, one at a time; default: every one but the first and the last. ``()`` for none, where only
        fates are wanted.
    lineage_key
        Column with what was traced: the clone (barcode) of each cell, or the lineage it was found to belong to. Cells without
        one are left out. The true fates of an early cell are the labels of the cells of its lineage at the last time point.
        Never used for fitting.
    terminal_key
        Column with the labels of the fates; with ``lineage_key`` only.
    rna
        Name of the RNA modality where there is no network, which knows it.
    layer
        Layer with the raw RNA counts.
    genes
        Score on genes too: pools of 15 cells, from equally many on every side, log1p counts per 10,000 of the 200 genes that vary
        most between time points.
    n_members
        Fits per time point.
    progress_bar
        Show one.
    key_added
        Slot in ``mdata.uns``.
    random_state
        Seed.

    Returns
    -------
    DataFrame
        One row per held-out time, ``space`` (``embedding``, ``genes``) and ``prediction``: ``twin`` (mean over the members, with
        ``w1_sd`` over them), ``linear_interpolation`` (of the cells coupled across the gap), ``previous_time`` and ``next_time``
        (those cells as they are), ``split_half_floor`` (the other half of the held-out cells: no prediction can be expected
        below). With ``growth_key`` the first two start from as many cells of each kind as grow until then. ``w1``, ``w2``,
        ``mmd`` (squared, unbiased), ``energy``, ``n_cells`` (compared with as many). Also in ``mdata.uns["twin_evaluation"]``.

        With ``lineage_key`` also one row per time before the last and ``prediction`` in the space ``fate``: ``twin`` (the
        descendants in the couplings, as :func:`mmopt.tl.simulate` gives them), ``flow`` (where the velocity ends),
        ``measured_shares`` and ``majority`` of the last time point, ``nearest_last`` (labels of the nearest cells of the last
        time point, without any dynamics), and ``nearest_traced`` (true fates of the nearest traced cells of the same time but
        of other lineages, or of other cells where there are fewer than 20 lineages, which no twin sees: what the state
        tells). ``accuracy`` (probability that a descendant has the label held most likely), ``brier`` (smaller is better) and
        ``gain`` (accuracy less that of ``measured_shares``), each with a 90 % interval ``_lo, _hi`` from a bootstrap over what ``resampled`` says: lineages, or cells where there are
        fewer than 20 lineages. ``n_cells``, ``n_lineages``.

    Raises
    ------
    KeyError, ValueError
        As :func:`mmopt.tl.twin`; fewer than three time points, or a time that is none of the inner ones; lineages that are
        not seen both early and at the last time point, one of the keys alone, a single fate.

    Notes
    -----
    The embedding was computed with the held-out cells, as the cells of a new sample would be mapped; their times were not used.
    Part of a cell's fate is not in its state: sisters of one clone end differently, and no prediction reaches an accuracy of 1.

    References
    ----------
    Weinreb C et al. (2020) Science 367:eaaw3381, for clones as the truth of fates.

    Examples
    --------
    >>> mm.tl.evaluate_twin(mdata, time_key="day").query("space == 'embedding'").pivot_table("w2", "prediction", "time")
    """
    _keys.refuse_slot_of_others(key_added, _keys.TWIN_EVALUATION)
    if n_members < 1:
        raise ValueError(f"n_members must be at least 1, got {n_members}")
    fit = partial(
        _fitted, creator=optim.creator(optimizer, lr=lr), n_steps=n_steps, device=torch_device(accelerator)
    )
    course = read_course(mdata, time_key, use_rep=use_rep, growth_key=growth_key, least_cells=least_cells)
    traced = read_lineages(mdata, course, lineage_key, terminal_key)
    if len(course.times) < 3 and traced is None:
        raise ValueError(
            f"time_key={time_key!r} has {len(course.times)} time points: to leave one out between two others takes three"
        )
    inner = _inner(course, hold_out)
    if not inner and traced is None:
        raise ValueError(
            "hold_out leaves nothing to evaluate; give a time point, or `lineage_key` and `terminal_key`"
        )
    profile = _profiles(mdata, course, rna, layer) if genes and inner else None
    rows: list[dict] = []
    for t in progress(inner, "evaluate_twin", len(inner), progress_bar):
        seed = derived(random_state, 41, t)
        rows += _one(course, t, profile, fit, n_members, seed)
    table = pd.DataFrame(rows)
    if traced is not None:
        seed = derived(random_state, 42)
        members = [fit(course, seed, m) for m in range(n_members)]
        table = pd.concat([table, fate_rows(course, members, traced, seed)], ignore_index=True)
    mdata.uns[key_added] = {
        "scores": table,
        "params": {
            "time_key": time_key,
            "use_rep": use_rep or _keys.EMBEDDING,
            "n_members": n_members,
            "n_steps": n_steps,
            "optimizer": optimizer,
            "lineage_key": lineage_key or "",
            "terminal_key": terminal_key or "",
            "units": course.units,
            "random_state": random_state,
        },
        "versions": versions(),
    }
    return table.copy()


def _fitted(course: Course, seed: int, m: int, creator: Callable, n_steps: int, device: str) -> Member:
    """Fit the ``m``-th member of a twin of this course."""
    weights, plans = coupled(course, None, derived(seed, 1, m))
    states = [course.at(t) for t in range(len(course.times))]
    flow = fit_flow(
        states, course.times, plans, creator, n_steps=n_steps, device=device, seed=derived(seed, 2, m)
    )
    return Member(weights, plans, flow)


def _inner(course: Course, hold_out: float | Sequence[float] | None) -> list[int]:
    inner = list(range(1, len(course.times) - 1))
    if hold_out is None:
        return inner
    chosen = []
    for time in np.atleast_1d(np.asarray(hold_out, dtype=float)):
        found = [t for t in inner if np.isclose(course.times[t], time)]
        if not found:
            raise ValueError(
                f"hold_out: {time:g} is none of the inner time points {', '.join(f'{course.times[t]:g}' for t in inner)}; the "
                "first and the last cannot be predicted from both sides"
            )
        chosen += found
    return chosen


def _one(
    course: Course,
    t: int,
    profile: np.ndarray | None,
    fit: Callable[[Course, int, int], Member],
    n_members: int,
    seed: int,
) -> list[dict]:
    rng = np.random.default_rng(seed)
    left = course.without(t)
    held = rng.permutation(course.rows(t))
    sizes = [len(held) // 2, *((course.point == t + d).sum() for d in (-1, 1)), _MOST]
    n = int(min(sizes))
    truth, other = held[:n], held[n : 2 * n]
    before, after = (rng.choice(course.rows(t + d), n, replace=False) for d in (-1, 1))
    share = (course.times[t] - course.times[t - 1]) / (course.times[t + 1] - course.times[t - 1])
    # as many of each kind as there are at the held-out time: a velocity makes no cells, and couplings across the gap count what
    # grows in all of it
    starts, grown = before, course.offspring(t - 1)
    if course.growth is not None:
        here = course.rows(t - 1)
        starts = np.random.default_rng(derived(seed, 3)).choice(here, n, p=grown / grown.sum())
    by_then = grown / left.offspring(t - 1)
    fixed = {PREVIOUS: before, NEXT: after, FLOOR: other}
    candidates = {} if profile is None else _candidates(profile, course, t, held, fixed, derived(seed, 4))
    predicted: dict[str, list[np.ndarray]] = {TWIN: [], LINEAR: []}
    for m in range(n_members):
        member = fit(left, seed, m)
        path = member.flow.run(course.states[starts], np.array([course.times[t - 1], course.times[t]]))
        predicted[TWIN].append(path[-1])
        pairs = member.couplings[t - 1].tocoo()
        mass = pairs.data * by_then[pairs.row]
        drawn = rng.choice(len(mass), n, p=mass / mass.sum())
        x0, x1 = left.at(t - 1)[pairs.row[drawn]], left.at(t)[pairs.col[drawn]]
        predicted[LINEAR].append((1 - share) * x0 + share * x1)
    spaces = {
        "embedding": (
            course.states[truth],
            predicted | {k: [course.states[v]] for k, v in fixed.items()},
        )
    }
    if profile is not None:

        def pooled(among: np.ndarray, query: np.ndarray) -> np.ndarray:
            k = min(_POOL, len(among))
            index = NearestNeighbors(n_neighbors=k).fit(course.states[among])
            return profile[among][index.kneighbors(query, return_distance=False)].mean(1)

        every = predicted | {k: [course.states[v]] for k, v in fixed.items()}
        spaces["genes"] = (
            pooled(candidates[_TRUTH], course.states[truth]),
            {k: [pooled(candidates[k], x) for x in v] for k, v in every.items()},
        )
    rows = []
    for space, (target, samples) in spaces.items():
        scale = float(np.median(np.linalg.norm(target - target[rng.permutation(n)], axis=1)))
        for name, draws in samples.items():
            scores = np.array(
                [
                    (
                        wasserstein(x, target),
                        wasserstein(x, target, 2),
                        maximum_mean_discrepancy(x, target, scale),
                        energy_distance(x, target),
                    )
                    for x in draws
                ]
            )
            w1, w2, mmd, energy = scores.mean(0)
            rows.append(
                {
                    "time": float(course.times[t]),
                    "space": space,
                    "prediction": name,
                    "w1": w1,
                    "w2": w2,
                    "mmd": mmd,
                    "energy": energy,
                    "w1_sd": float(scores[:, 0].std(ddof=1)) if len(scores) > 1 else np.nan,
                    "n_cells": n,
                }
            )
    return rows


def _profiles(mdata: MuData, course: Course, rna: str | None, layer: str | None) -> np.ndarray:
    """Return the logged RNA of every cell in the genes whose means differ most between time points; NaN without RNA."""
    modalities = known_modalities(mdata, rna=rna)
    if "rna" not in modalities:
        raise ValueError(
            "genes=True needs an RNA modality; name it with `rna=`, or leave genes out with `genes=False`"
        )
    check_obs(mdata, modalities)
    name = modalities["rna"]
    matrix = counts(mdata.mod[name], name, layer)
    place = positions(mdata, name)
    here = np.flatnonzero(place >= 0)
    dense = matrix[place[here]]
    sums = np.asarray(dense.sum(1)).reshape(-1, 1)
    means = []
    for t in range(len(course.times)):
        rows = course.point[here] == t
        mean = np.asarray(dense[rows].sum(0)).ravel() / max(float(sums[rows].sum()), 1e-9)
        means.append(np.log1p(1e4 * mean))
    chosen = np.sort(np.argsort(-np.var(means, axis=0), kind="stable")[:_GENES])
    part = dense[:, chosen]
    part = np.asarray(part.todense() if hasattr(part, "todense") else part, dtype=float)
    out = np.full((mdata.n_obs, len(chosen)), np.nan)
    out[here] = np.log1p(1e4 * part / np.maximum(sums, 1e-12))
    return out


def _candidates(
    profile: np.ndarray, course: Course, t: int, held: np.ndarray, fixed: dict[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Cells with RNA of which each side's pools are made: of its own time, or around a predicted state of the times beside it.

    Equally many for every side, since the nearest of many are alike and the nearest of few are not.
    """
    rng, n = np.random.default_rng(seed), len(fixed[FLOOR])
    beside = rng.permutation(np.flatnonzero(np.abs(course.point - t) == 1))
    sides = {_TRUTH: held[: max(n, _POOL)], FLOOR: held[n:], TWIN: beside, LINEAR: beside}
    for name, d in ((PREVIOUS, -1), (NEXT, 1)):
        # first those that are asked about, as the held-out cells are among their own candidates too
        rest = rng.permutation(np.setdiff1d(course.rows(t + d), fixed[name]))
        sides[name] = np.concatenate([fixed[name], rest])
    measured = {k: v[np.isfinite(profile[v]).all(1)] for k, v in sides.items()}
    n_each = min(len(v) for v in measured.values())
    if not n_each:
        raise ValueError(
            f"genes=True: no cell at {course.times[t]:g}, or at a time beside it, has RNA; leave genes out with `genes=False`, or "
            "name other times in `hold_out`"
        )
    return {k: v[:n_each] for k, v in measured.items()}

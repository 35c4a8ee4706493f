"""Learn how a population moves: couplings between time points and a flow through them, as an ensemble."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mudata import MuData
from scipy import sparse

from mmopt import _keys, optim
from mmopt._checks import listed
from mmopt._compat import own_copy, versions
from mmopt._identity import identity
from mmopt._progress import progress
from mmopt._random import derived
from mmopt.dynamics import couple, drifts_apart, fit_flow
from mmopt.tl._course import Course, read_course

if TYPE_CHECKING:
    from mmopt.models import TriVI

_MEMBERS = 5
_CHANCE = 0.05


def twin(
    mdata: MuData,
    *,
    time_key: str,
    model: "TriVI | None" = None,
    use_rep: str | None = None,
    growth_key: str | None = None,
    units: str | None = None,
    couplings: Sequence | None = None,
    n_members: int = _MEMBERS,
    n_steps: int = 2000,
    optimizer: str = "asgdadam",
    lr: float = 5e-3,
    least_cells: int = 50,
    accelerator: str = "auto",
    progress_bar: bool = True,
    key_added: str = _keys.TWIN,
    random_state: int = 0,
    copy: bool = False,
) -> MuData | None:
    """Learn the dynamics of a differentiating population from a time course.

    Every member of an ensemble weighs the cells anew (Bayesian bootstrap), couples consecutive time points by entropic
    optimal transport and fits a velocity to the coupled pairs by flow matching.

    Parameters
    ----------
    mdata
        Data with an embedding.
    time_key
        Column with the time of each cell, in numbers. Cells without one are left out. A pseudotime is taken in bins, is
        labelled as such and knows no days.
    model, use_rep
        ``obsm`` key of the embedding; default ``X_mmopt``, computed by ``model`` where it is absent. Any embedding will do.
    growth_key
        Column with the descendants of a cell per unit of time; without it the couplings may still leave equal growth, at a
        price.
    units
        What the times count, for labels: ``"days"``, ``"hours"``.
    couplings
        One matrix per interval, cells of a time point by cells of the next in the order of the data, as from moscot or WOT;
        default: computed.
    n_members
        At least 5.
    n_steps, optimizer, lr
        Training of each flow; ``optimizer`` is one of :func:`mmopt.optim.available`.
    least_cells
        Time points with fewer cells are refused.
    accelerator
        ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for the fastest there is.
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
    Nothing, or the copy. Sets ``mdata.uns["twin"]``: ``times``, ``point`` (number of each cell's time point, -1: none),
    ``members`` (``weights`` and ``couplings`` and the arrays of the ``flow`` of each), ``apart`` (p value for each two
    consecutive points being one population), ``identity`` (by which other cells, another order of them or another embedding
    are noticed), ``params``, ``warnings``, ``versions``. It survives writing and reading, and :func:`mmopt.tl.simulate` needs
    nothing else.

    Raises
    ------
    KeyError, TypeError, ValueError
        No such column or embedding; one time point, few cells at one, times that are no numbers, pseudotime counted in
        days; couplings of other shapes.

    Warns
    -----
    UserWarning
        Half or more of the pairs of consecutive time points cannot be told apart (p above 0.05; shuffled labels do that):
        couplings between them are no better than chance. ``apart`` has the p value of every pair.

    Notes
    -----
    Snapshots do not identify everything: rotation and cycles are invisible, and without growth rates proliferation passes for
    a change of fate. Look at :func:`mmopt.tl.evaluate_twin` before believing a simulation.

    References
    ----------
    Schiebinger G et al. (2019) Cell 176:928; Tong A et al. (2024) Trans. Mach. Learn. Res.

    Examples
    --------
    >>> mm.tl.twin(mdata, time_key="day", model=model, units="days")
    >>> mm.tl.simulate(mdata, start={"day": 0}, terminal_key="cell_type")
    """
    _keys.refuse_slot_of_others(key_added, _keys.TWIN)
    if n_members < _MEMBERS or n_steps < 1:
        raise ValueError(
            f"n_members must be at least {_MEMBERS} and n_steps at least 1, got {n_members=}, {n_steps=}"
        )
    creator = optim.creator(optimizer, lr=lr)
    if copy:
        mdata = own_copy(mdata)
    course = read_course(
        mdata,
        time_key,
        use_rep=use_rep,
        model=model,
        growth_key=growth_key,
        units=units,
        least_cells=least_cells,
    )
    given = None if couplings is None else _checked(couplings, course)
    apart = np.array(
        [
            drifts_apart(course.at(t), course.at(t + 1), seed=random_state)
            for t in range(len(course.times) - 1)
        ]
    )
    remarks = _remarks(course, apart, time_key)
    for remark in remarks:
        warnings.warn(f"{key_added}: {remark}", stacklevel=2)
    members = {}
    for m in progress(range(n_members), "twin", n_members, progress_bar):
        weights, plans = coupled(course, given, derived(random_state, 21, m))
        flow = fit_flow(
            [course.at(t) for t in range(len(course.times))],
            course.times,
            plans,
            creator,
            n_steps=n_steps,
            device=torch_device(accelerator),
            seed=derived(random_state, 22, m),
        )
        spread = np.zeros(mdata.n_obs)
        for t, weight in enumerate(weights):
            spread[course.rows(t)] = weight
        members[f"member{m}"] = {
            "weights": spread,
            "couplings": {f"interval{t}": plan.astype(np.float32) for t, plan in enumerate(plans)},
            "flow": flow.arrays(),
        }
    mdata.uns[key_added] = {
        "times": course.times,
        "point": course.point.astype(np.int32),
        "members": members,
        "apart": apart,
        "identity": identity(mdata, course.states),
        "params": {
            "time_key": time_key,
            "use_rep": use_rep or _keys.EMBEDDING,
            "growth_key": growth_key or "",
            "units": course.units,
            "couplings": "computed" if given is None else "given",
            "n_members": n_members,
            "n_steps": n_steps,
            "optimizer": optimizer,
            "lr": float(lr),
            "random_state": random_state,
        },
        "warnings": np.array(remarks, dtype=object),
        "versions": versions(),
    }
    return mdata if copy else None


def coupled(
    course: Course, given: list[sparse.csr_matrix] | None, seed: int
) -> tuple[list[np.ndarray], list[sparse.csr_matrix]]:
    """Weights of the cells of each time point in one bootstrap, and the couplings under them."""
    rng = np.random.default_rng(seed)
    # exponential weights: no cell drops out, so every cell keeps ancestors and descendants in every member
    weights = [rng.exponential(size=int((course.point == t).sum())) for t in range(len(course.times))]
    weights = [w / w.sum() for w in weights]
    plans = []
    for t in range(len(course.times) - 1):
        if given is not None:
            plan = sparse.csr_matrix(sparse.diags(weights[t]) @ given[t])
            total = np.maximum(np.asarray(plan.sum(0)).ravel(), 1e-300)
            plans.append(sparse.csr_matrix(plan @ sparse.diags(weights[t + 1] / total)))
            continue
        plans.append(
            couple(
                course.at(t),
                course.at(t + 1),
                growth=weights[t] * course.offspring(t),
                weights=weights[t + 1],
                seed=derived(seed, t),
            )
        )
    return weights, plans


def _checked(couplings: Sequence, course: Course) -> list[sparse.csr_matrix]:
    n = len(course.times) - 1
    if len(couplings) != n:
        raise ValueError(f"couplings: {n} intervals need {n} matrices, got {len(couplings)}")
    out = []
    for t, matrix in enumerate(couplings):
        matrix = sparse.csr_matrix(matrix, dtype=float)
        shape = len(course.rows(t)), len(course.rows(t + 1))
        if matrix.shape != shape:
            raise ValueError(
                f"couplings[{t}] is {matrix.shape}; from {course.times[t]:g} to {course.times[t + 1]:g} it must be {shape}, "
                "cells in the order of the data"
            )
        sums = [np.asarray(matrix.sum(axis)).ravel() for axis in (0, 1)]
        if not (
            np.isfinite(matrix.data).all() and (matrix.data >= 0).all() and min(s.min() for s in sums) > 0
        ):
            raise ValueError(
                f"couplings[{t}]: entries must be finite and not negative, and no row or column all zero"
            )
        out.append(matrix)
    return out


def _remarks(course: Course, apart: np.ndarray, time_key: str) -> list[str]:
    still = np.flatnonzero(apart > _CHANCE)
    remarks = []
    if 2 * len(still) >= len(apart):
        pairs = [f"{course.times[t]:g} and {course.times[t + 1]:g}" for t in still]
        remarks.append(
            f"the cells at {listed(pairs)} cannot be told apart (p > {_CHANCE}), so couplings between them are no better "
            f"than chance: are the labels in {time_key!r} shuffled, or is the population at rest?"
        )
    if course.units == "pseudotime":
        remarks.append(
            "times are pseudotime: an order without a clock; rates and schedules have no days, and the direction is the root's"
        )
    return remarks


def torch_device(accelerator: str) -> str:
    """Name of the device that is meant by ``accelerator``."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return next(device for device, found in there.items() if found)
    name = "cuda" if accelerator == "gpu" else accelerator
    if name not in there:
        raise ValueError(f"accelerator must be 'cpu', 'cuda', 'mps' or 'auto', got {accelerator!r}")
    if not there[name]:
        raise ValueError(f"accelerator={accelerator!r}: torch sees no such device; use 'cpu' or 'auto'")
    return name

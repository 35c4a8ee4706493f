"""Which one or two interventions take source cells to a target, how sure that is, and whether chance does as well."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mudata import MuData
from sklearn.neighbors import NearestNeighbors

from mmopt import _keys
from mmopt._compat import versions
from mmopt._logging import logger
from mmopt._threads import sensible_threads
from mmopt.grn.search import (
    OVEREXPRESS,
    Set,
    best_by_chance,
    best_by_markers,
    search,
)
from mmopt.models.trained import check_model
from mmopt.tl._interventions import Intervention, build
from mmopt.tl._journey import End, Place, alike_by_chance, allowed_ways, journey, place, same_cells
from mmopt.tl._reference import outside_of_data, shift_cells
from mmopt.tl._relaxed_search import OPTIMIZERS, compare_relaxed
from mmopt.tl._reprogram_tables import SCREEN_CELLS, named, pareto, scored, search_table
from mmopt.tl._scene import Stage, set_stage

if TYPE_CHECKING:
    from mmopt.models import TriVI

# members that sort the sets, and sets of two or more that all members then score
_SCREEN_MEMBERS, _KEPT = 5, 25
# source cells that a model embeds again, and cells around each that say where it is
_EMBEDDED, _NEIGHBOURS = 300, 15
# p value above which source and target are taken for one population, and share outside of the data that is spoken of
_ALIKE, _MUCH = 0.05, 0.1


def reprogram(
    mdata: MuData,
    source: End,
    target: End,
    *,
    model: "TriVI | None" = None,
    groupby: str | None = None,
    max_factors: int = 2,
    modes: Sequence[str] = ("knockout", "overexpress"),
    features: str | Sequence[str] = "regulators",
    penalty: float = 0.02,
    identity: float = 1.0,
    beam: int = 10,
    optimizers: Sequence[str] = OPTIMIZERS,
    n_starts: int = 4,
    n_evaluations: int = 40,
    n_null: int = 39,
    regulons: str = _keys.REGULONS,
    allow_extrapolation: bool = False,
    key_added: str = _keys.REPROGRAM,
    random_state: int = 0,
) -> pd.DataFrame:
    """Search for the interventions that take source cells to a target state.

    Every single intervention is tried, every pair too where there are at most 2,000, larger sets by a beam; beside this a
    search by gradient over continuous doses with each of ``optimizers``, same starts and same number of evaluations.
    The best are scored again with the whole ensemble, and compared with what the same search finds in networks
    with shuffled targets, and with the difference of marker genes, which needs no network.

    Parameters
    ----------
    mdata
        Data with the network of :func:`mmopt.tl.regulons`.
    source, target
        A group of ``groupby``, cells (a mask or names), or a vector (Series or dict of features: log1p counts per 10,000 of
        all genes or peaks, whether the network has them or not; centred log ratio for protein).
    model
        A trained model: also says where it puts the cells of the best sets (``model_reached``).
    groupby
        Column of the groups. All of them count as places where cells may end up by mistake.
    max_factors
        Most interventions at a time, 1 to 4.
    modes
        What may be done: ``"knockout"``, ``"overexpress"`` (twice the 99.9 % quantile) or both, mixed within a set.
    features
        ``"regulators"`` of the network, or a list of them.
    penalty
        What one more intervention must gain in progress.
    identity
        Weight of the groups that are neither source nor target in a cell's shares; 0 looks at the way from the source alone, and
        is then content with cells that turn into something else.
    beam
        Width of the beam, where there are too many sets.
    optimizers
        ``"asgdadam"``, ``"asgdamsgrad"``, ``"adam"``, ``"lbfgs"`` or any of :func:`mmopt.optim.available`; empty: none.
    n_starts, n_evaluations
        Starts of each optimizer, and evaluations of the objective with its gradient per start and rate.
    n_null
        Networks with shuffled targets, at least 19.
    regulons
        Slot of the network.
    allow_extrapolation
        Also over-express what is not expressed in any cell.
    key_added
        Slot in ``mdata.uns``.
    random_state
        Seed.

    Returns
    -------
    DataFrame
        The ranking, best first. ``mdata.uns["reprogram"]`` gets

        ``ranking``
            ``factors`` (``"A+B"``), ``modes`` (``"knockout+overexpress"``), ``n_factors``, ``progress`` (0: the
            target's share of the cells has not risen, 1: it is as high as for cells at the mean profile of the target group)
            with ``sd, q05, q95`` over the ensemble,
            ``distance`` (squared, to the target, relative to that of the source; clamped features left out),
            ``reached`` and ``off_target`` (share of the cells nearest to the target, and to a group that is neither),
            ``rank_sd`` and ``top_share`` (over the ensemble, among sets of its size), ``null_p`` (how often the best set of
            this size in a shuffled network makes as much progress), ``matched_p`` (how often the same done to regulators
            of like expression; for the five best of each size), ``marker_difference`` and ``marker_rank`` (the baseline
            without network), ``significant`` (``null_p`` of 0.05 or less, progress above 0, and a source that can be told from
            the target), ``ood_fraction`` (share of the cells that end farther from the unperturbed ones than 99 % of these are
            from each other, as in :func:`mmopt.tl.perturb` without a model).
        ``pareto``
            Number of factors against progress: the best set of each size, the best by ``marker difference``,
            ``null95`` and, with a model, ``model_reached``.
        ``search``
            Each way of searching with its ``regret``: progress lost against the best set found by any, and whether that
            was an exhaustive search. The logger ``mmopt`` says it too.
        ``trace``
            Objective of every evaluation of every optimizer, rate and start.

        ``alike_p``
            How often random divisions of the cells of source and target differ as much as these two; NaN for a vector.

        ``left_out``, ``groups``, ``significant``, ``warnings``, ``params``, ``versions``

    Raises
    ------
    KeyError, TypeError, ValueError
        No network, unknown groups, cells, features or modes, nothing that can be done; the message says what to change. A target
        that is not reached is no error, nor are a source and target that can not be told apart (the same cells, or cells
        of which one in twenty random divisions differs as much): ``significant`` is false, and a warning says why.

    Notes
    -----
    A group's share of the cells falls as exp(-2 w), where w is how far they came on the way from it to the target: the
    difference of their squared distances to both, relative to that of the two to each other (0 halfway, 1 at the target and beyond). Progress is
    how far the target's share came on the way to what it is at the target's centre. So a sibling of the target is told from it
    as sharply as a group that is far away.

    With a linear network and the squared distance alone this search would be convex, and no optimizer could win. Here the
    saturation, the steps and the shares of the other groups make it nonconvex; it is still so small that trying all singles
    and pairs is cheap, and ``regret`` says what the optimizers miss. Predictions are hypotheses about a network: on
    simulated ones the difference of marker genes alone is a strong baseline.

    References
    ----------
    Rackham OJL et al. (2016) Nat. Genet. 48:331, for ranking sets of factors between cell types.

    Examples
    --------
    >>> mm.tl.reprogram(mdata, "progenitor", "erythroid", groupby="cell_type", max_factors=2)
    >>> mdata.uns["reprogram"]["pareto"]
    """
    _keys.refuse_slot_of_others(key_added, _keys.REPROGRAM)
    check_model(model)
    _check_numbers(max_factors, n_null, n_starts, n_evaluations, beam, penalty, identity)
    modes = [modes] if isinstance(modes, str) else list(modes)
    stage = set_stage(mdata, regulons=regulons, groupby=None, seed=random_state)
    start, end = (place(mdata, stage, e, w, groupby) for e, w in ((source, "source"), (target, "target")))
    ours, theirs = (np.array([], dtype=int) if p.rows is None else p.rows for p in (start, end))
    both = np.intersect1d(ours, theirs)
    ways, left_out = allowed_ways(mdata, stage, start, features, modes, allow_extrapolation)
    task, names = journey(mdata, stage, start, end, groupby, random_state)
    alike = alike_by_chance(stage, start, end, random_state)
    rng = np.random.default_rng([random_state, 32])
    n_members = stage.scene.network.n_members
    members = np.unique(np.linspace(0, n_members - 1, min(_SCREEN_MEMBERS, n_members)).round().astype(int))

    with sensible_threads(0):
        found = search(
            task, ways, max_factors, members=members, identity=identity, cells=SCREEN_CELLS, width=beam
        )
        relaxed = compare_relaxed(
            task,
            ways,
            optimizers,
            size=max(found),
            penalty=penalty,
            identity=identity,
            cells=SCREEN_CELLS,
            n_starts=n_starts,
            n_evaluations=n_evaluations,
            seed=random_state,
        )
        markers = {size: best_by_markers(task, ways, size) for size in found}
        kept = {
            size: _unique(
                [sets[i] for i in np.argsort(-values, kind="stable")[: None if size == 1 else _KEPT]]
                + [markers[size]]
                + [s for s in relaxed.sets if len(s) == size]
            )
            for size, (sets, values, _) in found.items()
        }
        chance = best_by_chance(
            task, ways, max(found), n=n_null, identity=identity, cells=SCREEN_CELLS, width=beam, rng=rng
        )
        ranking = pd.concat(
            [scored(task, stage, sets, chance[:, size - 1], identity, rng) for size, sets in kept.items()],
            ignore_index=True,
        )
        ranking["ood_fraction"] = outside_of_data(
            stage, task.cells, [task.levels(s) for sets in kept.values() for s in sets], random_state
        )
    ranking["significant"] &= not alike > _ALIKE
    order = ranking["progress"] - penalty * ranking["n_factors"]
    ranking = ranking.loc[order.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)

    remarks = list(stage.remarks)
    if not (same_cells(start, end) or task.gap.any()):
        remarks.append(
            "the target holds no regulator, so markers say nothing: their baseline is an arbitrary set"
        )
    if same_cells(start, end):
        remarks.append(
            "source and target are the same cells: there is nothing to reach, and no set is significant; give two groups"
        )
    elif alike > _ALIKE:
        remarks.append(
            f"source and target can not be told apart: {alike:.0%} of random divisions of their cells differ as much; there is "
            "nothing to reach, and no set is significant"
        )
    elif len(both):
        remarks.append(
            f"{len(both)} cells are in the source and in the target: the way between them looks shorter"
        )
    significant = bool(ranking["significant"].any())
    if not significant and not alike > _ALIKE:
        remarks.append(
            f"{end.name!r} is not reached: no set makes more progress than the best of a shuffled network "
            f"(smallest null_p {ranking['null_p'].min():.2g}); do not act on this ranking"
        )
    if (lost := ranking["ood_fraction"].iloc[0]) > _MUCH:
        remarks.append(
            f"{lost:.0%} of the cells lie beyond 99 % of the unperturbed cells after the first choice: it is an extrapolation"
        )
    front = pareto(ranking, chance, found, markers, stage)
    if model is not None:
        by_name = {("", ""): ()} | {named(stage, s): s for sets in kept.values() for s in sets}
        shown = [by_name[row] for row in zip(front["factors"], front["modes"], strict=True)]
        front["model_reached"] = _model_reached(mdata, stage, model, shown, start, end, random_state)
    for remark in remarks:
        warnings.warn(f"{key_added}: {remark}", stacklevel=2)
    if left_out:
        logger.info("%d interventions were left out, e.g. %s", len(left_out), left_out[0][1])
    searches = search_table(task, found, relaxed, markers, members, identity, stage)
    logger.info(
        "regret (progress lost against the best set found, %s): %s",
        "all sets were tried" if searches["against_exhaustive"].all() else "not all sets were tried",
        "; ".join(f"{row.method}: {row.regret:.3f}" for row in searches.itertuples()),
    )
    mdata.uns[key_added] = {
        "ranking": ranking,
        "pareto": front,
        "search": searches,
        "trace": relaxed.trace,
        "left_out": pd.DataFrame(left_out, columns=["intervention", "reason"], dtype=object),
        "groups": np.array(names, dtype=object),
        "significant": significant,
        "alike_p": alike,
        "warnings": np.array(remarks, dtype=object),
        "params": {
            "source": start.name,
            "target": end.name,
            "groupby": groupby or "",
            "max_factors": max_factors,
            "modes": modes,
            "penalty": float(penalty),
            "identity": float(identity),
            "beam": beam,
            "n_null": n_null,
            "n_candidates": len(ways),
            "n_features_seen": len(task.seen),
            "regulons": regulons,
            "model": model is not None,
            "random_state": random_state,
        },
        "versions": versions(),
    }
    return ranking


def _check_numbers(
    max_factors: int,
    n_null: int,
    n_starts: int,
    n_evaluations: int,
    beam: int,
    penalty: float,
    identity: float,
) -> None:
    if max_factors not in (1, 2, 3, 4):
        raise ValueError(f"max_factors must be 1 to 4, got {max_factors!r}")
    if n_null < 19:
        raise ValueError(f"n_null must be at least 19 to reach p = 0.05, got {n_null}")
    if n_starts < 1 or n_evaluations < 2 or beam < 1:
        raise ValueError(
            "n_starts and beam must be at least 1 and n_evaluations at least 2; got "
            f"{n_starts=}, {n_evaluations=}, {beam=}"
        )
    if not (0 <= penalty < np.inf and 0 <= identity <= 1):
        raise ValueError(
            f"penalty must not be negative and identity from 0 to 1; got {penalty=}, {identity=}"
        )


def _unique(sets: Sequence[Set]) -> list[Set]:
    return list(dict.fromkeys(sets))


def _model_reached(
    mdata: MuData, stage: Stage, model: "TriVI", sets: list[Set], start: Place, end: Place, seed: int
) -> np.ndarray:
    """Share of the source cells that the model's embedding puts among the target's after each set."""
    out = np.full(len(sets), np.nan)
    if start.rows is None or end.rows is None:
        return out
    before = np.asarray(model.get_latent_representation(mdata), dtype=float)
    index = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(before))).fit(before)
    is_target = np.isin(np.arange(mdata.n_obs), end.rows)
    rows = np.sort(np.random.default_rng([seed, 33]).permutation(start.rows)[:_EMBEDDED])
    alone = replace(stage, chosen=np.array([], dtype=int))
    for i, members in enumerate(sets):
        after = before[rows]
        if members:
            columns = [int(stage.scene.network.regulators[number]) for number, _ in members]
            interventions = [
                Intervention(
                    column, stage.features.name(column), "overexpress" if way == OVEREXPRESS else "knockout"
                )
                for column, (_, way) in zip(columns, members, strict=True)
            ]

            def make(scene, interventions=interventions):
                return build(interventions, stage.features, scene, stage.links, stage.cognate, None)

            after = shift_cells(mdata, alone, make, model, seed, rows).after
        near = index.kneighbors(after, return_distance=False)
        out[i] = float((is_target[near].mean(1) > 0.5).mean())
    return out

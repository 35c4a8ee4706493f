"""Many perturbations at once, in one table."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt import _keys
from mmopt._checks import listed
from mmopt._compat import versions
from mmopt._logging import logger
from mmopt._progress import progress
from mmopt._threads import sensible_threads
from mmopt.grn.effects import Perturbation, summarise
from mmopt.tl._conformal import calibrate, check_interval, control_cells
from mmopt.tl._descent import NETWORK, TWIN, check_method, claimed, in_course, with_past
from mmopt.tl._evidence import weakest_evidence
from mmopt.tl._features import Features
from mmopt.tl._interventions import MODES, Intervention, build, label, parse, refuse_unsound
from mmopt.tl._matched import matched_in_screen, rms_of_effects
from mmopt.tl._repeated import members_used, recorded
from mmopt.tl._scene import Stage, members_of, set_stage


@sensible_threads(0)
def screen(
    mdata: MuData,
    features: str | Sequence | Mapping[str, object] = "regulators",
    *,
    mode: str | Sequence[str] = "knockout",
    level: float | None = None,
    order: int = 1,
    groupby: str | None = None,
    cells: Sequence | None = None,
    method: str = NETWORK,
    twin: str = _keys.TWIN,
    n_steps: int | str | None = None,
    n_members: int = 10,
    n_cells: int = 100,
    n_top: int | None = None,
    regulons: str = _keys.REGULONS,
    interval: str = "ensemble",
    perturbation_key: str = "perturbation",
    control: str | None = None,
    allow_extrapolation: bool = False,
    key_added: str = _keys.SCREEN,
    random_state: int = 0,
    progress_bar: bool = True,
) -> pd.DataFrame:
    """Perturb many features and list their effects.

    Parameters
    ----------
    mdata
        Data with the network of :func:`mmopt.tl.regulons`.
    features
        ``"regulators"``, or a list of what :func:`mmopt.tl.perturb` takes; a list within it is one perturbation of
        several features, and so is a dict, within it or alone.
    mode, level
        As in :func:`mmopt.tl.perturb`; several modes ask for each of what has none of its own.
    order
        2 adds all pairs of the features (of single features in one mode).
    groupby, cells, method, twin, n_steps, regulons, allow_extrapolation, random_state
        As in :func:`mmopt.tl.perturb`.
    n_members, n_cells
        Members of the ensemble and pooled cells per group (in all, without groups): less than for one perturbation.
    n_top
        Keep only so many features per perturbation, group and modality, those with the largest effects.
    interval, perturbation_key, control
        As in :func:`mmopt.tl.perturb`: ``"conformal"`` calibrates each perturbation on the other measured ones of its
        mode; labels without a mode have the (first) ``mode``.
    key_added
        Slot in ``mdata.uns``.
    progress_bar
        Show one.

    Returns
    -------
    DataFrame
        ``perturbation, modality, feature, group, delta, sd, q05, q95, prob_up, direct``. ``mdata.uns["screen"]`` gets
        ``effects`` (this table), ``ranking`` (``group, perturbation, shift_norm``, root mean square of the RNA effects,
        ``matched_p``, how often the same done to another regulator has as large effects on RNA, ``matched_padj``,
        Benjamini–Hochberg over the perturbations of a group, ``n_confident``, RNA features that are not clamped and whose
        interval leaves out 0, and of the perturbed regulators in :func:`mmopt.tl.regulons` the largest ``doubt`` and the fewest
        edges ``n_confirmed``, NaN where none is perturbed: with few, a low rank says little), ``skipped`` (what was refused,
        and why), ``interventions`` (``perturbation, modality, feature, mode, level``, NaN for the usual one) and ``cells`` (those computed,
        with their ``weight`` in the mean over all), ``params`` and ``versions``; with conformal intervals ``calibration`` and ``not_calibrated`` (its skipped
        perturbations) too.

        For ``matched_p`` :func:`mmopt.tl.perturb` draws 20 of the 40 regulators nearest in expression and does the same to
        them; here they are up to 40 of this screen, in the same mode and level. It is NaN for several features at a time,
        for what is no regulator, and where fewer than four others were asked for.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`mmopt.tl.perturb`, for what is misspelt; nothing that can be perturbed. A feature that is not
        expressed or regulates nothing is skipped and listed instead.

    Examples
    --------
    >>> table = mm.tl.screen(mdata, mode=("knockout", "overexpress"), groupby="cell_type", n_top=50)
    """
    _keys.refuse_slot_of_others(key_added, _keys.SCREEN)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if n_members < 3 or n_cells < 10 or (n_top is not None and n_top < 1):
        raise ValueError(
            f"n_members must be at least 3, n_cells at least 10 and n_top at least 1; got {n_members=}, {n_cells=}, {n_top=}"
        )
    check_interval(interval, cells)
    check_method(method, n_steps, interval)
    modes = [mode] if isinstance(mode, str) else list(mode)
    conformal = interval == "conformal"
    if conformal:
        cells, labels = control_cells(mdata, perturbation_key, control)
        control = str(labels[cells].iloc[0])
    lost: list[str] = []
    if method == TWIN:
        course, twins, cells, lost = in_course(mdata, twin, members_of(mdata, cells))
    stage = set_stage(
        mdata,
        regulons=regulons,
        groupby=groupby,
        cells=cells,
        seed=random_state,
        per_group=n_cells,
        alone=n_cells,
        apart=conformal,
    )
    if method == TWIN:
        stage = with_past(stage, course, twins, random_state)
    jobs = _jobs(mdata, stage, features, modes, level, order)
    members = members_used(stage.scene.network.n_members, n_members)
    spread, rna = stage.spread, stage.features.blocks["rna"]
    frames, ranking, skipped, done = [], [], [], []
    detected = stage.profiles.detected({one.column for job in jobs for one in job}, stage.member)
    extra: dict[str, Any] = {}
    counted: list[tuple[int, list]] = []
    if conformal:
        calibration = calibrate(
            mdata,
            stage,
            labels,
            mode=modes[0],
            level=level,
            groupby=groupby,
            n_steps=n_steps,
            members=members,
            seed=random_state,
        )
    for job in progress(jobs, "Perturbations", show=progress_bar):
        name = _keys.perturbation_key(label(job))
        try:
            refuse_unsound(
                job,
                stage.features,
                stage.scene,
                stage.links,
                detected,
                allow_extrapolation=allow_extrapolation,
                on_missing="raise",
            )
        except ValueError as refusal:
            skipped.append((name, str(refusal)))
            continue
        clamp = build(job, stage.features, stage.scene, stage.links, stage.cognate, n_steps)
        draws = stage.scene.draws(clamp, members)[0]
        summary = summarise(draws, spread, list(clamp.clamps), claimed(draws, method))
        if conformal:
            summary, used = calibration.interval(job, summary)
            counted.append((used, job))
        frames.append(_rows(stage.features, name, clamp, summary, n_top))
        sure = (summary["q05"] > 0) | (summary["q95"] < 0)
        sure[:, list(clamp.clamps)] = False  # set, not inferred
        evidence = weakest_evidence(mdata.uns[regulons], [one.column for one in job])
        done.append(job)
        ranking.append((name, rms_of_effects(summary["delta"], rna, clamp), sure[:, rna].sum(1), *evidence))
    if not frames:
        raise ValueError(
            f"nothing could be perturbed; the first refusal: {skipped[0][1] if skipped else 'no features'}"
        )
    if skipped:
        logger.warning("%d perturbations were refused, e.g. %s", len(skipped), skipped[0][1])
    remarks = lost + stage.remarks
    if conformal:
        extra, about_coverage = calibration.report(
            min(used for used, _ in counted), [job for _, job in counted]
        )
        extra["not_calibrated"] = extra.pop("skipped")
        remarks = remarks + about_coverage
    for remark in remarks:
        logger.warning("%s", remark)
    table = _joined(stage, frames)
    tables, how = recorded(mdata, stage, done, method, n_steps, twin)
    mdata.uns[key_added] = {
        "effects": table,
        "ranking": _ranking(stage, done, ranking),
        **tables,
        "skipped": pd.DataFrame(skipped, columns=["perturbation", "reason"], dtype=object),
        "params": {
            "order": order,
            "mode": modes,
            "groupby": groupby or "",
            **how,
            "n_members": len(members),
            "n_cells": len(stage.chosen),
            "regulons": regulons,
            "random_state": random_state,
            "interval": interval,
            **({"perturbation_key": perturbation_key, "control": control} if conformal else {}),
            **extra.pop("params", {}),
        },
        **extra,
        "versions": versions(),
    }
    return table


def _jobs(
    mdata: MuData,
    stage: Stage,
    features: str | Sequence | Mapping[str, object],
    modes: list[str],
    level: float | None,
    order: int,
) -> list[list[Intervention]]:
    entries: list[Any]
    if isinstance(features, str):
        if features != "regulators":
            raise ValueError(f"features must be 'regulators' or a list, got {features!r}")
        used = np.unique(stage.scene.network.source)
        table = stage.features.table.iloc[stage.scene.network.regulators[used]]
        entries = [f"{m}:{f}" for m, f in zip(table["modality"], table["feature"], strict=True)]
        genes = stage.features.modalities["rna"]
        entries = [e.removeprefix(f"{genes}:") if _unique(e, genes, stage) else e for e in entries]
        if any(m != "block" for m in modes):
            entries = [e for e in entries if not e.startswith(f"{stage.features.modalities.get('prot')}:")]
    else:
        entries = [features] if isinstance(features, Mapping) else list(features)
    read = partial(parse, features=stage.features, mdata=mdata)
    jobs = [read(e, mode, level) for e in entries for mode in (modes[:1] if _says_mode(e) else modes)]
    if order == 2:
        singles = [e for e in entries if isinstance(e, str)]
        jobs += [read(list(pair), mode, level) for mode in modes for pair in combinations(singles, 2)]
    names = [label(job) for job in jobs]
    if len(set(names)) < len(names):
        raise ValueError(f"features: {listed({n for n in names if names.count(n) > 1})} asked for twice")
    return jobs


def _says_mode(entry: object) -> bool:
    """Whether a perturbation has modes of its own, so that the modes of the screen do not matter to it."""
    pair = isinstance(entry, tuple) and len(entry) == 2 and entry[1] in MODES
    return (
        pair
        or isinstance(entry, Mapping)
        or (isinstance(entry, list | tuple) and all(isinstance(e, tuple) for e in entry))
    )


def _unique(entry: str, genes: str, stage: Stage) -> bool:
    name = entry.removeprefix(f"{genes}:")
    return (
        entry.startswith(f"{genes}:") and sum(name in names for names in stage.features.names.values()) == 1
    )


def _rows(
    features: Features, name: str, clamp: Perturbation, summary: dict[str, np.ndarray], n_top: int | None
) -> dict[str, Any]:
    """Columns of one perturbation's part of the table, numbers only."""
    n_groups, n = summary["delta"].shape
    kept = np.ones((n_groups, n), dtype=bool)
    if n_top is not None:
        kept[:] = False
        size = np.abs(summary["delta"])
        for block in features.blocks.values():
            top = np.argsort(-size[:, block], axis=1)[:, :n_top] + block.start
            np.put_along_axis(kept, top, True, axis=1)
    group, feature = np.nonzero(kept)
    return {
        "name": name,
        "group": group,
        "column": feature,
        **{k: v[kept].astype(np.float32) for k, v in summary.items()},
        "direct": np.isin(feature, list(clamp.clamps)),
    }


def _joined(stage: Stage, frames: list[dict]) -> pd.DataFrame:
    names = [f["name"] for f in frames]
    column = np.concatenate([f["column"] for f in frames])
    table = stage.features.table
    modality = pd.Categorical(table["modality"])
    repeats = np.repeat(np.arange(len(frames)), [len(f["column"]) for f in frames])
    values = ("delta", "sd", "q05", "q95", "prob_up", "direct")
    return pd.DataFrame(
        {
            "perturbation": pd.Categorical.from_codes(repeats, names),
            "modality": pd.Categorical.from_codes(modality.codes[column], modality.categories),
            "feature": table["feature"].to_numpy()[column],
            "group": pd.Categorical.from_codes(
                np.concatenate([f["group"] for f in frames]), list(stage.groups)
            ),
            **{v: np.concatenate([f[v] for f in frames]) for v in values},
        }
    )


def _ranking(
    stage: Stage,
    jobs: list[list[Intervention]],
    sizes: list[tuple[str, np.ndarray, np.ndarray, float, float]],
) -> pd.DataFrame:
    """Perturbations by the size of their effects, in each group; ``n_confident`` intervals leave out 0."""
    names, norms, confident, doubt, confirmed = zip(*sizes, strict=True)
    groups, (p, adjusted) = list(stage.groups), matched_in_screen(stage, jobs, np.stack(norms))
    frames = [
        pd.DataFrame(
            {
                "group": pd.Categorical([group] * len(names), categories=groups),
                "perturbation": names,
                "shift_norm": np.stack(norms)[:, number],
                "matched_p": p[:, number],
                "matched_padj": adjusted[:, number],
                "n_confident": np.stack(confident)[:, number],
                "doubt": doubt,
                "n_confirmed": confirmed,
            }
        ).sort_values("shift_norm", ascending=False)
        for number, group in enumerate(groups)
    ]
    return pd.concat(frames, ignore_index=True)

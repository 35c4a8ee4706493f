"""Intervals calibrated on the perturbed cells that are in the data."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from mudata import MuData
from scipy.stats import norm

from mmopt._checks import listed, obs_column
from mmopt.grn.effects import summarise
from mmopt.metrics import conformal_quantile, leave_one_out_covered, units_needed
from mmopt.tl._interventions import Intervention, build, parse, refuse_unsound
from mmopt.tl._measured_effects import LEAST_CELLS, LEAST_EFFECT
from mmopt.tl._perturbation_labels import find_control, read_label
from mmopt.tl._pooled_effects import fewest, measure, rests
from mmopt.tl._scene import ALL, Stage

INTERVALS = ("ensemble", "conformal")
LEVEL = 0.9
COLUMNS = ["coverage", "coverage_changed", "ensemble", "ensemble_changed", "widening"]
COLUMNS += ["mae", "mae_no_change", "factor", "mae_scaled"]
_TINY = 1e-9

# features and what is done to them
Target = frozenset[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Measured perturbations and how far each one's prediction was off.

    Parameters
    ----------
    names, targets
        Label of each perturbation, and what it does to which columns.
    scores
        ``(n, n_groups, n_features)``: absolute error over ``sqrt(sd² + se²)``; NaN for what was perturbed itself, and
        for groups with too few cells.
    noise
        Same shape: variance of the measured effect because the cells are finite in number.
    table, skipped
        What to report.
    """

    names: list[str]
    targets: list[Target]
    scores: np.ndarray
    noise: np.ndarray
    table: pd.DataFrame
    skipped: pd.DataFrame

    def interval(
        self, interventions: Sequence[Intervention], summary: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], int]:
        """Replace the limits of ``summary``, the perturbation asked for left out, and say how many remained.

        Raises
        ------
        ValueError
            Too few measured perturbations that do the same kind of thing.
        """
        mine = target(interventions)
        modes = _modes(mine)
        same = [i for i, other in enumerate(self.targets) if _modes(other) == modes]
        others = [i for i in same if self.targets[i] != mine]
        if len(others) < (least := units_needed(LEVEL)):
            there = f" ({listed(self.names[i] for i in others)})" if others else ""
            lost = (
                f" and {len(self.skipped)} could not be used, e.g. {self.skipped.iloc[0].tolist()}"
                if len(self.skipped)
                else ""
            )
            raise ValueError(
                f"interval='conformal': at {LEVEL:.0%} it takes {least} perturbations with {LEAST_CELLS} cells each beside "
                f"the one asked for, in the same mode ({listed(sorted(modes))}); there are {len(others)}{there}{lost}; "
                "measure more, or use interval='ensemble'"
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            known = np.isfinite(self.noise[others])
            noise = np.where(known, self.noise[others], 0).sum(0) / known.sum(0)
            reach = conformal_quantile(self.scores[others], LEVEL) * np.sqrt(
                summary["sd"] ** 2 + noise + _TINY
            )
        reach = np.where(np.isfinite(reach), reach, np.nan)
        limits = {"q05": summary["delta"] - reach, "q95": summary["delta"] + reach}
        return summary | limits, len(others)

    def report(self, n: int, jobs: Sequence[Sequence[Intervention]]) -> tuple[dict, list[str]]:
        """Say what goes into the slot of a result calibrated on ``n`` perturbations, and remarks on its coverage.

        The coverage is that of measured perturbations in the modes of ``jobs``: others had no part in their intervals.
        """
        asked = {_modes(target(job)) for job in jobs}
        alike = np.array([_modes(mine) in asked for mine in self.targets], dtype=bool)
        mean = self.table.loc[alike, ["coverage", "coverage_changed"]].mean()
        remarks = []
        if np.isnan(mean["coverage"]):
            remarks.append(
                f"the coverage of the conformal intervals could not be checked: with {alike.sum()} perturbations none "
                f"can be held out and {units_needed(LEVEL)} remain"
            )
        params = {"n_calibration": n, **{k: float(v) for k, v in mean.items()}}
        return {"params": params, "calibration": self.table, "skipped": self.skipped}, remarks


def target(interventions: Sequence[Intervention]) -> Target:
    """Name what is done to which columns, in no order."""
    return frozenset((i.column, i.mode) for i in interventions)


def _modes(mine: Target) -> frozenset[str]:
    return frozenset(mode for _, mode in mine)


def check_interval(interval: str, cells: object) -> None:
    """Refuse what cannot be calibrated."""
    if interval not in INTERVALS:
        raise ValueError(f"interval must be one of {listed(INTERVALS)}, got {interval!r}")
    if interval == "conformal" and cells is not None:
        raise ValueError(
            "cells: with interval='conformal' the effects are those in the control cells; leave `cells` out, or subset "
            "mdata, control and perturbed cells alike"
        )


def control_cells(mdata: MuData, key: str, control: str | None) -> tuple[np.ndarray, pd.Series]:
    """Mask of the unperturbed cells, and every cell's label (missing where it has none).

    Raises
    ------
    KeyError, ValueError
        No such column; no label, or several, that could be the control's.
    """
    labels = obs_column(mdata, key)
    labels = labels.astype(str).where(labels.notna())
    control = find_control(labels.dropna().unique(), control, key)
    return (labels == control).to_numpy(), labels


def calibrate(
    mdata: MuData,
    stage: Stage,
    labels: pd.Series,
    *,
    mode: str,
    level: float | None,
    groupby: str | None,
    n_steps: int | str | None,
    members: Sequence[int] | None = None,
    seed: int = 0,
) -> Calibration:
    """Predict every measured perturbation in the control cells of ``stage`` and compare.

    The effects are measured as they are predicted: counts of neighbouring cells, of one perturbation, are added up, and so are
    those of samples of as many controls with the same modalities. The logarithm of a sum depends on how much is added up
    and from how far apart: pools of few perturbed cells beside those of many controls would differ where nothing had
    changed. A pool takes at most a quarter of a sample; at most 5 samples are drawn and averaged.
    """
    rng = np.random.default_rng([seed, 31])
    groups = None if groupby is None else obs_column(mdata, groupby, stage.features.modalities).astype(str)
    masks = [np.ones(mdata.n_obs, bool) if g == ALL else (groups == g).to_numpy() for g in stage.groups]
    controls = rests(stage, masks, rng)
    found, skipped = [], []
    for name in sorted(set(labels.dropna()) - set(labels[stage.member])):
        mine = (labels == name).to_numpy()
        try:
            job = _usable(name, mine, mode, level, stage, mdata)
        except (KeyError, ValueError) as refusal:
            skipped.append((name, str(refusal.args[0])))
            continue
        clamp = build(job, stage.features, stage.scene, stage.links, stage.cognate, n_steps)
        clamped = list(clamp.clamps)
        summary = summarise(stage.scene.draws(clamp, members)[0], stage.spread, clamped)
        measured, noise = np.full((2, *summary["delta"].shape), np.nan)
        for g, rest in enumerate(controls):
            if (seen := measure(stage, rest, mine, clamped, rng)) is not None:
                measured[g], noise[g] = seen
        measured[:, clamped] = np.nan
        found.append((name, target(job), int(mine.sum()), summary["delta"], summary["sd"], measured, noise))
    left = pd.DataFrame(skipped, columns=["perturbation", "reason"], dtype=object)
    if not found:
        none = np.zeros((0, *np.shape(stage.scene.averaging @ stage.scene.cells.level)))
        nothing = {"perturbation": [], "n_cells": [], **{c: np.zeros(0) for c in COLUMNS}}
        return Calibration([], [], none, none, pd.DataFrame(nothing), left)
    names, targets, n_cells, *parts = (list(v) for v in zip(*found, strict=True))
    delta, sd, measured, noise = (np.stack(part) for part in parts)
    scores = np.abs(measured - delta) / np.sqrt(sd**2 + noise + _TINY)
    kinds = [_modes(mine) for mine in targets]
    table = _table(names, n_cells, kinds, scores[:, 0], delta[:, 0], measured[:, 0], noise[:, 0])
    return Calibration(names, targets, scores, noise, table, left)


def _usable(
    name: str, mine: np.ndarray, mode: str, level: float | None, stage: Stage, mdata: MuData
) -> list[Intervention]:
    """Read a label, a part without a mode having the one given; refuse it where there is nothing to compare."""
    if (n := fewest(stage, mine)) < LEAST_CELLS:
        raise ValueError(f"{n} cells")
    # with the modality in front, which tells a protein from its gene
    hits = [(feature, how or mode) for feature, how in read_label(name, prefixes=())]
    level = level if {how for _, how in hits} == {mode} else None
    job = parse(hits, mode, level, stage.features, mdata)
    seen = stage.profiles.detected([i.column for i in job], stage.member)
    refuse_unsound(
        job, stage.features, stage.scene, stage.links, seen, allow_extrapolation=True, on_missing="raise"
    )
    return job


def _table(
    names: list[str],
    n_cells: list[int],
    kinds: Sequence[Hashable],
    scores: np.ndarray,
    delta: np.ndarray,
    measured: np.ndarray,
    noise: np.ndarray,
) -> pd.DataFrame:
    """Each perturbation's coverage by the interval calibrated on its kind, and by that of the ensemble; sizes."""
    # as an interval is made: of those in the same mode only
    alike = {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in kinds}
    inside = np.full(scores.shape, np.nan)
    for same in alike.values():
        inside[same] = leave_one_out_covered(scores[same], LEVEL)
    usual = norm.ppf((1 + LEVEL) / 2)
    ensemble = np.where(np.isnan(scores), np.nan, scores <= usual)
    changed = np.abs(measured) > np.maximum(LEAST_EFFECT, 4 * np.sqrt(noise))
    known = np.isfinite(measured)
    along, size = (np.where(known, x * delta, 0).sum(1) for x in (measured, delta))
    rows = []
    for i in range(len(names)):
        others = size.sum() - size[i]
        factor = (along.sum() - along[i]) / others if others > 0 else np.nan
        with np.errstate(invalid="ignore"):
            limit = conformal_quantile(scores[[j for j in alike[kinds[i]] if j != i]], LEVEL)
        limit = limit[np.isfinite(limit)]
        rows.append(
            {
                "coverage": _mean(inside[i]),
                "coverage_changed": _mean(inside[i][changed[i]]),
                "ensemble": _mean(ensemble[i]),
                "ensemble_changed": _mean(ensemble[i][changed[i]]),
                "widening": float(np.median(limit)) / usual if limit.size else np.nan,
                "mae": _mean(np.abs(measured[i] - delta[i])),
                "mae_no_change": _mean(np.abs(measured[i])),
                "factor": factor,
                "mae_scaled": _mean(np.abs(measured[i] - factor * delta[i])),
            }
        )
    return pd.DataFrame({"perturbation": names, "n_cells": n_cells}).join(pd.DataFrame(rows))


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan

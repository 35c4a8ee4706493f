"""From what the members say to tables: means, intervals, what is left of a change, and what to warn of."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from mmopt import _keys
from mmopt.dynamics import agreement, shrink
from mmopt.tl._arms import Arms, on_lines_of
from mmopt.tl._scene import Stage

_Z = float(norm.ppf(0.95))
# what the members share and cannot disagree on: factors on the ensemble's standard deviation and on the change, and the
# share of the cells that is never known. Set on simulated networks, see benchmarks/twin
ENSEMBLE, TRANSFER, UNSEEN = 1.5, 0.35, 0.05
# share of the states outside of the data, and total variation between flow and couplings, that is warned of
_MUCH = 0.2
# total variation below which there is no effect
_LEAST = 0.01
# smaller differences are those of rounding
_SAME = 1e-6


def tables(
    arms: Arms,
    stage: Stage,
    grid: np.ndarray,
    names: list[str],
    flow: np.ndarray,
    shown: np.ndarray,
    n_planned: int,
) -> dict:
    """Return the slot's tables.

    Intervals widen with each of the ``n_planned`` regulators by what the members share and so cannot disagree on.
    """
    planned = n_planned > 0
    out: dict = {"fate_names": names}
    if names:
        own, own_sd = np.mean(arms.fractions, axis=0), _unsure(arms.fractions)
        change, sd, factor = np.zeros_like(own), np.zeros_like(own), 1.0
        if planned:
            draws = np.stack(arms.changes)
            for i in range(len(grid)):
                change[i], factor = shrink(draws[:, i])
            # by time: nothing is unknown of a change before there is one
            touched = np.abs(draws).max(axis=0) > _SAME
            # what was taken back is not excluded either
            sd = np.sqrt(
                (ENSEMBLE * draws.std(0, ddof=1)) ** 2
                + n_planned * (TRANSFER * draws.mean(0)) ** 2
                + (draws.mean(0) - change) ** 2
                + n_planned * touched * UNSEEN**2
            )
        p = np.clip(own + change, 0, None)
        p *= own.sum(1, keepdims=True) / np.maximum(p.sum(1, keepdims=True), 1e-12)
        arm_values = {"wild_type": (own, own_sd)}
        if planned:
            arm_values["perturbed"] = (p, np.sqrt(own_sd**2 + sd**2))
        frames = [
            pd.DataFrame(
                {
                    "time": np.repeat(grid, len(names)),
                    "arm": arm,
                    "label": np.tile(names, len(grid)),
                    "p": value.ravel(),
                    "lo": np.clip(value - _Z * spread, 0, 1).ravel(),
                    "hi": np.clip(value + _Z * spread, 0, 1).ravel(),
                }
            )
            for arm, (value, spread) in arm_values.items()
        ]
        out["fate_time"] = pd.concat(frames, ignore_index=True)
        final = {arm: f.iloc[-len(names) :] for arm, f in zip(arm_values, frames, strict=True)}
        main, wild = final["perturbed" if planned else "wild_type"], final["wild_type"]
        without = max(1 - float(own[-1].sum()), 0.0)
        out["fate"] = pd.DataFrame(
            {
                "label": [*names, _keys.UNASSIGNED],
                **{c: [*main[c], without] for c in ("p", "lo", "hi")},
                **{
                    f"wild_type{s}": [*wild[c], without] for s, c in (("", "p"), ("_lo", "lo"), ("_hi", "hi"))
                },
                "flow": flow.mean(0),
            }
        )
        moved = 0.5 * float(np.abs(p[-1] - own[-1]).sum())
        # of the change alone: what is unknown of the share without the intervention is in both
        outside = planned and (np.abs(p[-1] - own[-1]) > _Z * sd[-1]).any()
        out["effect"] = {
            "factor": float(factor),
            "total_variation": moved,
            "verdict": "none asked for" if not planned else "no effect" if moved < _LEAST else "effect",
            "excludes_no_change": bool(outside),
        }
    out["features"] = _feature_table(arms, stage, grid, shown, planned)
    return out


def _feature_table(
    arms: Arms, stage: Stage, grid: np.ndarray, shown: np.ndarray, planned: bool
) -> pd.DataFrame:
    table = stage.features.table.iloc[shown]
    spread = stage.spread[shown]
    wild = np.stack(arms.features["wild_type"])
    values = {"wild_type": (wild.mean(0), _unsure(wild))}
    if planned:
        # a member of the network stands beside the lines it ran on, so that only the change varies with it
        n = len(wild)
        lines = np.concatenate(
            [np.full(len(on_lines_of(m, n, stage.scene.network.n_members)), m) for m in range(n)]
        )
        draws = np.stack(arms.features["perturbed"])
        change = draws - wild[lines]
        # every member of the twin weighs the same, however many of the network ran on its lines
        mean = np.mean([change[lines == m].mean(0) for m in range(n)], axis=0)
        kept = agreement(change) * mean
        # what was taken back is not excluded either
        sd = np.sqrt(
            (ENSEMBLE * change.std(0, ddof=1)) ** 2
            + (TRANSFER * mean) ** 2
            + (mean - kept) ** 2
            + (np.abs(change).max(0) > _SAME) * (TRANSFER * spread) ** 2
        )
        # what is held at one level is at that level
        held = (np.ptp(draws, axis=0) < _SAME) & (np.abs(change).max(0) > _SAME)
        spread = np.where(held, 0, np.sqrt(values["wild_type"][1] ** 2 + sd**2))
        values["perturbed"] = (np.where(held, draws[0], values["wild_type"][0] + kept), spread)
    n_grid, n_shown = len(grid), len(table)
    # only the log ratio of protein can be negative
    bottom = np.where(table["modality"] == stage.features.modalities.get("prot"), -np.inf, 0.0)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "modality": pd.Categorical(np.tile(table["modality"], n_grid)),
                    "feature": np.tile(table["feature"], n_grid),
                    "time": np.repeat(grid, n_shown),
                    "arm": arm,
                    "mean": np.maximum(value, bottom).ravel(),
                    "lo": np.maximum(value - _Z * sd, bottom).ravel(),
                    "hi": (value + _Z * sd).ravel(),
                }
            )
            for arm, (value, sd) in values.items()
        ],
        ignore_index=True,
    )


def _unsure(members: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return the standard deviation whose normal interval is as wide as a t interval for one more member would be.

    The members are draws of what could be true. There are few: neither their mean nor their spread is known well.
    """
    n = len(members)
    return np.std(members, axis=0, ddof=1) * t.ppf(0.95, n - 1) * np.sqrt(1 + 1 / n) / _Z


def warned(found: dict, ood: list[pd.DataFrame], units: str, planned: bool) -> list[str]:
    remarks = []
    for frame in ood:
        worst = frame.loc[frame["share"].idxmax()]
        if worst["share"] > _MUCH:
            remarks.append(
                f"{worst['share']:.0%} of the {worst['arm'].replace('_', ' ')} states at {worst['time']:g} lie outside of the "
                "data: what happens there was never seen"
            )
    if "fate" in found:
        fate = found["fate"]
        gap = 0.5 * float(np.abs(fate["flow"] - fate["wild_type"]).sum())
        if gap > _MUCH:
            remarks.append(
                f"the velocity on its own ends elsewhere than the couplings (total variation {gap:.2f}); trust neither far "
                "from the time points"
            )
    if planned and units == "pseudotime":
        remarks.append(
            "the schedule counts in pseudotime, so how long an intervention lasts is not known in days"
        )
    return remarks

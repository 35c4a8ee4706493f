"""The tables of a perturbation: effects on features, and what is to be said of each group of cells."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mmopt.grn.effects import Perturbation, benjamini_hochberg
from mmopt.tl._matched import rms_of_effects
from mmopt.tl._reference import Shift
from mmopt.tl._scene import ALL, Stage


def effect_table(
    stage: Stage,
    summary: dict,
    p: np.ndarray,
    band: np.ndarray,
    direct: list[int],
    beside: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    table, names = stage.features.table, list(stage.groups)
    n, n_groups = len(table), len(names)
    adjusted = np.stack([benjamini_hochberg(row) for row in p])
    return pd.DataFrame(
        {
            "modality": pd.Categorical(np.tile(table["modality"].to_numpy(), n_groups)),
            "feature": np.tile(table["feature"].to_numpy(), n_groups),
            "group": pd.Categorical(np.repeat(names, n), categories=names),
            **{name: values.ravel() for name, values in summary.items()},
            "null_p": p.ravel(),
            "null95": band.ravel(),
            "padj": adjusted.ravel(),
            "direct": np.tile(np.isin(np.arange(n), direct), n_groups),
            **{name: values.ravel() for name, values in beside.items()},
        }
    )


def decoded_effects(stage: Stage, shift: Shift) -> np.ndarray:
    """Effects by the difference of two decodes, ``(n_groups, n_features)``; NaN where the model has none."""
    parts = [
        shift.decoded.get(role, np.full((len(stage.groups), block.stop - block.start), np.nan))
        for role, block in stage.features.blocks.items()
    ]
    return np.hstack(parts)


def group_table(
    stage: Stage,
    clamp: Perturbation,
    detected: Mapping[int, list[tuple[int, int]]],
    delta: np.ndarray,
    decoded: np.ndarray,
    clipped: np.ndarray,
    matched: np.ndarray,
    shift: Shift,
    whole: np.ndarray,
    score: np.ndarray | None,
) -> pd.DataFrame:
    inside = [np.isin(shift.rows, whole if g == ALL else rows) for g, rows in stage.groups.items()]
    outside = shift.outside()
    rna = stage.features.blocks["rna"]
    norm = rms_of_effects(delta, rna, clamp)
    known = np.isfinite(decoded).all(0)
    known[list(clamp.clamps)] = False
    size = np.linalg.norm(delta[:, known], axis=1) * np.linalg.norm(decoded[:, known], axis=1)
    agreement = (delta[:, known] * decoded[:, known]).sum(1) / np.where(size > 0, size, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group of cells that do not move has no direction
        scores = [np.nan if score is None else float(np.nanmean(score[i])) for i in inside]
    return pd.DataFrame(
        {
            "group": list(stage.groups),
            "n_cells": [len(rows) for rows in stage.groups.values()],
            "detected": np.min(
                [[n / of if of else np.nan for n, of in each] for each in detected.values()], axis=0
            ),
            "shift_norm": norm,
            "matched_p": matched,
            "clip_fraction": clipped,
            "ood_fraction": [float(outside[i].mean()) for i in inside],
            "perturbation_score": scores,
            "agreement": agreement,
        }
    )

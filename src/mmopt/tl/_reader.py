"""What label a state has, read from its regulators and from the genes that they move."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from mmopt.tl._course import Course
from mmopt.tl._scene import Stage

_REFERENCE, _EACH = 5000, 20
_GENES, LEAST_SPREAD = 60, 0.05


class Reader:
    """Probability of each label at given levels: softer than neighbours, and defined everywhere.

    The mean of two: what the regulators say, and what the genes say that tell the labels apart best. A regulator that is held says
    more of the intervention than of the cell, so that it is not among those genes; chosen on simulated networks (benchmarks/twin).

    Parameters
    ----------
    columns
        Of the features that are looked at: the regulators, then the genes.
    level
        ``(n, n_columns)`` of observed cells.
    labels
        ``(n,)``.
    n_regulators
        How many of the columns are regulators.
    """

    def __init__(self, columns: np.ndarray, level: np.ndarray, labels: np.ndarray, n_regulators: int) -> None:
        self.columns = columns
        self._names = np.unique(labels)
        parts = [slice(n_regulators), slice(n_regulators, len(columns))]
        self._parts = [part for part in parts if part.start != part.stop]
        self._models = [
            LogisticRegression(C=1.0, max_iter=500).fit(np.clip(level[:, part], 0, 1), labels)
            for part in self._parts
            if len(self._names) > 1
        ]

    def __call__(self, level: np.ndarray) -> np.ndarray:
        """``(n, n_labels)``; a level beyond fully on counts as fully on."""
        if not self._models:
            return np.ones((len(level), 1))
        seen = np.clip(level, 0, 1)
        return np.mean(
            [m.predict_proba(seen[:, p]) for p, m in zip(self._parts, self._models, strict=True)], axis=0
        )


def telling(centres: np.ndarray, within: np.ndarray, n: int) -> np.ndarray:
    """Numbers of the features that tell groups apart best, ``centres`` ``(n_groups, f)`` in units of their spread ``within`` them."""
    return np.sort(np.argsort(-centres.std(0) / within, kind="stable")[:n])


def reader_of(
    course: Course, stage: Stage, labels: pd.Series | None, held: Iterable[int], seed: int
) -> tuple[list[str], Reader | None, tuple[np.ndarray, np.ndarray]]:
    """Names of the fates, who reads labels where the columns ``held`` are, and the observed regulators with their embedding."""
    known = course.point >= 0
    if labels is not None:
        last = labels.iloc[course.rows(len(course.times) - 1)]
        if not last.notna().any():
            raise ValueError("terminal_key: no cell of the last time point has a label")
        known &= labels.notna().to_numpy()
    rows = np.random.default_rng([seed, 33]).permutation(np.flatnonzero(known))
    if labels is not None:  # a sample must not lose a rare fate
        here = labels.iloc[rows].astype(str)
        number = here.groupby(here.to_numpy()).cumcount().to_numpy()
        rows = rows[np.argsort(np.minimum(number, _EACH), kind="stable")]
    rows = np.sort(rows[:_REFERENCE])
    network = stage.scene.network
    regulators = network.regulators
    level = np.maximum(stage.cells(rows).level, 0) if len(regulators) else np.zeros((len(rows), 0))
    reference = (level[:, regulators], course.states[rows])
    if labels is None:
        return [], None, reference
    text = labels.iloc[rows].astype(str).to_numpy()
    if not len(regulators):
        return sorted(set(text)), None, reference
    moved = np.setdiff1d(network.target, [*regulators, *held])
    moved = moved[moved < stage.features.blocks["rna"].stop]
    groups = [level[text == name][:, moved] for name in np.unique(text)]
    within = np.sqrt(np.mean([g.var(0) for g in groups], axis=0)) + LEAST_SPREAD
    genes = moved[telling(np.stack([g.mean(0) for g in groups]), within, _GENES)]
    columns = np.r_[regulators, genes]
    return sorted(set(text)), Reader(columns, level[:, columns], text, len(regulators)), reference

"""Scores of predicted effects, of all that a prediction has to beat and of the best that it could reach."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from mmopt.metrics import energy_distance, perturbation_scores
from mmopt.metrics._noise_ceiling import noise_ceiling
from mmopt.metrics._perturbation import known_mean
from mmopt.tl._measured_effects import Measured, Screened

PREDICTION, CEILING = "prediction", "split_half_ceiling"
# a network whose targets are shuffled, and a prediction whose features are
SHUFFLED_TARGETS, SHUFFLED_FEATURES = "shuffled_targets", "shuffled_features"
COMPONENTS = 20
_SHUFFLES, _SAMPLED = 10, 300


def method_scores(
    prediction: np.ndarray,
    limits: dict[str, np.ndarray],
    baselines: Callable[[np.ndarray], dict[str, np.ndarray]],
    measured: Measured,
    free: np.ndarray,
    keep: np.ndarray,
    asked: np.ndarray,
    cells: Screened | None,
    chance: np.ndarray,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per method and perturbation, the mean over the halves of the control cells; and the same of each shuffle.

    Parameters
    ----------
    prediction, limits
        Effects of the perturbations that were predicted (``asked``), and where there are, the limits of their intervals.
    baselines
        Makes the baselines from measured effects. They are those against one half of the control cells, and what they
        are scored against are those against the other: noise that all had in common would look like an effect.
    measured, cells
        What is predicted, and where there are, the cells that show it.
    free, keep
        Which features of each perturbation are measured and not hit, and which of these count. What a prediction leaves
        out, as a screen does with small effects, hardly changes: it is no change in the predicted mean.
    chance
        ``(n_networks, n_perturbations, n_features)``: predictions of networks whose targets are shuffled, NaN for
        perturbations that no known network predicts. The features of these are permuted instead.
    """
    space = None if cells is None or cells.shown.sum() < 2 else _Space(cells, measured, keep, rng)
    tables, single = [], []
    from_network = asked & np.isfinite(chance[0]).any(1)
    for number, seen in enumerate(reversed(measured.truths)):
        made, truth = baselines(seen), measured.truths[number]
        board = _Board(truth, measured, free, keep, asked)
        parts = [board.scores(PREDICTION, prediction, **limits)]
        for method, delta in made.items():
            others = None if method == "no_change" else made["perturbed_mean"]
            parts.append(board.scores(method, delta, seen=others))
        shuffles = board.networks(chance, from_network) + board.permuted(
            prediction, asked & ~from_network, _SHUFFLES // len(measured.truths), rng
        )
        single += shuffles
        parts.append(_mean(pd.concat(shuffles)))
        if measured.halves is not None:
            parts.append(board.ceiling())
        table = pd.concat([part for part in parts if len(part)], ignore_index=True)
        if cells is not None:
            moved = {PREDICTION: prediction, **made}
            table["e_distance"] = np.nan if space is None else space.distances(table, moved, number)
        tables.append(table)
    return _mean(pd.concat(tables)).astype({"n_changed": int}), _mean(pd.concat(single), "shuffle")


def _mean(table: pd.DataFrame, *by: str) -> pd.DataFrame:
    table = table if by else table.drop(columns="shuffle", errors="ignore")
    return table.groupby(["method", *by, "perturbation"], sort=False, as_index=False).mean()


@dataclass(frozen=True, eq=False)
class _Board:
    """What every method is scored against."""

    truth: np.ndarray
    measured: Measured
    free: np.ndarray
    keep: np.ndarray
    asked: np.ndarray

    def scores(self, method: str, delta: np.ndarray, **more: np.ndarray | None) -> pd.DataFrame:
        """Scores of the perturbations asked for that the method predicts, among all that are measured."""
        mine = self.asked & np.where(self.keep, np.isfinite(delta), True).all(1)
        if not mine.any():
            return pd.DataFrame()
        delta, changed = np.nan_to_num(delta), self.measured.changed  # other rows go in the end
        frame = perturbation_scores(delta, self.truth, changed=changed, keep=self.keep, **more)
        if more.get("seen") is None:
            # the mean of few is not that of all: the predicted and the true one are of the same values
            common = self.free & mine[:, None]
            keep = self.keep & (common.sum(0) > 1)
            apart = [v - known_mean(np.where(common, v, np.nan)) for v in (delta, self.truth)]
            specific = perturbation_scores(*apart, changed=changed, keep=keep, seen=np.zeros(delta.shape))
            frame["pearson_vs_mean"] = specific["pearson"]
        frame.insert(0, "perturbation", list(self.measured.hits))
        frame.insert(0, "method", method)
        return frame[mine]

    def networks(self, chance: np.ndarray, mine: np.ndarray) -> list[pd.DataFrame]:
        """Scores of what networks with shuffled targets predict of these perturbations."""
        board = replace(self, asked=mine)
        return [
            board.scores(SHUFFLED_TARGETS, predicted).assign(shuffle=number)
            for number, predicted in enumerate(chance)
            if mine.any()
        ]

    def permuted(
        self, delta: np.ndarray, mine: np.ndarray, times: int, rng: np.random.Generator
    ) -> list[pd.DataFrame]:
        """Scores of the prediction of these perturbations with its features permuted among those that are scored."""
        frames, board = [], replace(self, asked=mine)
        for number in range(times if mine.any() else 0):
            permuted = delta.copy()
            for i in np.flatnonzero(mine):
                permuted[i, self.keep[i]] = rng.permutation(delta[i, self.keep[i]])
            frames.append(board.scores(SHUFFLED_FEATURES, permuted).assign(shuffle=number))
        return frames

    def ceiling(self) -> pd.DataFrame:
        """Scores of a prediction without error: what was measured against the same with its noise once more.

        Where the noise is not known there is none: it would be perfect.
        """
        noise = self.measured.noise
        free, keep = (mask & np.isfinite(noise) for mask in (self.free, self.keep))
        asked = self.asked & keep.any(1)
        again = replace(self, truth=self.truth + noise, free=free, keep=keep, asked=asked)
        frame = again.scores(CEILING, self.truth)
        better = noise_ceiling(self.truth, self.measured.halves, noise, keep, free & asked[:, None])
        return frame.assign(**better.loc[frame.index])


class _Space:
    """Principal components of control cells, in which single cells are compared.

    Not pools: these hold each cell once, so they are no independent draws of anything. The components are those of the half
    of the control cells that is not compared: cells vary most along components that were found in them.
    """

    def __init__(self, cells: Screened, measured: Measured, keep: np.ndarray, rng: np.random.Generator):
        self.cells, self.measured, self.keep = cells, measured, keep
        self.controls = [rng.permutation(half)[:_SAMPLED] for half in measured.controls]
        self.perturbed = [rng.permutation(rows)[:_SAMPLED] for rows in measured.rows]

    def distances(self, table: pd.DataFrame, moved: dict[str, np.ndarray], half: int) -> np.ndarray:
        """Energy distance between the perturbed cells and control cells that were moved by the effect of each row.

        The ceiling is one half of the perturbed cells against the other.
        """
        out = np.full(len(table), np.nan)
        others = self.cells.singles(self.controls[1 - half])
        components = PCA(min(COMPONENTS, min(others.shape) - 1), svd_solver="full").fit(others).components_.T
        for i, (name, hits) in enumerate(self.measured.hits.items()):
            mine = np.flatnonzero((table["perturbation"] == name).to_numpy())
            if not mine.size:
                continue
            axes = components * self.keep[i][:, None]
            before, after = (
                self.cells.singles(rows, hits) @ axes for rows in (self.controls[half], self.perturbed[i])
            )
            still, between = energy_distance(before, after), cdist(before, after).mean()
            for row in mine:
                if (method := table["method"].iloc[row]) in moved:
                    shifted = before + np.nan_to_num(moved[method][i]) @ axes
                    # the distances within are the same wherever the cells are moved to
                    out[row] = still + 2 * (cdist(shifted, after).mean() - between)
                elif method == CEILING:
                    out[row] = energy_distance(after[::2], after[1::2])
        return out

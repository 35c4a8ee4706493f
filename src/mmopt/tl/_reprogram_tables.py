"""The tables of a reprogramming: the ranking, the front, and what each way of searching misses."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mmopt.grn.search import OVEREXPRESS, Journey, Set, marker_difference, matched_sets
from mmopt.tl._relaxed_search import Relaxed
from mmopt.tl._scene import Stage

# screening: a few cells are plenty to sort the sets
SCREEN_CELLS = slice(0, 16)
_MATCHED_ROWS, _MATCHED, _LEVEL = 5, 100, 0.05


def named(stage: Stage, members: Set) -> tuple[str, str]:
    """``"A+B"`` and ``"knockout+overexpress"``."""
    names = [stage.features.name(stage.scene.network.regulators[number]) for number, _ in members]
    ways = ["overexpress" if way == OVEREXPRESS else "knockout" for _, way in members]
    return "+".join(names), "+".join(ways)


def scored(
    task: Journey,
    stage: Stage,
    sets: list[Set],
    chance: np.ndarray,
    identity: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Score sets of one size with the whole ensemble."""
    network = stage.scene.network
    made = np.stack([task.progress(sets, m, identity) for m in range(network.n_members)])
    mean = made.mean(0)
    ranks = np.argsort(np.argsort(-made, axis=1, kind="stable"), axis=1)
    few = range(0, network.n_members, max(1, network.n_members // 5))
    nearest = np.mean([task.nearest(sets, m) for m in few], axis=0)
    distance = np.mean([task.distances(sets, m)[:, 0] for m in few], axis=0)
    p = (1 + (chance >= mean[:, None] - 1e-12).sum(1)) / (1 + len(chance))
    matched = np.full(len(sets), np.nan)
    expression = stage.scene.cells.level[:, network.regulators].mean(0)
    for i in np.argsort(-mean, kind="stable")[:_MATCHED_ROWS]:
        others = matched_sets(sets[i], expression, np.unique(network.source), _MATCHED, rng)
        if others:
            # the set itself by the same few members and cells as those beside it
            both = [sets[i], *others]
            mine, *reached = np.mean([task.progress(both, m, identity, SCREEN_CELLS) for m in few], axis=0)
            matched[i] = (1 + (np.array(reached) >= mine).sum()) / (1 + len(others))
    marker = marker_difference(task, sets)
    factors, modes = zip(*(named(stage, s) for s in sets), strict=True)
    return pd.DataFrame(
        {
            "factors": factors,
            "modes": modes,
            "n_factors": [len(s) for s in sets],
            "progress": mean,
            "sd": made.std(0, ddof=1),
            "q05": np.quantile(made, 0.05, axis=0),
            "q95": np.quantile(made, 0.95, axis=0),
            "distance": distance,
            "reached": nearest[:, 0],
            "off_target": nearest[:, 2:].sum(1),
            "rank_sd": ranks.std(0, ddof=1),
            "top_share": (ranks == 0).mean(0),
            "null_p": p,
            "matched_p": matched,
            "marker_difference": marker,
            "marker_rank": np.argsort(np.argsort(-marker, kind="stable")) + 1,
            "significant": (p < _LEVEL + 1e-9) & (mean > 0),
        }
    )


def pareto(
    ranking: pd.DataFrame,
    chance: np.ndarray,
    found: dict,
    markers: dict[int, Set],
    stage: Stage,
) -> pd.DataFrame:
    """Nothing, then the best set of each size by progress and by the difference of markers."""
    columns = ["factors", "modes", "progress", "q05", "q95", "distance", "null_p", "significant"]
    nothing = {"n_factors": 0, "method": "nothing", "factors": "", "modes": "", "progress": 0.0}
    rows = [nothing | {"q05": 0.0, "q95": 0.0, "distance": 1.0, "null_p": 1.0, "significant": False}]
    rows[0] |= {"null95": 0.0, "n_sets": 1, "exhaustive": True}
    for size, (sets, _, complete) in found.items():
        mine = ranking[ranking["n_factors"] == size]
        factors, modes = named(stage, markers[size])
        by_marker = mine[(mine["factors"] == factors) & (mine["modes"] == modes)]
        band = float(np.nanquantile(chance[:, size - 1], 1 - _LEVEL))
        for method, row in (("search", mine.iloc[0]), ("marker difference", by_marker.iloc[0])):
            about = {"null95": band, "n_sets": len(sets), "exhaustive": complete}
            rows.append({"n_factors": size, "method": method} | row[columns].to_dict() | about)
    return pd.DataFrame(rows)


def search_table(
    task: Journey,
    found: dict,
    relaxed: Relaxed,
    markers: dict,
    members: np.ndarray,
    identity: float,
    stage: Stage,
) -> pd.DataFrame:
    """Every way of searching judged by the same few members and cells: what its best set misses."""

    def made(sets: Sequence[Set]) -> np.ndarray:
        return np.mean([task.progress(sets, m, identity, SCREEN_CELLS) for m in members], axis=0)

    rows = []
    for size, (sets, values, complete) in found.items():
        best = sets[int(np.argmax(values))]
        name = "exhaustive" if complete else "beam"
        rows.append((f"{name}, {size}", best, len(sets), np.nan, np.nan, np.nan))
    rows += [
        (f"marker difference, {size}", best, 0, np.nan, np.nan, np.nan) for size, best in markers.items()
    ]
    for run in relaxed.best:
        candidates = run.sets
        rows.append(
            (
                run.name,
                candidates[int(np.argmax(made(candidates)))],
                run.n_evaluations,
                run.lr,
                run.best,
                run.median,
            )
        )
    values = made([r[1] for r in rows])
    names = [named(stage, r[1]) for r in rows]
    complete = all(c for _, _, c in found.values())
    return pd.DataFrame(
        {
            "method": [r[0] for r in rows],
            "factors": [n[0] for n in names],
            "modes": [n[1] for n in names],
            "n_factors": [len(r[1]) for r in rows],
            "progress": values,
            "regret": values.max() - values,
            "against_exhaustive": complete,
            "n_evaluations": [r[2] for r in rows],
            "rate": [r[3] for r in rows],
            "best_objective": [r[4] for r in rows],
            "median_objective": [r[5] for r in rows],
        }
    )

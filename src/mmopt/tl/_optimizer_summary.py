"""What runs of several optimizers say: each one's best rate, and its distance to the reference."""

import numpy as np
import pandas as pd

from mmopt._student import half_width

REFERENCE = "adam"
TO_TARGET = ["steps_to_target", "seconds_to_target"]
ROUNDING = 1e-6  # of a bound that is computed in single precision


def summarise(runs: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """One row per optimizer, at the learning rate with the lowest mean held-out bound.

    Parameters
    ----------
    runs
        What :func:`mmopt.tl.compare_optimizers` returns.
    reference
        Optimizer the others are compared with; the first one if it was not run.

    Returns
    -------
    ``optimizer``, ``lr``, ``n_seeds``
        The optimizer, its best learning rate, and the runs there. The rate is chosen on the cells that are scored, for
        every optimizer alike.
    ``n_trials``, ``n_diverged``, ``at_edge``
        Its runs at all rates, how many of them diverged, and whether the best rate is at an end of its grid, so that a
        better one may lie beyond.
    all scores
        Their means over the seeds; ``steps_to_target`` and ``seconds_to_target`` are medians, infinite where half of
        the seeds or more did not reach the target, and ``n_reached`` says how many did.
    ``elbo_se``
        Standard error of the mean bound.
    ``regret``, ``worst_regret``
        Sensitivity: mean and maximum, over learning rates and seeds, of the bound's distance to the best of all runs of
        the seed. A diverged run counts as infinitely bad.
    ``difference``, ``difference_se``, ``verdict``
        To the reference at its own best rate, paired by seed: ``"better"`` or ``"worse"`` where 0 is outside the 95 %
        interval of Student's t, which is 4.3 standard errors to either side with three seeds and 2.3 with ten;
        ``"tie"`` otherwise, ``"one seed"`` where there is no standard error, ``"diverged"`` where the optimizer or the
        reference did so at every rate. It is one interval per optimizer: of many, one in twenty errs.
    ``difference_iterate``, ``difference_iterate_se``, ``verdict_iterate``
        The same for the last iterates of these runs.
    """
    names = list(dict.fromkeys(runs["optimizer"]))
    reference = reference if reference in names else names[0]
    runs = runs.assign(elbo=_bounds(runs))
    regret = runs["elbo"] - runs.groupby("seed")["elbo"].transform("min")
    best = _best_rates(runs)

    def at_best(name: str) -> pd.DataFrame:
        return runs[(runs["optimizer"] == name) & (runs["lr"] == best[name])].set_index("seed")

    rows = []
    for name in names:
        mine, all_mine = at_best(name), runs[runs["optimizer"] == name]
        row = {"optimizer": name, "lr": best[name], "n_seeds": len(mine)}
        row |= mine.drop(columns=["lr"]).mean(numeric_only=True).to_dict()
        if "steps_to_target" in mine:
            row |= {column: mine[column].median(skipna=False) for column in TO_TARGET}
            row["n_reached"] = int(np.isfinite(mine["steps_to_target"]).sum())
        rows.append(
            row
            | {
                "n_trials": len(all_mine),
                "n_diverged": int((all_mine["status"] != "ok").sum()),
                "at_edge": best[name] in (all_mine["lr"].min(), all_mine["lr"].max()),
                "elbo_se": _standard_error(mine["elbo"]),
                "regret": regret[all_mine.index].mean(),
                "worst_regret": regret[all_mine.index].max(),
            }
            | _paired(mine["elbo"], at_best(reference)["elbo"], "", name == reference)
        )
        if "elbo_iterate" in mine:
            theirs = at_best(reference)["elbo_iterate"]
            rows[-1] |= _paired(mine["elbo_iterate"], theirs, "_iterate", name == reference)
    return pd.DataFrame(rows)


def _bounds(runs: pd.DataFrame) -> pd.Series:
    """Return the final held-out bounds, infinite where a run diverged."""
    return runs.get("elbo", pd.Series(np.nan, runs.index)).where(runs["status"] == "ok", np.inf)


def _best_rates(runs: pd.DataFrame) -> pd.Series:
    """Learning rate with the lowest mean bound, by optimizer."""
    means = _bounds(runs).groupby([runs["optimizer"], runs["lr"]]).mean()
    return means.groupby("optimizer").idxmin().map(lambda pair: pair[1])


def with_target(runs: pd.DataFrame, curves: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Add steps and seconds up to the tuned reference's final bound for the same seed."""
    tuned = (runs["optimizer"] == reference) & (runs["lr"] == _best_rates(runs)[reference])
    targets = _bounds(runs)[tuned].set_axis(runs.loc[tuned, "seed"])
    known = np.isfinite(runs["seed"].map(targets))
    if curves.empty or not known.any():
        return runs.assign(**dict.fromkeys(TO_TARGET, np.nan))
    reached = curves[curves["elbo_validation"] <= curves["seed"].map(targets)]
    first = reached.groupby(["optimizer", "lr", "seed"])[["step", "seconds"]].min()
    columns = first.set_axis(TO_TARGET, axis=1).reindex(pd.MultiIndex.from_frame(runs[first.index.names]))
    return runs.join(columns.fillna(np.inf).set_axis(runs.index).where(known, np.nan))


def _standard_error(values: pd.Series) -> float:
    """NaN for one value, or where a run diverged."""
    return values.std() / len(values) ** 0.5 if np.isfinite(values).all() else np.nan


def _paired(mine: pd.Series, theirs: pd.Series, suffix: str, same: bool) -> dict[str, float | str]:
    """Difference of two optimizers, its standard error and a word for it."""
    apart = mine - theirs
    difference, se = apart.mean(), _standard_error(apart)
    verdict = "reference" if same else _verdict(difference, half_width(len(apart)) * se, mine.mean())
    return {
        f"difference{suffix}": difference,
        f"difference{suffix}_se": se,
        f"verdict{suffix}": verdict,
    }


def _verdict(difference: float, margin: float, elbo: float) -> str:
    if not np.isfinite(difference):
        return "diverged"
    if np.isnan(margin):
        return "one seed"
    # runs that are the same but for rounding have no standard error either
    if abs(difference) <= max(margin, ROUNDING * abs(elbo)):
        return "tie"
    return "better" if difference < 0 else "worse"

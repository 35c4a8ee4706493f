"""The tables of ``benchmarks/perturbation``: how near predictions come, and what reprogramming chose beside the best there is."""

from itertools import product

import pandas as pd

SIZES = {1: "one", 2: "up to two"}


def regrets(found: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Mean regret of the first choice by network and size, the lower of search and markers bold, and what is significant."""
    rows = []
    for (network, size), part in found.groupby(["network", "max_factors"], sort=False):
        means = {k: f"{part[k].mean():.2f}" for k in ("search", "marker_difference", "random")}
        lowest = min(means["search"], means["marker_difference"])
        shown = {k: f"**{v}**" if v == lowest and k != "random" else v for k, v in means.items()}
        rows.append(
            {
                "network": network,
                "tasks": len(part),
                "choice": SIZES[size],
                "search": shown["search"],
                "marker difference": shown["marker_difference"],
                "at random": shown["random"],
            }
        )
    tasks = found.drop_duplicates(["network", "source", "target"])
    n_significant = int(tasks["significant"].sum())
    words = (
        f"`significant` was true on {n_significant} of {len(tasks)} tasks, also where the first choice was poor: it does not tell "
        "good choices from bad ones.\n"
    )
    return pd.DataFrame(rows), words


def accuracy(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean over the networks of every score, by kind of perturbation, regime and method; one table for each setting."""
    shown = {
        "pearson": "Pearson",
        "sign_accuracy": "right sign",
        "mae_ratio": "error on changed genes, share of no change's",
        "discrimination": "own truth nearest",
        "coverage": "changed genes within the 90 % interval",
        "decoys": "decoys, share of regulators",
    }
    tables = {}
    for genes, rows in found.groupby("genes"):
        means = (
            rows.groupby(["kind", "regime", "method"], sort=False)[list(shown)].mean().rename(columns=shown)
        )
        tables[genes] = means.map(lambda value: "–" if pd.isna(value) else f"{value:.2f}").reset_index()
    return tables


def controls(found: pd.DataFrame) -> pd.DataFrame:
    """Mean over the networks of every score, by kind of perturbation and what the network was made of, and the range of Pearson."""
    shown = {
        "pearson": "Pearson",
        "sign_accuracy": "right sign",
        "mae_ratio": "error on changed genes, share of no change's",
    }
    shown |= {"discrimination": "own truth nearest", "decoys": "decoys, share of regulators"}
    by = found.groupby(["kind", "fit"], sort=False)
    means = by[list(shown)].mean().rename(columns=shown)
    told = means.map(lambda value: "–" if pd.isna(value) else f"{value:.2f}")
    span = by["pearson"].agg(["min", "max"])
    told.insert(1, "range", [f"{low:.2f} to {high:.2f}" for low, high in span.itertuples(index=False)])
    return told.reset_index()


def timed(found: pd.DataFrame) -> pd.DataFrame:
    """Scores without either, with times, with unspliced RNA and with both, mean over the networks, by setting, modalities and kind."""
    by = found.groupby(["genes", "modalities", "kind", "regime", "unspliced", "times"], sort=False)
    means = by[["pearson", "sign_accuracy", "mae_ratio", "decoys"]].mean().unstack(["unspliced", "times"])
    fits = list(product((False, True), repeat=2))
    shown = {"pearson": "Pearson", "sign_accuracy": "right sign", "mae_ratio": "error", "decoys": "decoys"}
    told = {
        name: [
            "–" if pd.isna(row).all() else ", ".join(f"{value:.2f}" for value in row)
            for row in means[[(score, *fit) for fit in fits]].to_numpy()
        ]
        for score, name in shown.items()
    }
    return pd.DataFrame(told, index=means.index).reset_index()


def states(found: pd.DataFrame) -> pd.DataFrame:
    """Mean over the networks of how often states grow and cells go where the truth has it, beside shuffled targets."""
    shown = {
        "sign": "right sign, all cells",
        "pearson": "Pearson, all cells",
        "inside": "changes within the limits",
        "goal": "right goal of a group's cells",
        "goal_nearest": "state nearest before",
        "goal_chance": "at random",
    }
    by = found.groupby(["kind", "fit"], sort=False)
    told = by[list(shown)].mean().rename(columns=shown).map("{:.2f}".format)
    span = by["pearson"].agg(["min", "max"])
    told.insert(2, "range", [f"{low:.2f} to {high:.2f}" for low, high in span.itertuples(index=False)])
    return told.reset_index()


def screen_time(found: pd.DataFrame) -> str:
    """One sentence for each of what was timed: the median of its runs."""
    said = {
        "screen": "`tl.screen` with {n} perturbations of {cells:,} cells, {genes} genes, {peaks:,} peaks and {proteins} proteins (knock-outs, "
        "over-expressions, pairs, closed peaks, blocked proteins; the network given)",
        "reprogram": "`tl.reprogram` with {n} regulators, all pairs and three optimizers",
    }
    parts = []
    for what, text in said.items():
        mine = found[found["what"] == what]
        wall, cpu, memory = (mine[c].median() for c in ("wall_seconds", "cpu_seconds", "peak_mb"))
        name = text.format(**mine.iloc[0][["n", "cells", "genes", "peaks", "proteins"]].astype(int))
        parts.append(
            f"{name} took {wall:.0f} s ({cpu:.0f} s of processor time, at most {memory / 1024:.1f} GB)"
        )
    first = found.iloc[0]
    return f"{'; '.join(parts)}. Medians of {found['run'].nunique()} runs, {first['date']} ({first['machine']}).\n"


def conformal(found: pd.DataFrame) -> pd.DataFrame:
    """Coverage, width and error of the intervals of each screen, mean over its knock-outs."""
    means = found.groupby("seed", sort=False).mean(numeric_only=True)
    shares = {
        "coverage": "conformal",
        "ensemble": "ensemble",
        "coverage_changed": "conformal, features that change",
        "ensemble_changed": "ensemble, features that change",
    }
    told = means[list(shares)].rename(columns=shares).map(lambda share: f"{share:.0%}".replace("%", " %"))
    told.insert(0, "knock-outs", means["knockouts"].astype(int))
    told["width over the ensemble's"] = means["widening"].map("{:.2f}".format)
    errors = {"mae": "mean absolute error", "mae_scaled": "scaled", "mae_no_change": "of no change"}
    return told.join(means[list(errors)].rename(columns=errors).map("{:.3f}".format))


def embeddings(found: pd.DataFrame) -> pd.DataFrame:
    """Scores with several embeddings of the same cells, and how far apart two of them are, by kind and setting."""
    rows = []
    for (genes, kind), part in found.groupby(["genes", "kind"], sort=False):
        components, alone = part[["embedding", "beside"]].eq("X_pca").any(axis=1), part["beside"].isna()
        fits, pairs = part[alone & ~components], part[~alone & ~components]
        by_network = fits.groupby("network")["pearson"]
        rows.append(
            {
                "genes": genes,
                "networks": fits["network"].nunique(),
                "kind": kind,
                "Pearson, worst fit of TriVI": f"{by_network.min().mean():.2f}",
                "best fit": f"{by_network.max().mean():.2f}",
                "principal components": f"{part.loc[alone & components, 'pearson'].mean():.2f}",
                "distance of two fits, share of the change": f"{pairs['gap'].mean():.2f}",
                "distance to the truth": f"{fits['mae_ratio'].mean():.2f}",
                "within the other's 90 % interval": f"{pairs['inside'].mean():.2f}",
            }
        )
    return pd.DataFrame(rows)


def searches(found: pd.DataFrame) -> pd.DataFrame:
    """Mean regret in progress of each way to search, and mean lowest objective of the optimizers."""
    means = found.groupby("method", sort=False)[["regret", "best_objective"]].mean()
    return pd.DataFrame(
        {
            "searched by": means.index,
            "regret": [f"{v:.3f}" for v in means["regret"]],
            "lowest objective": ["–" if pd.isna(v) else f"{v:.3f}" for v in means["best_objective"]],
        }
    )

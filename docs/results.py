"""Tables and figures of the pages, made from the files in ``benchmarks/`` at every build, so that they cannot disagree.

Writes Markdown to ``generated/include`` (for ``{include}``) and figures to ``generated/figures``.
"""

import shutil
from pathlib import Path

import layers
import matplotlib as mpl
import numpy as np
import pandas as pd
import peers
import reprogramming
import twins

NAMES = {
    "adam": "Adam",
    "amsgrad": "AMSGrad",
    "padam": "Padam",
    "sgd": "SGD with momentum",
    "asgdadam": "ASGDAdam",
    "asgdamsgrad": "ASGDAMSGrad",
    "asgdadam (published rule)": "ASGDAdam, published",
    "asgdamsgrad (published rule)": "ASGDAMSGrad, published",
}
SCORES = {
    "Label transfer": {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"},
    "Imputation": {"r2": "R²", "rmse": "RMSE", "mse": "MSE", "mae": "MAE"},
}
PUBLISHED_RATE = 1e-3
DATA = {"toy": "the simulated toy", "mosaic": "the real mosaic"}


def write(benchmarks: Path, out: Path) -> None:
    """Make everything anew."""
    include, figures = out / "include", out / "figures"
    for folder in (include, figures):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    folder = benchmarks / "published_comparison"
    tables = {
        name: pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "fair_protocol", "runs", "curves")
    }
    (include / "published_metrics.md").write_text(published(tables), encoding="utf-8")
    (include / "published_fair.md").write_text(fair(tables), encoding="utf-8")
    draw(tables, figures)
    pages = sorted((benchmarks / "optimizers").glob("*.md"))
    (include / "measurements.md").write_text("\n\n".join(map(demoted, pages)), encoding="utf-8")
    for page in (
        benchmarks / "many_peaks.md",
        benchmarks / "sampled_peaks.md",
        benchmarks / "scale.md",
        benchmarks / "simulated.md",
        benchmarks / "speed.md",
    ):
        (include / page.name).write_text(demoted(page, 2), encoding="utf-8")
    pages = sorted((benchmarks / "calibration").glob("*.md"))
    text = "\n\n".join(demoted(page, 2) for page in pages)
    (include / "calibration.md").write_text(text, encoding="utf-8")
    (include / "peers.md").write_text(peers.page(benchmarks / "integration.md"), encoding="utf-8")
    folder = benchmarks / "perturbation"
    told, words = reprogramming.regrets(pd.read_csv(folder / "reprogram.csv"))
    (include / "reprogram.md").write_text(f"{table(told)}\n{words}", encoding="utf-8")
    ways = reprogramming.searches(pd.read_csv(folder / "searches.csv"))
    near = reprogramming.accuracy(pd.read_csv(folder / "accuracy.csv"))
    pages = {
        "mostly regulated": "accuracy",
        "mostly constant": "accuracy_constant",
        "background": "accuracy_background",
    }
    for genes, page in pages.items():
        (include / f"{page}.md").write_text(table(near[genes]), encoding="utf-8")
    wrong = reprogramming.controls(pd.read_csv(folder / "controls.csv"))
    (include / "controls.md").write_text(table(wrong), encoding="utf-8")
    timed = reprogramming.timed(pd.read_csv(folder / "timed.csv"))
    (include / "timed.md").write_text(table(timed), encoding="utf-8")
    gone = reprogramming.states(pd.read_csv(folder / "states.csv"))
    (include / "states.md").write_text(table(gone), encoding="utf-8")
    told = reprogramming.screen_time(pd.read_csv(folder / "screen_time.csv"))
    (include / "screen_time.md").write_text(told, encoding="utf-8")
    shown = reprogramming.embeddings(pd.read_csv(folder / "embeddings.csv"))
    (include / "embeddings.md").write_text(table(shown), encoding="utf-8")
    (include / "searches.md").write_text(table(ways), encoding="utf-8")
    held = reprogramming.conformal(pd.read_csv(folder / "conformal.csv"))
    (include / "conformal.md").write_text(table(held), encoding="utf-8")
    told, words = twins.fates(pd.read_csv(benchmarks / "twin" / "fates.csv"))
    (include / "twin_fates.md").write_text(f"{table(told)}\n{words}", encoding="utf-8")
    courses = twins.held_out(pd.read_csv(benchmarks / "twin" / "held_out.csv"))
    text = "\n".join(f"{title}\n\n{table(rows)}" for title, rows in courses.items())
    (include / "twin_held_out.md").write_text(text, encoding="utf-8")
    groups, words = twins.readout(pd.read_csv(benchmarks / "twin" / "readout.csv"))
    text = "\n".join(f"{title}\n\n{table(rows)}" for title, rows in groups.items())
    (include / "twin_readout.md").write_text(f"{text}\n{words}", encoding="utf-8")
    told, words = twins.traced(pd.read_csv(benchmarks / "twin" / "traced.csv"))
    (include / "twin_traced.md").write_text(f"{table(told)}\n{words}", encoding="utf-8")
    told, words = twins.schedules(pd.read_csv(benchmarks / "twin" / "schedules.csv"))
    (include / "twin_schedules.md").write_text(f"{table(told)}\n{words}", encoding="utf-8")
    told, words = twins.size(pd.read_csv(benchmarks / "twin" / "size.csv"))
    (include / "twin_size.md").write_text(f"{table(told)}\n{words}", encoding="utf-8")
    layers.draw(benchmarks.parent / "pyproject.toml", figures / "layers.svg")


def table(rows: pd.DataFrame) -> str:
    """Markdown, with the numbers to the right."""
    head = [list(rows), ["---", *["--:"] * (rows.shape[1] - 1)]]
    return (
        "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [*head, *rows.to_numpy().tolist()])
        + "\n"
    )


def spread(mean: float, deviation: float, digits: int) -> str:
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if np.isfinite(deviation) else "")


def protocol(runs: pd.DataFrame, rate: float | None = None) -> str:
    """What was run, in one sentence: at all rates of the grid, or at one."""
    ours = runs[~runs["optimizer"].str.contains("published")]
    rates = ", ".join(f"{rate:g}" for rate in sorted(ours["lr"].unique()))
    said = f"learning rates of the grid: {rates}" if rate is None else f"learning rate {rate:g}"
    n_seeds = runs["seed"].nunique()
    steps = "–".join(f"{n:,}" for n in sorted({int(runs["n_steps"].min()), int(runs["n_steps"].max())}))
    return f"{n_seeds} seed{'s' * (n_seeds > 1)}, {steps} steps per run; {said}."


def published(tables: dict[str, pd.DataFrame]) -> str:
    """Scores at the one published rate."""
    parts = []
    for data, rows in tables["metrics"].groupby("data", sort=False):
        runs = tables["runs"][tables["runs"]["data"] == data]
        parts.append(f"**On {DATA.get(data, data)}** ({protocol(runs, PUBLISHED_RATE)})\n")
        names = rows["optimizer"].replace(NAMES).str.replace("baseline: ", "")
        for task, scores in SCORES.items():
            shown = pd.DataFrame({task: names})
            for score, name in scores.items():
                shown[name] = [spread(*pair, 3) for pair in rows[[score, f"{score}_sd"]].to_numpy()]
            parts.append(table(shown))
    return "\n".join(parts)


def fair(tables: dict[str, pd.DataFrame]) -> str:
    """The same runs, each optimizer at its own best rate, against tuned Adam."""
    parts = []
    for data, rows in tables["fair_protocol"].groupby("data", sort=False):
        runs = tables["runs"][tables["runs"]["data"] == data]
        shown = pd.DataFrame(
            {
                "Optimizer": rows["optimizer"].replace(NAMES),
                "Best rate": [
                    "–" if np.isnan(rate) else f"{rate:g}" + "*" * (str(edge) == "True")
                    for rate, edge in zip(rows["lr"], rows["at_edge"], strict=True)
                ],
                "Bound": [f"{elbo:.1f}" for elbo in rows["elbo"]],
                "To tuned Adam": [
                    "0" if verdict == "reference" else f"{d:+.2f}" + ("" if np.isnan(se) else f" ± {se:.2f}")
                    for d, se, verdict in zip(
                        rows["difference"], rows["difference_se"], rows["verdict"], strict=True
                    )
                ],
                "Verdict": rows["verdict"],
                "Steps to it": [
                    (f"{steps:,.0f}" if np.isfinite(steps) else "–") + f" ({n}/{of})"
                    for steps, n, of in zip(
                        rows["steps_to_target"], rows["n_reached"], rows["n_seeds"], strict=True
                    )
                ],
                "Worst regret": [
                    "–" if np.isnan(worst) else f"{worst:.1f}" for worst in rows["worst_regret"]
                ],
            }
        )
        parts += [
            f"**On {DATA.get(data, data)}** ({protocol(runs)})\n",
            table(shown),
            summary(rows),
        ]
    return "\n".join(parts)


def summary(rows: pd.DataFrame) -> str:
    """Count the verdicts on the ASGD optimizers."""
    ours = rows[rows["optimizer"].isin(["asgdadam", "asgdamsgrad"])]
    verdicts = ", ".join(f"{NAMES[row.optimizer]}: {row.verdict}" for row in ours.itertuples())
    edge = rows.loc[rows["at_edge"].astype(str) == "True", "optimizer"].replace(NAMES).tolist()
    note = (
        f" The best rate of {', '.join(edge)} lies at an end of the grid (\\*), so a better one may lie beyond."
        if edge
        else ""
    )
    return f"Against tuned Adam: {verdicts}.{note}\n"


def draw(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Draw the comparison of each data set with the package's own plot."""
    from anndata import AnnData
    from mudata import MuData

    from mmopt import pl
    from mmopt._compat import override_pull_on_update

    mpl.use("agg")
    for data in tables["runs"]["data"].unique():
        own = {
            name: tables[name][tables[name]["data"] == data].drop(columns="data")
            for name in ("runs", "curves", "fair_protocol")
        }
        # the published rule has no rate of its own to show in a sweep
        kept = {name: rows[~rows["optimizer"].str.contains("published")] for name, rows in own.items()}
        with override_pull_on_update():
            mdata = MuData({"rna": AnnData(np.ones((1, 1), dtype=np.float32))})
        mdata.uns["optimizer_comparison"] = {
            "runs": kept["runs"],
            "curves": kept["curves"],
            "summary": kept["fair_protocol"],
        }
        figure = pl.optimizer_comparison(mdata, return_fig=True)
        figure.savefig(folder / f"published_{data}.png", dpi=200)


def demoted(page: Path, by: int = 1) -> str:
    """Return a result page with its headings some levels down, as a part of a page of the documentation."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return "\n".join("#" * by + line if line.startswith("#") else line for line in lines)

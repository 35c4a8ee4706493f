"""The pages: their code runs as printed, they name all that is public, and their tables are the benchmarks'."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import lightning.pytorch as lightning
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mmopt import tl
from mmopt.optim.options import DOCUMENTATION

DOCS = Path(__file__).parents[1] / "docs"
CODE = {
    page.stem: blocks
    for page in sorted(DOCS.glob("*.md"))
    if (blocks := re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
}


EXTRA = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]["bridges"]
OPTIONAL = {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in EXTRA}


@pytest.fixture
def briefly(monkeypatch, tmp_path, toy_source):
    """Whatever trains does so for two epochs or twenty steps, on a third of the cells; what is left at its default is small."""
    whole = lightning.Trainer.__init__

    def brief(self, *args, max_epochs=None, **kwargs):
        # so few steps that rates are logged at each
        whole(self, *args, max_epochs=min(max_epochs, 2), **kwargs | {"log_every_n_steps": 1})

    monkeypatch.setattr(lightning.Trainer, "__init__", brief)
    monkeypatch.setattr("mmopt.models.fitting.default_epochs", lambda *_: 2)
    monkeypatch.setattr("mmopt.datasets.toy", lambda: toy_source[toy_source.obs_names[::3]].copy())
    for name in ("_twin", "_evaluate_twin"):
        module = importlib.import_module(f"mmopt.tl.{name}")

        def few(*args, n_steps, whole=module.fit_flow, **kwargs):
            return whole(*args, n_steps=min(n_steps, 20), **kwargs)

        monkeypatch.setattr(module, "fit_flow", few)
    for tool, small in (
        (tl.regulons, {"n_boot": 6}),
        (tl.perturb, {"n_null": 5}),
        (tl.reprogram, {"n_starts": 1, "n_evaluations": 4}),
        (tl.simulate, {"n_cells": 30}),
        (tl.landscape, {"n_points": 3, "n_cells": 60}),
        (tl.curvature, {"n_probes": 2, "n_noise": 2, "k": 2, "n_cells": 60}),
    ):
        for argument, value in small.items():
            assert argument in tool.__kwdefaults__
            monkeypatch.setitem(tool.__kwdefaults__, argument, value)
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", CODE)
def test_the_code_of_a_page_runs_as_printed(page, briefly):
    for package in OPTIONAL & set(re.findall(r"^(?:import|from) (\w+)", "\n".join(CODE[page]), re.M)):
        pytest.importorskip(package, reason='pip install -e ".[bridges]"')
    names = {"__name__": page}
    for block in CODE[page]:
        exec(compile(block, f"{page}.md", "exec"), names)


def test_these_pages_have_code():
    assert set(CODE) >= {"faq", "landscape", "model", "optimizers", "published_comparison", "scale", "twin"}


@pytest.mark.parametrize("package", ["curvature", "datasets", "metrics", "models", "optim", "pl", "pp", "tl"])
def test_the_reference_lists_all_that_is_public(package):
    listed = re.findall(rf"^   {package}\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    module = importlib.import_module(f"mmopt.{package}")
    public = [name for name in module.__all__ if callable(getattr(module, name))]
    assert sorted(listed) == sorted(public)


def test_every_plot_is_in_the_gallery_with_its_picture():
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    figures = re.findall(r"```\{figure\} (\S+)\n(.*?)```", text, re.S)
    shown = {name for _, body in figures for name in re.findall(r"mm\.pl\.(\w+)\(", body)}
    assert shown == set(importlib.import_module("mmopt.pl").__all__)
    assert all((DOCS / picture).stat().st_size < 400_000 for picture, _ in figures)


def test_the_address_in_warnings_is_that_of_a_page():
    assert (DOCS / DOCUMENTATION.rpartition("/")[2].replace(".html", ".md")).is_file()


@pytest.fixture(scope="module")
def drawing():
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("layers")
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def made(tmp_path_factory, drawing):
    out = tmp_path_factory.mktemp("generated")
    importlib.import_module("results").write(DOCS.parent / "benchmarks", out)
    return out


def test_tables_hold_the_results(made):
    folder = DOCS.parent / "benchmarks" / "published_comparison"
    metrics = pd.read_csv(folder / "metrics.csv")
    text = (made / "include" / "published_metrics.md").read_text(encoding="utf-8")
    for score in ("accuracy", "r2"):
        for value in metrics[score]:
            assert f"| {value:.3f}" in text
    assert "learning rate 0.001." in text
    assert "grid" not in text
    fair = pd.read_csv(folder / "fair_protocol.csv")
    text = (made / "include" / "published_fair.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == len(fair) + 2 * fair["data"].nunique()  # with two lines of head each
    for elbo, verdict in zip(fair["elbo"], fair["verdict"], strict=True):
        assert any(f"| {elbo:.1f} |" in row and f"| {verdict} |" in row for row in rows)


def test_there_is_a_figure_for_every_data_set(made):
    data = pd.read_csv(DOCS.parent / "benchmarks" / "published_comparison" / "runs.csv")["data"].unique()
    expected = {f"published_{name}.png" for name in data} | {"layers.svg"}
    assert expected == {f.name for f in (made / "figures").iterdir()}


def test_every_measurement_is_on_its_page(made):
    folder = DOCS.parent / "benchmarks"
    parts = {"measurements": folder / "optimizers", "calibration": folder / "calibration"}
    pages = [(name, page) for name, place in parts.items() for page in place.glob("*.md")]
    for name, page in [*pages, ("scale", folder / "scale.md"), ("speed", folder / "speed.md")]:
        text = (made / "include" / f"{name}.md").read_text(encoding="utf-8")
        title = page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        assert any(re.fullmatch(f"##+ {re.escape(title)}", line) for line in text.splitlines())


def test_the_page_of_the_twin_says_where_no_change_is_nearer(made):
    runs = pd.read_csv(DOCS.parent / "benchmarks" / "twin" / "fates.csv")
    text = (made / "include" / "twin_fates.md").read_text(encoding="utf-8")
    rows, told = text.split("Farther from the truth than no change")
    runs["mode"] = runs["mode"].where(~runs["mode"].str.contains(r"\+"), "two")
    for (network, *_), part in runs.groupby(["network", "mode"]):
        ours, none = part["tv"].mean(), part["tv_no_change"].mean()
        assert re.search(rf"`{network}` \|[^|]*\| {ours:.3f} \| {none:.3f} \|", rows)
        assert (f"({ours:.3f} against {none:.3f})" in told) == (ours >= none)


def test_the_page_of_the_twin_says_which_schedules_it_misses(made):
    runs = pd.read_csv(DOCS.parent / "benchmarks" / "twin" / "schedules.csv")
    text = (made / "include" / "twin_schedules.md").read_text(encoding="utf-8")
    rows, told = text.split("Farther from the truth than no change")
    for _, part in runs.groupby(["window", "mode"]):
        assert f"| {part['tv'].mean():.3f} | {part['tv_no_change'].mean():.3f} |" in rows
    for (_, _, network), part in runs.groupby(["window", "mode", "network"]):
        ours, none = part["tv"].mean(), part["tv_no_change"].mean()
        assert (f"({ours:.3f} against {none:.3f})" in told) == (ours >= none), network
    assert f"direction for {runs['right'].sum():.0f}, the opposite for {runs['wrong'].sum():.0f}" in told


def test_the_page_of_the_twin_has_every_held_out_score(made):
    scores = pd.read_csv(DOCS.parent / "benchmarks" / "twin" / "held_out.csv")
    text = (made / "include" / "twin_held_out.md").read_text(encoding="utf-8")
    for energy in scores.groupby(["data", "space", "prediction"])["energy"].mean():
        assert re.search(rf"\| \*{{0,2}}{re.escape(f'{energy:.2f}')}\*{{0,2}} \|", text)


def test_the_page_of_the_twin_says_what_the_readouts_miss(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "twin" / "readout.csv")
    text = (made / "include" / "twin_readout.md").read_text(encoding="utf-8")
    shown, told = text.split("No change is nearer on average")
    assert (
        shown.count("\n| ") - 2 * shown.count("| modality")
        == rows.groupby(["cells", "mode", "method", "modality"]).ngroups
    )
    for _, part in rows.groupby(["cells", "mode", "method", "modality"]):
        error = part["mae"].mean() / part["mae_no_change"].mean()
        assert f"| {error:.2f} |" in shown
        assert error < 1 or f"{error:.2f})" in told


def test_the_page_of_the_twin_says_where_it_tells_no_fates(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "twin" / "traced.csv")
    text = (made / "include" / "twin_traced.md").read_text(encoding="utf-8")
    for accuracy in rows.groupby(["prediction", "time"])["accuracy"].mean():
        assert f"| {accuracy:.2f} |" in text
    for _, row in rows[(rows["prediction"] == "twin") & (rows["gain_lo"] <= 0)].iterrows():
        assert f"`{row['network']}` on day {row['time']:g}" in text.split("exceptions: ")[1]


def test_the_page_of_the_twin_has_the_time_and_memory_of_every_step(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "twin" / "size.csv")
    text = (made / "include" / "twin_size.md").read_text(encoding="utf-8")
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    for row in rows.itertuples():
        assert f"| {row.cpu_s:.0f} | {row.wall_s:.0f} | {row.peak_gb:.1f} |" in lines[row.step]
    assert set(rows["cells"]) == {2000, 200_000}
    assert rows.groupby("cells")["step"].nunique().eq(6).all()
    assert rows["peak_gb"].max() < 12


def test_effects_beside_the_truth_are_told_apart_by_setting(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "perturbation" / "accuracy.csv")
    pages = {
        "mostly regulated": "accuracy",
        "mostly constant": "accuracy_constant",
        "background": "accuracy_background",
    }
    assert set(rows["genes"]) == set(pages)
    for genes, page in pages.items():
        text = (made / "include" / f"{page}.md").read_text(encoding="utf-8")
        means = (
            rows[rows["genes"] == genes]
            .groupby(["kind", "regime", "method"])[["pearson", "mae_ratio"]]
            .mean()
        )
        assert len(text.splitlines()) == len(means) + 2
        for (kind, regime, method), mean in means.iterrows():
            row = next(r for r in text.splitlines() if r.startswith(f"| {kind} | {regime} | {method} |"))
            assert f"| {mean['pearson']:.2f} |" in row
            assert f"| {mean['mae_ratio']:.2f} |" in row


def test_shuffled_targets_predict_nothing_and_every_control_is_shown(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "perturbation" / "controls.csv")
    text = (made / "include" / "controls.md").read_text(encoding="utf-8")
    for (kind, fit), part in rows.groupby(["kind", "fit"]):
        assert f"| {kind} | {fit} | {part['pearson'].mean():.2f} |" in text
    assert rows.loc[rows["fit"] == "targets shuffled", "pearson"].abs().max() < 0.1
    decoys = rows.groupby("fit")["decoys"].mean()
    assert decoys["prior"] < 0.05 < 0.5 < decoys["no prior, regulators known"]


def test_what_times_add_is_shown_for_all_that_was_measured(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "perturbation" / "timed.csv")
    text = (made / "include" / "timed.md").read_text(encoding="utf-8")
    where = ["genes", "modalities", "kind", "regime"]
    assert len(text.splitlines()) == rows.groupby(where).ngroups + 2
    for labels, part in rows.groupby(where):
        (row,) = (r for r in text.splitlines() if r.startswith(f"| {' | '.join(labels)} |"))
        means = part.groupby(["unspliced", "times"])["pearson"].mean()
        assert f"| {', '.join(f'{m:.2f}' for m in means)} |" in row


def test_states_stand_beside_shuffled_targets_and_chance(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "perturbation" / "states.csv")
    text = (made / "include" / "states.md").read_text(encoding="utf-8")
    for (kind, fit), part in rows.groupby(["kind", "fit"]):
        assert f"| {kind} | {fit} | {part['sign'].mean():.2f} | {part['pearson'].mean():.2f} |" in text
    # what the page says of sizes
    knockouts = rows[(rows["fit"] == "prior") & (rows["kind"] == "knockout")]
    assert (knockouts["pearson"] < 0.1).sum() == 2 and len(knockouts) == 4
    assert rows["inside"].max() < 0.6
    means = rows.groupby("fit")[["sign", "goal"]].mean()
    assert (means.loc["prior"] > means.loc["targets shuffled"] + 0.2).all()
    assert means.loc["prior", "goal"] > rows[["goal_nearest", "goal_chance"]].mean().max() + 0.1


def test_the_time_of_a_screen_is_the_median_of_its_runs_and_below_a_minute(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "perturbation" / "screen_time.csv")
    text = (made / "include" / "screen_time.md").read_text(encoding="utf-8")
    screens = rows[rows["what"] == "screen"]
    assert set(screens["n"]) == {300} and len(screens) == 3
    assert f"took {screens['wall_seconds'].median():.0f} s" in text
    assert screens["wall_seconds"].median() < 60


def test_the_page_says_how_much_hangs_on_the_embedding(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "perturbation" / "embeddings.csv")
    text = (made / "include" / "embeddings.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) == rows.groupby(["genes", "kind"]).ngroups + 2
    for (genes, kind), part in rows.groupby(["genes", "kind"]):
        (row,) = (r for r in text.splitlines() if r.startswith(f"| {genes} | ") and f"| {kind} |" in r)
        apart = part[~part[["embedding", "beside"]].isin(["X_pca"]).any(axis=1) & part["beside"].notna()]
        assert f"| {apart['gap'].mean():.2f} |" in row
        assert row.endswith(f"| {apart['inside'].mean():.2f} |")


def test_the_page_has_the_coverage_of_every_screen(made):
    rows = pd.read_csv(DOCS.parent / "benchmarks" / "perturbation" / "conformal.csv")
    text = (made / "include" / "conformal.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) == rows["seed"].nunique() + 2
    for _, part in rows.groupby("seed"):
        (row,) = (r for r in text.splitlines() if r.startswith(f"| {len(part)} |"))
        assert f"| {part['coverage_changed'].mean():.0%} |".replace("%", " %") in row
        assert f"| {part['mae'].mean():.3f} |" in row


def test_the_comparison_says_where_others_are_better(made):
    source = (DOCS.parent / "benchmarks" / "integration.md").read_text(encoding="utf-8")
    page = (made / "include" / "peers.md").read_text(encoding="utf-8")
    for section in source.split("\n## ")[1:]:
        rows = [[c.strip() for c in r.strip("| ").split("|")] for r in section.splitlines() if r[:2] == "| "]
        if not rows or not section.startswith(("Embedding", "Protein", "Peaks")):
            continue
        told = page.split("## " + section.splitlines()[0])[1].split("\n## ")[0]
        behind = re.search("Worse than the best other method by more than noise: (.*)", told)[1]
        noise = 0.03 if section.startswith("Embedding") else 0.02
        for i, name in enumerate(rows[0][1:], 1):
            *others, ours = (float(r[i].split()[0]) for r in rows[1:] if r[i][0].isdigit() or r[i][0] == "-")
            assert (f"{name} (" in behind) == (ours - max(others) <= -noise)
            assert f"| **{max(*others, ours):.3f}" in told


def test_the_picture_of_the_layers_is_that_of_the_imports(drawing):
    rows = drawing.layers(DOCS.parent / "pyproject.toml")
    order = {name: i for i, row in enumerate(rows) for name in row}
    packages = {p.stem for p in (DOCS.parent / "src" / "mmopt").iterdir() if p.stem not in ("__init__", "py")}
    packages = {p for p in packages if not p.startswith("__pycache__")}
    assert set(order) == packages
    found = drawing.imports(list(order))
    assert ("tl", "models") in found
    assert ("models", "optim") in found
    assert all(order[a] < order[b] for a, b in found)

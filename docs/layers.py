"""The picture of the layers: boxes from the import contract in ``pyproject.toml``, arrows from the imports there are."""

import textwrap
import tomllib
from pathlib import Path

import grimp
import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = "mmopt"
FILLS = ("#E8EEF4", "#D5E4F0", "#BFD8EA", "#D9EBDD", "#F1E8D2", "#EDEDED")
WHAT = {
    "__main__": "the command line and its report",
    "pp": "MuData in",
    "tl": "MuData in, slots out",
    "pl": "slots in, plots out",
    "models": "the scvi-tools model",
    "optim": "torch",
    "curvature": "torch",
    "grn": "numpy",
    "dynamics": "torch",
    "metrics": "numpy",
    "datasets": "numpy",
}


def layers(pyproject: Path) -> list[list[str]]:
    """Return the packages of each layer, from the top."""
    contracts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (found,) = [c["layers"] for c in contracts if c["type"] == "layers"]
    return [[name.strip().removeprefix(f"{ROOT}.") for name in layer.split("|")] for layer in found]


def imports(names: list[str]) -> dict[tuple[str, str], int]:
    """Return how often one package imports another, for every pair that does."""
    graph = grimp.build_graph(ROOT)
    counted: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            pair = tuple((m.split(".") + [""])[1] for m in (module, other))
            if pair[0] != pair[1] and set(pair) <= set(names):
                counted[pair] = counted.get(pair, 0) + 1
    return counted


def draw(pyproject: Path, path: Path) -> None:
    """Draw the layers, with an arrow wherever there is an import; small modules with an underscore are one box."""
    mpl.use("agg")
    every = layers(pyproject)
    rows = [r for r in every if r[0] in WHAT]
    small = sorted(n for r in every[every.index(rows[-1]) + 1 :] for n in r)
    fig, ax = plt.subplots(figsize=(7, 0.95 * (len(rows) + 1)), layout="constrained")
    places = {}
    for i, row in enumerate([*rows, ["small"]]):
        width = min(10 / len(row) - 0.35, 2.6) if row != ["small"] else 9.6
        for j, name in enumerate(row):
            x, y = 10 * (j + 0.5) / len(row), -1.5 * i
            text = textwrap.fill(", ".join(small), 84) if name == "small" else name
            what = "shared by all: checks, slot names, versions" if name == "small" else WHAT.get(name, "")
            ax.add_patch(
                FancyBboxPatch(
                    (x - width / 2, y - 0.34),
                    *(width, 0.68),
                    boxstyle="round,pad=0.02,rounding_size=0.12",
                    facecolor=FILLS[min(i, len(FILLS) - 1)],
                    edgecolor="0.45",
                    linewidth=0.7,
                    zorder=3,
                )
            )
            size = 8 if name != "small" else 7
            ax.text(x, y + 0.1, text, ha="center", va="center", fontsize=size, weight="bold", zorder=4)
            ax.text(
                x,
                y - (0.22 if name == "small" else 0.16),
                what,
                ha="center",
                va="center",
                fontsize=6.5,
                color="0.3",
                zorder=4,
            )
            places[name] = (x, y)
    for (a, b), n in imports([name for row in rows for name in row]).items():
        (x0, y0), (x1, y1) = places[a], places[b]
        arrow = {"arrowstyle": "-|>", "color": "0.35", "linewidth": 0.5 + 0.12 * min(n, 8), "shrinkA": 0}
        bend = 0.0 if abs(y0 - y1) < 2 else 0.06
        arrow |= {"shrinkB": 2, "connectionstyle": f"arc3,rad={bend}", "mutation_scale": 7}
        ax.annotate("", (x1, y1 + 0.36), (x0, y0 - 0.36), arrowprops=arrow, zorder=1 if bend else 2)
    ax.set(xlim=(0, 10), ylim=(-1.5 * len(rows) - 0.5, 0.5))
    ax.axis("off")
    fig.savefig(path)
    plt.close(fig)

"""The tables of ``benchmarks/integration.md`` with the best of each column marked, and what they say counted out."""

import re
from pathlib import Path

OURS = "mmopt"
NAMES = {
    "pca_rna": "PCA of the RNA",
    "pca_concat": "PCA, side by side",
    "wnn": "WNN",
    "totalvi": "TOTALVI",
    "mofa": "MOFA+",
    "scmidas": "scmidas",
    "multivi": "MULTIVI",
    "mean": "mean",
    "depth": "depth alone",
    "ridge": "ridge regression",
    "knn": "nearest neighbours",
    f"{OURS}, one network": "mmopt, one network",
    OURS: "**mmopt**",
}
# differences below these are noise on sets of this size
NOISE = {"Embedding": 0.03, "Protein": 0.02, "Peaks": 0.02}


def tables(path: Path) -> dict[str, tuple[list[str], dict[str, list[str]]]]:
    """Return title -> (data sets, method -> cells)."""
    found = {}
    for section in path.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, *lines = section.splitlines()
        rows = [[c.strip() for c in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
        if rows:
            found[title] = (rows[0][1:], {row[0]: row[1:] for row in rows[2:]})
    return found


def value(cell: str) -> float | None:
    number = re.match(r"-?\d+(\.\d+)?", cell)
    return float(number[0]) if number else None


def verdict(sets: list[str], rows: dict[str, list[str]], noise: float) -> str:
    """Say on which sets ours leads, ties or trails the best other method, in words."""
    groups: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    for i, name in enumerate(sets):
        others = {m: v for m, r in rows.items() if not m.startswith(OURS) and (v := value(r[i])) is not None}
        mine = value(rows[OURS][i])
        if mine is None or not others:
            continue
        best = max(others, key=others.get)
        gap = mine - others[best]
        where = "level" if abs(gap) < noise else "ahead" if gap > 0 else "behind"
        groups[where].append(f"{name} ({gap:+.3f} to {NAMES.get(best, best)})")
    words = {
        "ahead": "Better than every other method by more than noise",
        "level": "Within noise of the best other method",
        "behind": "Worse than the best other method by more than noise",
    }
    return "\n".join(f"- {words[k]}: {', '.join(v) if v else 'nowhere'}." for k, v in groups.items()) + "\n"


def page(path: Path) -> str:
    """Markdown of all tables, each with its verdict."""
    head = path.read_text(encoding="utf-8").split("\n## ")[0].split("\n", 1)[1].strip()
    head = head.replace("Made by integration.py, which says what is scored.", "")
    parts = [head.replace("and their number", "of which the last column has the number"), ""]
    for title, (sets, rows) in tables(path).items():
        noise = next((n for start, n in NOISE.items() if title.startswith(start)), None)
        best = [max(v for r in rows.values() if (v := value(r[i])) is not None) for i in range(len(sets))]
        parts += [
            f"## {title}\n",
            "| method | " + " | ".join(sets) + " | seeds |",
            "|---" + "|--:" * (len(sets) + 1) + "|",
        ]
        for method, cells in rows.items():
            seeds = sorted({n for c in cells for n in re.findall(r"\((\d+)\)$", c)}, key=int)
            cells = [re.sub(r" \(\d+\)$", "", c) for c in cells]
            shown = [f"**{c}**" if noise and value(c) == b else c for c, b in zip(cells, best, strict=True)]
            parts.append(f"| {NAMES.get(method, method)} | " + " | ".join([*shown, "–".join(seeds)]) + " |")
        parts += ["", verdict(sets, rows, noise) if noise else ""]
    return "\n".join(parts)

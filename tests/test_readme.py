import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mmopt.models import fitting

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_run_as_printed(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    monkeypatch.setattr(fitting, "default_epochs", lambda *_: 10)  # of 67; nothing else is changed
    names = {}
    exec(code, names)
    mdata = names["mdata"]
    assert mdata.obsm["X_umap"].shape == (mdata.n_obs, 2)
    assert mdata.obs["leiden"].nunique() > 2
    protein = names["model"].get_normalized("prot", given="rna")
    assert np.isfinite(protein).all()
    assert plt.get_fignums()
    plt.close("all")


def test_the_two_commands_are_one_line_each():
    commands = [block.strip() for block in re.findall(r"```bash\n(.*?)```", README, re.S)]
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    assert commands[0].endswith("-m mmopt --out results")
    assert commands[1].endswith("-m pytest -n auto --dist loadfile")  # every core, each file in one process


def test_the_scores_are_those_of_the_benchmark():
    source = (ROOT / "benchmarks" / "integration.md").read_text(encoding="utf-8")
    told = [
        [c.strip() for c in r.strip().strip("|").split("|")] for r in README.splitlines() if r.startswith("|")
    ]
    (head,) = [i for i, row in enumerate(told) if "teaseq" in row]
    for title, ours, best in (("Embedding: overall", 2, 3), ("Protein from RNA", 4, 5)):
        (section,) = [s for s in source.split("\n## ") if s.startswith(title)]
        rows = [[c.strip() for c in r.strip("| ").split("|")] for r in section.splitlines() if r[:2] == "| "]
        scores = {r[0]: dict(zip(rows[0][1:], r[1:], strict=True)) for r in rows[1:]}
        for i, data in enumerate(told[head][1:], 1):
            known = {
                name: score[data].split()[0]
                for name, score in scores.items()
                if score.get(data, "–") != "–" and name != "mmopt, one network"
            }
            if not known:
                assert told[head + ours][i] == told[head + best][i] == "–"
                continue
            assert told[head + ours][i] == known.pop("mmopt")
            name, score = max(known.items(), key=lambda item: float(item[1]))
            assert told[head + best][i] == f"{score} ({name})"

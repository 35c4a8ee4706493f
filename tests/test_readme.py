import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_run_as_printed(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
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

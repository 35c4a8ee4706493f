"""Known directions in real cells; `benchmarks/perturbation/real.py` has them all, with what is not reached."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "perturbation" / "real.py"


@pytest.mark.filterwarnings("ignore")
def test_directions_in_mouse_blood(real_data, monkeypatch):
    spec = importlib.util.spec_from_file_location("real_directions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DATA", real_data)
    table = module.paul().set_index("knockout")
    assert table["agrees"].astype(bool).all()
    assert (table.loc[["Gata1", "Spi1"], "permutation_p"] < 0.05).all()

"""The scripts behind the published timings still run; what they would measure at this size means nothing."""

import importlib
import logging
import sys
import warnings
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script as Python would if it were run; what scripts change for all is set back."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before, loaded = logging.root.manager.disable, set(sys.modules)
    with warnings.catch_warnings():
        yield importlib.import_module
    logging.disable(before)
    for name in {"speed", "gpu", "scale", "machine"} & (set(sys.modules) - loaded):
        del sys.modules[name]


def test_gpu_without_one(script, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--out", str(tmp_path)])
    script("gpu").main()
    text = (tmp_path / "gpu.md").read_text()
    assert "no figures" in text
    assert "| TriVI |" in text
    assert "| MULTIVI |" in text


def test_a_file_written_piece_by_piece_trains_from_disk(script, monkeypatch, tmp_path):
    scale = script("scale")
    monkeypatch.setattr(scale, "PIECE", 70)
    scale.write(tmp_path / "x.h5mu", 300, {"rna": (50, 5), "atac": (90, 9)})
    for backed in (True, False):
        found = scale.measure(tmp_path / "x.h5mu", backed, 2)
        assert found["per step"] > 0
        assert found["peak"] > 0

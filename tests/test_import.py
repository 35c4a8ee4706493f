import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mmopt

ROOT = Path(__file__).parents[1]


def test_import_is_cheap_and_loads_nothing_heavy():
    heavy = (
        "torch",
        "scvi",
        "scanpy",
        "muon",
        "mudata",
        "anndata",
        "sklearn",
        "matplotlib",
        "lightning",
        "pandas",
    )
    script = f"import sys, mmopt; print([m for m in {heavy} if m in sys.modules])"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.stdout.strip() == "[]"
    assert min(seconds) < 0.5


def test_every_part_can_be_reached():
    assert {"curvature", "datasets", "grn", "metrics", "models", "optim", "pl", "pp", "tl"} <= set(dir(mmopt))
    assert mmopt.__version__


@pytest.mark.parametrize("package", ["datasets", "grn", "metrics", "optim", "pl", "pp", "tl"])
def test_public_names_are_what_the_package_lists(package):
    module = importlib.import_module(f"mmopt.{package}")
    for name in module.__all__:
        member = getattr(module, name)
        assert callable(member)
        assert member.__doc__
    assert module.__all__ == sorted(module.__all__)


def test_imports_run_downwards_only():
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr

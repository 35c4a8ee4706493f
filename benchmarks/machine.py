"""What a result was measured on."""

import datetime
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd


def processor() -> str:
    """Name of the processor."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def machine(*packages: str) -> str:
    """Processor, Python and versions of the packages."""
    found = "".join(f", {p} {version(p)}" for p in packages)
    return f"{processor()}, one thread, other work on the machine; Python {platform.python_version()}{found}"


def append(path: Path, row: dict[str, Any], *packages: str) -> None:
    """Add a row to a CSV file, with the day and the machine."""
    row = row | {"date": str(datetime.date.today()), "machine": machine(*packages)}
    pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.6g")

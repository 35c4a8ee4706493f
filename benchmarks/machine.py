"""What a result was measured on, for its first line."""

import platform
from importlib.metadata import version
from pathlib import Path


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

"""Start the command line and end it in the middle of training; what :mod:`test_main` starts, once for all signals.

python interrupted_runs.py FOLDER SIGNAL [SIGNAL ...] prints, for each, how the run ended and what it left.

Most of a run's time up to its training are imports, so they happen here, and every run is a fork that begins where
``python -m mmopt`` does.
"""

import json
import os
import runpy
import select
import signal
import sys
import time
from pathlib import Path

from mmopt import datasets
from mmopt.models import TriVI
from mmopt.pp import prepare
from mmopt.tl import compare_optimizers, integrate

LATEST = 300  # seconds
LOADED = (
    TriVI,
    compare_optimizers,
    datasets.toy,
    integrate,
    prepare,
)  # named here, since they load when they are asked for


def run(out: Path, said: int) -> None:
    """Be ``python -m mmopt``, in this process."""
    os.dup2(said, 2)
    # a shell that starts the suite in the background has Ctrl-C ignored, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["mmopt", "--out", str(out), "--epochs", "500", "--accelerator", "cpu"]
    try:
        runpy.run_module("mmopt", run_name="__main__", alter_sys=True)
        os._exit(0)
    except SystemExit as end:
        os._exit(end.code or 0)


def until_training(said: int) -> str:
    """Read what the run says until it begins to train, and leave it some time in that."""
    text, end = "", time.monotonic() + LATEST
    while time.monotonic() < end and "comparing" not in text:
        if select.select([said], [], [], 1)[0]:
            piece = os.read(said, 4096).decode(errors="replace")
            if not piece:
                break
            text += piece
    time.sleep(3)
    return text


def ended(process: int, said: int, seconds: float) -> int | None:
    """Return the exit code as :mod:`subprocess` has it, ``None`` if the process goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if select.select([said], [], [], 0.05)[0]:  # a full pipe would hold the run
            os.read(said, 4096)
    return None


def interrupted(out: Path, stop: int) -> dict:
    """Start one run and end it."""
    out.mkdir()
    here, there = os.pipe()
    process = os.fork()
    if not process:
        os.close(here)
        run(out, there)
    os.close(there)
    text, code = until_training(here), None
    for _ in range(3):  # Python loses a Ctrl-C that comes in a destructor
        if code is None:
            os.kill(process, stop)
            code = ended(process, here, 20)
    if code is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    os.close(here)
    return {"code": code, "left": sorted(p.name for p in out.iterdir()), "trained": "comparing" in text}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = {name: interrupted(folder / name, signal.Signals[name]) for name in sys.argv[2:]}
    print(json.dumps(found))

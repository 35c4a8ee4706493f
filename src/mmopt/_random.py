"""Seeds that do not leak: what a call draws depends on its ``random_state`` alone and nothing else is disturbed."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import numpy as np


def checked_seed(random_state: int) -> int:
    """Return a seed as an integer of Python, whose generator refuses those of NumPy."""
    if not (isinstance(random_state, Integral) and 0 <= random_state < 2**63):
        raise ValueError(f"random_state must be an integer of at least 0; got {random_state!r}")
    return int(random_state)


@contextmanager
def isolated(random_state: int) -> Iterator[None]:
    """Seed Python's, NumPy's and (where loaded) torch's global generators inside the block, restore them after it."""
    seed = checked_seed(random_state)
    python, numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    devices = (
        list(range(torch.cuda.device_count())) if torch is not None and torch.cuda.is_available() else []
    )
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if torch is None:
            yield
        else:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def derived(seed: int, *path: int) -> int:
    """Return an independent seed for a sub-task, e.g. ``derived(random_state, epoch)``."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint32)[0])

"""As many threads as an operation can use."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

# values worked on at a time; below, threads wait for each other longer than they work
WORTH_SHARING = 1_000_000


@contextmanager
def sensible_threads(n_values: int) -> Iterator[None]:
    """Use one thread inside the block if operations see few values at a time, else as many as the libraries are set to use.

    That holds for torch and for NumPy's and SciPy's linear algebra. On a busy machine two threads that wait for each other in
    every small operation were seen to take several times longer than one. Also a decorator.
    """
    if n_values >= WORTH_SHARING:
        yield
        return
    torch = sys.modules.get("torch")  # what does without it must not load it
    before = torch.get_num_threads() if torch else 0
    with threadpool_limits(1):
        try:
            if torch:  # its own linear algebra is out of threadpoolctl's sight
                torch.set_num_threads(1)
            yield
        finally:
            if torch:
                torch.set_num_threads(before)

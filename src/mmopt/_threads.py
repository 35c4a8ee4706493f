"""As many threads as an operation can use."""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

# values worked on at a time; below, threads wait for each other longer than they work
WORTH_SHARING = 1_000_000


@contextmanager
def sensible_threads(n_values: int) -> Iterator[None]:
    """Use one thread inside the block if operations see few values at a time, else as many as the libraries are set to use.

    That holds for torch and for NumPy's and SciPy's linear algebra. On a busy machine two threads that wait for each other in
    every small operation were seen to take ten times longer than one. Also a decorator: warnings then come from one frame
    further out.
    """
    with threadpool_limits(1 if n_values < WORTH_SHARING else None):
        yield

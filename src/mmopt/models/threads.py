"""As many threads as a step can use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORTH_SHARING = 1_000_000  # values in a minibatch; below, threads wait for each other longer than they work


@contextmanager
def sensible_threads(n_values: int) -> Iterator[None]:
    """Use one thread inside the block if a minibatch holds few values, else as many as torch is set to use.

    Other libraries raise torch's number of threads behind its back (numba does, on the first neighbour graph); on a
    busy machine two threads that wait for each other in every small operation were seen to take ten times longer
    than one.
    """
    before = torch.get_num_threads()
    try:
        if n_values < WORTH_SHARING:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)

"""One progress bar for everything that takes longer than a few seconds."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T], description: str, total: int | None = None, show: bool = True
) -> Iterator[T]:
    """Iterate over ``items`` with a bar on standard error; ``show=False`` leaves it out."""
    return iter(tqdm(items, desc=description, total=total, disable=not show, leave=False))

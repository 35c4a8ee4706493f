"""What differs between the supported stacks, hidden in one place.

mudata 0.3 and 0.4, anndata 0.12 and 0.13, matplotlib 3.10 and 3.11.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.artist import Artist
    from mudata import MuData

RECORDED = ("mmopt", "torch", "scvi-tools", "scanpy", "mudata", "anndata", "numpy", "pandas")


@contextmanager
def override_pull_on_update() -> Iterator[None]:
    """Keep MuData from copying modality columns into ``mdata.obs`` when it is built, updated or written."""
    import mudata

    if hasattr(mudata, "settings"):
        with mudata.settings.override(pull_on_update=False):
            yield
        return
    from mudata._core.config import OPTIONS

    # not `with set_options(...)`: on entry that logs through the root logger, which configures it
    before = OPTIONS["pull_on_update"]
    mudata.set_options(pull_on_update=False)
    try:
        yield
    finally:
        mudata.set_options(pull_on_update=before)


def own_copy(mdata: MuData) -> MuData:
    """Copy data in memory.

    Raises
    ------
    ValueError
        The data are on disk, where a copy would need a file of its own.
    """
    if mdata.isbacked:
        raise ValueError(
            "mdata is backed by a file: read it into memory (`mudata.read_h5mu(path)`) or pass `copy=False`"
        )
    with override_pull_on_update():
        return mdata.copy()


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; anndata 0.13 also iterates over ``None``, which is ``X``."""
    return [name for name in adata.layers if name is not None]


def rasterize(artist: Artist) -> None:
    """Draw as pixels in vector graphics; contours stay vectors before matplotlib 3.11, which cannot rasterize them."""
    if getattr(artist.draw, "_supports_rasterization", False):
        artist.set_rasterized(True)


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, read without importing them; absent ones are left out."""
    found = {}
    for package in RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

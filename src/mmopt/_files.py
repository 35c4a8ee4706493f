"""Files that appear whole or not at all."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".mmopt-partial-"  # what is so named was left by a process that was killed; it can be deleted


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it takes the place of ``target`` when the block ends well.

    On any exception the partial file is removed and ``target`` stays as it was. A process killed inside the block
    leaves ``target`` untouched and a file whose name starts with ``.mmopt-partial-``.

    Raises
    ------
    FileNotFoundError
        The folder of ``target`` does not exist, or the block wrote nothing.
    IsADirectoryError
        ``target`` is a folder.
    """
    target = Path(os.path.realpath(target))  # write through a link, as `open` does
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}; make it first")
    partial = target.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{target.name}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside ``folder`` to write files to; when the block ends well they take their places in ``folder``.

    On an exception in the block all files in ``folder`` stay as they were.
    """
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as partial:
        yield Path(partial)
        for file in sorted(Path(partial).iterdir()):
            with atomic_path(folder / file.name) as path:
                shutil.move(file, path)

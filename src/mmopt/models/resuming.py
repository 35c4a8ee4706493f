"""Whether a checkpoint belongs to the run that is about to start."""

import hashlib
import json
import pickle
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmopt.models.data import Mosaic
from mmopt.models.stored import Counts, StoredRows


def describe(mosaic: Mosaic, held_out: np.ndarray, **settings: Any) -> str:
    """Write down what decides a run: its settings, its data and which of the cells are held out."""
    sha = hashlib.sha256(mosaic.batch.tobytes() + held_out.astype(np.int64).tobytes())
    for m, counts in mosaic.counts.items():
        for array in (mosaic.rows[m], *_fingerprint(counts)):
            sha.update(np.ascontiguousarray(array))
    return json.dumps(settings | {"data": sha.hexdigest()}, sort_keys=True, default=_name)


def _fingerprint(counts: Counts) -> tuple[np.ndarray, ...]:
    """All of a matrix in memory; of one on disk its shape, the length of its rows and some of them."""
    if not isinstance(counts, StoredRows):
        return counts.indptr, counts.indices, counts.data
    some = counts[np.unique(np.linspace(0, len(counts) - 1, 100).astype(int))]
    lengths = np.array([]) if counts.indptr is None else counts.indptr
    return np.array(counts.shape), lengths, some.indptr, some.indices, some.data


def _name(value: Any) -> Any:
    """Name a function or object as another process would, without its address."""
    if isinstance(value, partial):
        return [_name(value.func), value.args, value.keywords]
    return getattr(value, "__qualname__", type(value).__name__)


def resumable(path: Path | None, description: str) -> str | None:
    """Return ``path`` if there is a checkpoint of this run, ``None`` if there is none.

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    ValueError
        The file is damaged, foreign, or of a run with other data or settings.
    """
    if path is None:
        return None
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.absolute().parent}; make it first")
    if not path.exists():
        return None
    try:  # only tensors and plain values are read; anything else raises
        with zipfile.ZipFile(path) as archive:  # torch writes checksums and does not read them
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        found = torch.load(path, map_location="cpu", weights_only=True)["mmopt"]["description"]
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path} is no intact checkpoint of mmopt; delete it to start anew") from error
    if found != description:
        raise ValueError(
            f"{path} is the checkpoint of a run with other data or other settings; give those to go on with it, "
            "or delete it to start anew"
        )
    return str(path)

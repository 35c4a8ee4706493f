"""Whether a checkpoint belongs to the run that is about to start."""

import hashlib
import json
import pickle
import zipfile
import zlib
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from mmopt.models.mosaic import Mosaic
from mmopt.models.stored import Counts, StoredRows

ROUNDING = 1e-4  # of the norm of an array; another training step changes more
Start = dict[str, Any]
_BEGUN: WeakKeyDictionary[nn.Module, tuple[Path, Start, Start]] = WeakKeyDictionary()


def describe(mosaic: Mosaic, held_out: np.ndarray, **settings: Any) -> str:
    """Write down what decides a run: its settings, where it starts, its data and which of the cells are held out."""
    sha = hashlib.sha256(mosaic.batch.tobytes() + held_out.astype(np.int64).tobytes())
    for m, counts in mosaic.counts.items():
        for array in (mosaic.place[m], *_fingerprint(counts)):
            sha.update(np.ascontiguousarray(array))
    return json.dumps(settings | {"data": sha.hexdigest()}, sort_keys=True, default=_name)


def start_of(network: nn.Module, path: Path) -> Start:
    """Return where training starts; where the last run with this file started, if nothing has changed since its end."""
    now = _state(network)
    last, start, end = _BEGUN.get(network, (None, now, now))
    return start if last == path.absolute() and end == now and path.exists() else now


def remember(network: nn.Module, path: Path, start: Start) -> None:
    """Note where a run started that ends now, for the next one of the same network."""
    _BEGUN[network] = path.absolute(), start, _state(network)


@torch.no_grad()
def _state(network: nn.Module) -> Start:
    """Write down what is trained, and the state: two numbers for each array, since another machine rounds differently.

    Depths are left out: they are fitted after training.
    """
    sha, numbers = hashlib.sha256(), {}
    for name, value in network.state_dict().items():
        x = value.detach().cpu().flatten()
        if not x.is_floating_point():
            sha.update(x.numpy().tobytes())
        elif not name.startswith("depths."):
            x = x.double()
            numbers[name] = [float(x.norm()), float(x @ torch.arange(len(x)).double().cos_())]
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return {"trained": trained, "exact": sha.hexdigest(), "state": numbers}


def _same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two descriptions are of one run."""
    (x, rest), (y, others) = (_numbers_apart(description) for description in (found, expected))
    near = x.keys() == y.keys() and all(np.allclose(x[k], y[k], 0, ROUNDING * y[k][0]) for k in x)
    return near and rest == others


def _numbers_apart(description: dict[str, Any]) -> tuple[dict[str, list[float]], dict[str, Any]]:
    start = dict(description.get("start", {}))
    return start.pop("state", {}), description | {"start": start}


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
    name = getattr(value, "__qualname__", type(value).__name__)
    code = getattr(value, "__code__", None)
    if code is None:
        return name
    # what it does: its code, and the numbers and texts in it or that it finds outside
    found = [cell.cell_contents for cell in value.__closure__ or ()]
    found += [value.__globals__.get(n) for n in code.co_names]
    content = _plain([code, value.__defaults__, value.__kwdefaults__, *found])
    return [name, hashlib.sha256(repr(content).encode()).hexdigest()]


def _plain(value: Any) -> Any:
    """Leave out what is neither number nor text nor a collection or code of these."""
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, _plain(value.co_consts)]
    if isinstance(value, dict):
        return [[str(k), _plain(v)] for k, v in value.items()]
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) else type(value).__name__


def resumable(path: Path | None, description: str) -> str | None:
    """Return ``path`` if there is a checkpoint of this run, ``None`` if there is none.

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    ValueError
        The file is damaged, foreign, or of a run with other data, settings or starting weights.
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
        found = json.loads(torch.load(path, map_location="cpu", weights_only=True)["mmopt"]["description"])
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
    if not _same(found, json.loads(description)):
        raise ValueError(
            f"{path} is the checkpoint of a run with other data, other settings or another start (reference model, "
            "protein panels, seed of the weights); give those to go on with it, or delete it to start anew"
        )
    return str(path)

"""Model files: tensors and JSON in the safetensors format, in which nothing can be executed on reading."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmopt._files import atomic_path

FORMAT, FORMAT_VERSION = "mmopt.TriVI", 2
REQUIRED = {"format_version", "arguments", "registry", "split", "history", "steps", "versions"}


def write(path: str | os.PathLike, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write one file, whole or not at all."""
    text = json.dumps({"format_version": FORMAT_VERSION} | header, default=_number)
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {"format": FORMAT, "header": text, "sha256": _digest(contiguous, text)}
    with atomic_path(path) as partial:
        partial.write_bytes(save(contiguous, metadata=metadata))


def read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file written by :func:`write`.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is truncated, of another kind, or has been changed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no model file {path}; `model.save(path)` writes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dictionary
        ours = metadata.get("format") == FORMAT
        header = json.loads(metadata["header"]) if ours else None
        if ours and metadata["sha256"] != _digest(tensors, metadata["header"]):
            raise KeyError("its checksum is wrong")
    except (SafetensorError, ValueError, KeyError, OSError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{path} is no intact model file ({error}); write it again with `model.save(path)`"
        ) from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} was not written by `TriVI.save` and is not read")
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {header.get('format_version')!r}, this version of mmopt reads {FORMAT_VERSION}; "
            "read it with the version that wrote it"
        )
    if missing := REQUIRED - header.keys():
        raise ValueError(f"{path} lacks {sorted(missing)}; it has been changed and is not read")
    return tensors, header


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """Return a checksum over names, types, shapes, values and the header. It finds damage, it is no signature."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()


def _number(value: object) -> object:
    """Let numpy's scalars be written as what they are."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to a model file")

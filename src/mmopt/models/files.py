"""Saving and loading a TriVI."""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from mudata import MuData
from torch import Tensor

from mmopt._compat import versions
from mmopt.models import persistence
from mmopt.models.devices import find_device
from mmopt.models.module import freeze, is_frozen


class Files:
    """``save`` and ``load`` of :class:`mmopt.models.TriVI`, in place of those of scvi-tools, which unpickle."""

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the model to one file in the safetensors format, whole or not at all; the data are not in it.

        Raises
        ------
        FileExistsError
            The file exists and ``overwrite`` is false.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass `overwrite=True` to replace it")
        fields = {
            key: {"state_registry": dict(value["state_registry"])}
            for key, value in self.registry_["field_registries"].items()
        }
        split = {k: _plain(getattr(self, f"{k}_indices_")) for k in ("train", "validation", "test")}
        history = None if self.history_ is None else {k: v[k].tolist() for k, v in self.history_.items()}
        steps = None if self.steps_ is None else {k: self.steps_[k].tolist() for k in self.steps_}
        persistence.write(
            path,
            self.module.state_dict(),
            {
                "arguments": self.arguments_,
                "registry": {"setup_args": self.registry_["setup_args"], "field_registries": fields},
                "split": split,
                "cells": self.cells_,
                "history": history,
                "steps": steps,
                "trained": self.is_trained_,
                "unfrozen": not is_frozen(self.module),
                "versions": versions(),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike, mdata: MuData | None = None, *, accelerator: str = "auto") -> Self:
        """Read a model from a file; nothing in a file is ever executed.

        Parameters
        ----------
        path
            File written by :meth:`save`.
        mdata
            Data to attach, with the features the model was trained on. Can be given later, to any method.
        accelerator
            Where to put the model; the fastest device there is by default.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file; a truncated, foreign or tampered file; data that lack the model's features.
        """
        tensors, header = persistence.read(path)
        try:
            model = cls(registry=_registry(header["registry"]), **header["arguments"])
            _check_arrays(tensors, model.module.state_dict())
            model.module.load_state_dict(tensors)
            model._restore(header)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{path} does not hold together ({error}); it has been changed and is not used"
            ) from error
        model.to_device(find_device(accelerator))
        if mdata is not None:
            model._validate_anndata(mdata)
        return model

    @staticmethod
    def load_registry(path: str | os.PathLike) -> dict[str, Any]:
        """Return the setup kept in a file written by :meth:`save`."""
        return persistence.read(path)[1]["registry"]

    @classmethod
    def convert_legacy_save(cls, *_, **__) -> None:
        """Refuse: there are no older files of this model, and reading those of scvi-tools executes them."""
        raise ValueError("TriVI has no legacy files; write a model with `model.save(path)`")

    def _restore(self, header: dict[str, Any]) -> None:
        self.is_trained_ = bool(header["trained"])
        self.cells_ = header.get("cells")
        if "unfrozen" in header:  # files of before hold no such thing
            freeze(self.module, bool(header["unfrozen"]))
        for k, v in header["split"].items():
            setattr(self, f"{k}_indices_", None if v is None else np.array(v, dtype=int))
        if header["history"] is not None:
            table = _counted(header["history"], "epoch")
            self.history_ = {column: table[[column]] for column in table}
        if header["steps"] is not None:
            self.steps_ = _counted(header["steps"], "step")


def _plain(indices: np.ndarray | None) -> list[int] | None:
    return None if indices is None else np.asarray(indices).tolist()


def _counted(columns: dict[str, list], name: str) -> pd.DataFrame:
    """Return the table with its rows counted, anew for each network."""
    table = pd.DataFrame(columns)
    if "network" in table:
        table.index = pd.Index(table.groupby("network").cumcount())
    return table.rename_axis(name)


def _check_arrays(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse what torch would take: the first of a vector for a scalar, integers for weights, NaN."""
    for name in found.keys() & expected.keys():
        real = found[name].is_floating_point()
        if real != expected[name].is_floating_point() or found[name].is_complex():
            raise ValueError(f"{name} holds {found[name].dtype}")
        if real and not found[name].isfinite().all():
            raise ValueError(f"{name} has values that are NaN or infinite")
        if found[name].shape != expected[name].shape:
            raise ValueError(
                f"{name} has shape {(*found[name].shape,)} instead of {(*expected[name].shape,)}"
            )


def _check_types(found: dict[str, Any], **expected: Any) -> None:
    for key, kind in expected.items():
        if not isinstance(found[key], kind):
            raise TypeError(f"{key} is {found[key]!r}")


def _registry(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the saved setup in the form scvi-tools keeps it."""
    fields = saved["field_registries"]
    text = str | None
    _check_types(
        saved["setup_args"], rna=text | bool, atac=text | bool, prot=text | bool, layer=text, batch_key=text
    )
    for key, field in fields.items():
        state = field["state_registry"]
        names = state["categorical_mapping" if key == "batch" else "features"]
        if key == "batch":
            _check_types(state, original_key=text)
        else:
            _check_types(state, modality=str, layer=text, absent=bool)
        if not all(isinstance(name, str) for name in [*names, *state.get("empty_batches", [])]):
            raise TypeError(f"{key} has names that are no text")
        field |= {"data_registry": {}, "summary_stats": {f"n_{key}": len(names)}}
    return saved | {"model_name": "TriVI", "setup_method_name": "setup_mudata"}

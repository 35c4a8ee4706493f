"""Integration: from a MuData to a trained model and its embedding."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt import _keys
from mmopt._checks import check_mudata
from mmopt._compat import versions
from mmopt.models import TriVI
from mmopt.tl._arguments import check_arguments

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

FEW_CELLS = 3_000


def integrate(
    mdata: MuData,
    *,
    rna: str | bool | None = None,
    atac: str | bool | None = None,
    prot: str | bool | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    use_highly_variable: bool | None = None,
    protein_panels: "str | Mapping[str, Sequence[str]] | None" = "auto",
    n_latent: int = 20,
    n_networks: int | None = None,
    optimizer: "str | Callable[[Iterable[Tensor]], Optimizer]" = "asgdadam",
    lr: float = 1e-3,
    optimizer_kwargs: dict[str, Any] | None = None,
    batch_size: int = 128,
    max_epochs: int | None = None,
    early_stopping: bool = True,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    key_added: str = _keys.EMBEDDING,
    random_state: int = 0,
    progress_bar: bool = True,
    model_kwargs: dict[str, Any] | None = None,
    **train_kwargs,
) -> TriVI:
    """Embed cells by all the modalities they have.

    Trains :class:`mmopt.models.TriVI` and writes its embedding. No cell label is used.

    Parameters
    ----------
    mdata
        Raw counts of one to three of RNA, ATAC and surface protein; cells may lack modalities. May be larger than the
        memory: counts in ``X`` of a file opened with ``mudata.read_h5mu(path, backed=True)`` stay on disk, also where
        ``layers["counts"]``, which is in memory, repeats them.
    rna, atac, prot
        Names of the modalities. Found by their usual names if not given (``rna``/``gex``, ``atac``/``peaks``,
        ``prot``/``protein``/``adt``/``cite``); ``False`` leaves one out.
    layer
        Layer with the raw counts; ``layers["counts"]`` where there is one, else ``X``.
    batch_key
        Column with the batch to correct for, in ``mdata.obs`` or the modalities' ``obs``.
    use_highly_variable
        Use the features marked by :func:`mmopt.pp.prepare`: where there are marks (``None``), always, or never.
    protein_panels
        Which proteins each batch measured. ``"auto"``: not those without a single count in the batch, if other batches
        have them; a mapping from batches to names; ``None`` if all measured all.
    n_latent
        Dimensions of the embedding.
    n_networks
        Networks, fitted one after the other, that share the dimensions out between them; see :class:`mmopt.models.TriVI`.
        If not given: two with fewer than 3,000 cells, where chance in a fit weighs most and a fit costs least, else one.
    optimizer, lr, optimizer_kwargs
        Name of the optimizer (:func:`mmopt.optim.available`) or a function that makes one from parameters, its rate
        to start from and its further arguments.
    batch_size, max_epochs
        Cells per step and epochs. By default 30 epochs, but at least 600 steps and not many more than 20,000.
    early_stopping
        Stop when held-out cells (a tenth) no longer gain, and keep the best parameters.
    accelerator, devices
        As in Lightning; the fastest device there is by default.
    key_added
        Key of the embedding.
    random_state
        Seed. The same seed on the CPU of the same machine gives the same numbers.
    progress_bar
        Show one.
    model_kwargs, **train_kwargs
        Further arguments of :class:`mmopt.models.TriVI` and of its ``train``: ``checkpoint="run.ckpt"`` makes an
        interrupted call go on where it was.

    Returns
    -------
    The trained model. Sets, for ``key_added="X_mmopt"``:

    ``mdata.obsm["X_mmopt"]``
        Cells × ``n_latent``, posterior means.
    ``mdata.obs["mmopt_weight_<modality>"]``
        Share of the modality in the precision of the cell's posterior; 0 where absent, the shares sum to 1.
    ``mdata.uns["mmopt"]``
        ``params`` (arguments that were ``None`` as ``""``, panels as JSON), ``history`` (per epoch; training and held-out, per modality), ``steps`` (loss and learning
        rate per step, warm-up included) and ``versions``. Of several networks one below the other, with a column ``network``;
        ``n_epochs`` in ``params`` is that of the network that was trained longest.

    Raises
    ------
    KeyError, TypeError, ValueError
        Data or arguments that cannot be used; the message says what to change.

    Examples
    --------
    >>> mdata = mm.datasets.toy()
    >>> model = mm.tl.integrate(mdata, batch_key="donor")
    >>> sc.pp.neighbors(mdata, use_rep="X_mmopt")
    """
    check_mudata(mdata)
    _check_key(mdata, key_added)
    check_arguments(integrate, train_kwargs, model_kwargs)
    TriVI.setup_mudata(
        mdata,
        rna=rna,
        atac=atac,
        prot=prot,
        layer=layer,
        batch_key=batch_key,
        use_highly_variable=use_highly_variable,
        protein_panels=protein_panels,
    )
    if n_networks is None:
        n_networks = min(2, n_latent) if mdata.n_obs < FEW_CELLS else 1
    model = TriVI(
        mdata, n_latent=n_latent, n_networks=n_networks, random_state=random_state, **(model_kwargs or {})
    )
    model.train(
        max_epochs,
        optimizer=optimizer,
        lr=lr,
        optimizer_kwargs=optimizer_kwargs,
        batch_size=batch_size,
        early_stopping=early_stopping,
        accelerator=accelerator,
        devices=devices,
        random_state=random_state,
        progress_bar=progress_bar,
        **train_kwargs,
    )
    mdata.obsm[key_added] = model.get_latent_representation()
    # also of modalities that only an earlier call used
    weights = [_keys.weight_column(m, key_added) for m in _keys.MODALITIES]
    mdata.obs = mdata.obs.drop(columns=weights, errors="ignore")
    for modality, share in model.get_modality_weights().items():
        mdata.obs[_keys.weight_column(modality, key_added)] = share.to_numpy()
    fields = model.registry["field_registries"]
    params = {
        "modalities": {m: fields[m]["state_registry"]["modality"] for m in model.modalities},
        "n_features": {m: len(fields[m]["state_registry"]["features"]) for m in model.modalities},
        "layer": layer or "",
        "batch_key": batch_key or "",
        "use_highly_variable": _plain(use_highly_variable),
        "protein_panels": _plain(model.registry["setup_args"]["protein_panels"]),
        "n_latent": n_latent,
        "n_networks": n_networks,
        "optimizer": optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "custom"),
        "lr": lr,
        **{f"optimizer_{k}": _plain(v) for k, v in model.optimizer_settings_.items()},
        **{f"model_{k}": _plain(v) for k, v in (model_kwargs or {}).items()},
        **{
            k: _plain(train_kwargs[k]) for k in ("train_size", "early_stopping_patience") if k in train_kwargs
        },
        "batch_size": batch_size,
        "max_epochs": _plain(max_epochs),
        "early_stopping": early_stopping,
        "n_epochs": 1 + int(model.history["train_loss"].index.max()),
        "n_train": len(model.train_indices),
        "n_validation": len(model.validation_indices),
        "random_state": random_state,
    }
    if train_kwargs.get("held_out") is not None:
        params["held_out"] = np.asarray(model.validation_indices)
    mdata.uns[_keys.fit_slot(key_added)] = {
        "params": params,
        "history": pd.concat(model.history.values(), axis=1).reset_index(),
        "steps": model.steps_.reset_index(),
        "versions": versions(),
    }
    return model


def _plain(value: Any) -> Any:
    """Return an argument as a file holds it: nothing as ``""``, a mapping, whose keys may be any text, as JSON."""
    if isinstance(value, Mapping):
        return json.dumps(value, default=list)
    return "" if value is None else list(value) if isinstance(value, tuple) else value


def _check_key(mdata: MuData, key_added: str) -> None:
    """Refuse a key under which there is something that no fit has written."""
    if not isinstance(key_added, str) or not _keys.fit_slot(key_added):
        raise ValueError(f"key_added={key_added!r}: a name is needed, such as 'X_mmopt_2'")
    slot = _keys.fit_slot(key_added)
    _keys.refuse_slot_of_others(slot, _keys.fit_slot())
    if key_added in mdata.mod:
        raise ValueError(
            f"key_added={key_added!r} would overwrite mdata.obsm[{key_added!r}], which says which cells this modality has; "
            f"take another name, such as 'X_{key_added}'"
        )
    there = mdata.uns.get(slot)
    a_fit = isinstance(there, Mapping) and {"history", "steps"} <= there.keys()
    if there is not None and not a_fit and slot != _keys.fit_slot():
        raise ValueError(
            f"key_added={key_added!r} would overwrite mdata.uns[{slot!r}], which is no fit; take another name, such as "
            f"'{_keys.EMBEDDING}_{slot}'"
        )

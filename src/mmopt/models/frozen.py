"""The held-out loss as a plain function of the parameters: fixed cells, fixed noise, no dropout."""

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from mudata import MuData
from torch import Tensor
from torch.func import functional_call

from mmopt._cells import digest
from mmopt._keys import MODALITIES
from mmopt._threads import sensible_threads
from mmopt.models.trained import check_model
from mmopt.models.trivi import TriVI

Loss = Callable[[dict[str, Tensor]], dict[str, Tensor]]

# parameters of two dimensions whose rows are no filters: their columns are, or they are tables of biases
_FILTER_AXES = {"encoders.atac.weight": 1}
_FILTER_AXES |= {f"decoders.{m}.body.0.added": 1 for m in MODALITIES}
_FILTER_AXES |= dict.fromkeys(
    f"decoders.prot.{name}" for name in ("log_background", "log_theta", "added_background", "added_theta")
)


def filter_axes(names: Iterable[str]) -> dict[str, int | None]:
    """Along which axis the filters of parameters are counted, where that is not the first; ``None``: they have none."""
    return {name: axis for name in names for own, axis in _FILTER_AXES.items() if name.endswith(own)}


def frozen_loss(
    model: TriVI,
    mdata: MuData | None = None,
    *,
    indices: Sequence[int] | None = None,
    n_cells: int = 1024,
    random_state: int = 0,
) -> tuple[dict[str, Tensor], Loss]:
    """Return the fitted parameters and a deterministic, twice differentiable function from parameters to losses.

    Of a query these are the parameters of its new batches, which are all that was fitted. Without common noise, slices of
    a variational loss are jagged and its finite differences meaningless.

    Parameters
    ----------
    model
        Trained model; it is copied and left as it is.
    mdata
        Data; the model's own if not given.
    indices, n_cells
        Cells to use, or how many to draw: from the held-out cells first, then from all.
    random_state
        Seed of the draw of cells and of the noise.

    Returns
    -------
    Named parameters that were trained (all, where the model has none to train), and a function to ``{"loss": negative
    ELBO per cell, "<modality>": its negative log-likelihood per cell, "kl": …}`` of 0-d tensors; the parts sum to ``"loss"``.
    """
    mdata = model.adata if mdata is None else mdata
    if mdata is None:
        raise ValueError("the model has no data; give it some: `TriVI.load(path, mdata)`, or `mdata` here")
    if indices is None:
        indices, _ = draw_cells(model, mdata, n_cells, random_state)
    indices = np.asarray(indices)
    indices = np.flatnonzero(indices) if indices.dtype == bool else indices
    module = copy.deepcopy(model.module).eval().requires_grad_(True)
    device = next(module.parameters()).device
    generator = torch.Generator().manual_seed(operator.index(random_state))
    batches = []
    for tensors in model._batches(mdata, indices, 512):
        moved = torch.utils._pytree.tree_map(lambda t: t.to(device), tensors)
        noise = torch.randn(len(tensors["batch"]), module.n_latent, generator=generator).to(device)
        batches.append((moved, noise))

    def loss(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for tensors, noise in batches:
            *_, out = functional_call(module, parameters, (tensors,), {"inference_kwargs": {"noise": noise}})
            for name, value in {**out.reconstruction_loss, **out.kl_local}.items():
                key = name.removeprefix("nll_")
                share = value.sum() / len(indices)
                sums[key] = sums[key] + share if key in sums else share
        return {"loss": sum(sums.values(), torch.zeros(()))} | sums

    named = dict(model.module.named_parameters())
    trained = {name: p for name, p in named.items() if p.requires_grad} or named
    return {name: p.detach().clone() for name, p in trained.items()}, loss


def check_order(mdata: MuData, model: TriVI) -> None:
    """Refuse anything but data and a trained model, in this order."""
    if not (isinstance(mdata, MuData) and isinstance(model, TriVI)):
        raise TypeError(
            f"a MuData and a trained TriVI are needed, in this order: `(mdata, model)`, not {type(mdata).__name__} and "
            f"{type(model).__name__}"
        )
    check_model(model)


def draw_cells(model: TriVI, mdata: MuData, n_cells: int, random_state: int) -> tuple[np.ndarray, int]:
    """Draw cells, held-out ones first; gives their positions and how many of them were held out.

    None is known to be where the cells are not those of training, in their order.
    """
    rng = np.random.default_rng(random_state)
    pool, held_out = rng.permutation(mdata.n_obs), model.validation_indices
    same = model.cells_ == digest(mdata.obs_names)
    if held_out is not None and model.cells_ is None:  # files of before know only how many cells there were
        same = len(held_out) + len(model.train_indices) == mdata.n_obs
    if held_out is None or not same:
        return np.sort(pool[:n_cells]), 0
    pool = np.concatenate([rng.permutation(held_out), pool[~np.isin(pool, held_out)]])
    return np.sort(pool[:n_cells]), min(len(held_out), n_cells)


def threads_for(model: TriVI, n_cells: int) -> AbstractContextManager[None]:
    """As many threads as passes over ``n_cells`` cells can use."""
    return sensible_threads(n_cells * model._n_values)

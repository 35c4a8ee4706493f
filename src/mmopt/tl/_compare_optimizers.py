"""The same model trained by several optimizers, on equal terms."""

import operator
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt import _checks, _keys, optim
from mmopt._compat import versions
from mmopt._progress import progress
from mmopt._random import derived
from mmopt.models import NonFiniteLossError, TriVI
from mmopt.models.clock import Clock
from mmopt.models.data import held_out_cells
from mmopt.models.mosaic import read_mosaic
from mmopt.optim.registry import canonical
from mmopt.tl._held_out import baseline_scores, held_out_scores
from mmopt.tl._optimizer_summary import REFERENCE, summarise, with_target

DEFAULT = ("adam", "amsgrad", "padam", "sgd", "asgdadam", "asgdamsgrad")
LR_GRID = (1e-4, 1e-3, 1e-2)
IMPLEMENTATIONS = ("fused", "foreach")  # the first that an optimizer has
OWN = {"early_stopping", "held_out", "lr", "optimizer", "random_state"}  # arguments of the training
LR_SCALE = {"prodigy": 1000.0}  # its rate multiplies an estimate of its own, and is usually 1


def compare_optimizers(
    mdata: MuData,
    optimizers: Sequence[str] = DEFAULT,
    *,
    lr_grid: Sequence[float] | Mapping[str, Sequence[float]] = LR_GRID,
    seeds: Sequence[int] = (0, 1, 2),
    reference: str = REFERENCE,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    optimizer_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    label_key: str | None = None,
    rna: str | bool | None = None,
    atac: str | bool | None = None,
    prot: str | bool | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    use_highly_variable: bool | None = None,
    max_epochs: int = 50,
    batch_size: int = 128,
    train_size: float = 0.8,
    accelerator: str = "auto",
    key_added: str = _keys.OPTIMIZER_COMPARISON,
    progress_bar: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    **train_kwargs,
) -> pd.DataFrame:
    """Train the model with every optimizer, learning rate and seed, and score held-out cells.

    Every optimizer gets the same number of runs, and the same ``eps``, weight decay and kind of implementation. A seed
    fixes the held-out cells, the starting weights, the order of the cells and the noise of the bound, so that
    differences between optimizers are paired. Nothing is stopped early.

    Parameters
    ----------
    mdata
        Raw counts, as for :func:`mmopt.tl.integrate`.
    optimizers
        Names known to :func:`mmopt.optim.available`, or to :func:`mmopt.optim.available_rivals` where the package
        ``pytorch-optimizer`` is installed; in any case, here and below, and in lower case in the results. Schedule-Free is evaluated at its own average.
    lr_grid
        Learning rates, for all optimizers (Prodigy takes 1000 times these) or a sequence by optimizer, all of one
        length; optimizers that are not named take 1e-4, 1e-3 and 1e-2. The ASGD optimizers take the rate as their
        starting rate.
    seeds
        Every learning rate is run once with each of them.
    reference
        Optimizer the others are compared with; the first one if it is not among them.
    eps, weight_decay
        The same for every optimizer that has them. Weight decay is decoupled from the gradient in some (AdamW, the ASGD
        optimizers) and goes through it in others (Adam, AMSGrad, Padam, SGD): with any but 0 they differ in this too.
    optimizer_kwargs
        Further arguments by optimizer, e.g. ``{"asgdadam": {"switch_interval": 20}}``.
    label_key
        Column of known cell types: used for scoring only, never in training.
    rna, atac, prot, layer, batch_key, use_highly_variable, batch_size, accelerator, model_kwargs, **train_kwargs
        As for :func:`mmopt.tl.integrate`.
    max_epochs
        Epochs of every run.
    train_size
        Share of the cells to train on; the others are scored.
    key_added
        Slot in ``mdata.uns``.
    progress_bar
        Show one.

    Returns
    -------
    One row per run:

    ``optimizer``, ``lr``, ``seed``, ``status``
        The run; ``"ok"`` or ``"diverged"``.
    ``implementation``
        ``"fused"`` where the optimizer has one, else ``"foreach"``, else ``"own"``: compare seconds within one kind.
    ``elbo``, ``nll_<modality>``
        Held-out negative bound per cell with fixed noise, and its parts; lower is better. Every optimizer is judged at
        an average of its iterates (its own, or the same one kept beside it).
    ``elbo_iterate``
        The same bound at the last iterate: what the optimizer reaches without averaging.
    ``accuracy``, ``precision``, ``recall``, ``f1``
        Label transfer from training to held-out cells by 15 neighbours in the embedding (the last three are macro
        averages).
    ``r2_<modality>``, ``rmse_…``, ``mse_…``, ``mae_…``, ``pearson_…``
        Imputation of each modality from the others on the log1p scale.
    ``n_steps``, ``seconds``
        Steps of the run, and seconds of the whole call.
    ``steps_to_target``, ``seconds_to_target``
        Steps, and seconds of training without evaluations, up to the first evaluation (once an epoch) at which the
        bound is as low as the tuned reference's final one for this seed; infinite where that is never reached.
    ``baseline_…``
        Scores of PCA, nearest neighbours and ridge regression on the same cells.

    Sets ``mdata.uns["optimizer_comparison"]``: ``runs`` (the same), ``curves`` (``elbo_train`` and ``elbo_validation``
    per evaluation, with ``step`` and ``seconds``), ``summary`` (one row per optimizer, see :func:`summarise`),
    ``params`` and ``versions``.

    Raises
    ------
    KeyError, TypeError, ValueError
        Unknown optimizers, rates or arguments of ones that are not compared or do not accept them, empty grids or grids
        of different lengths, no cells to train on or to score, more than one network, or data that cannot be used.
    ImportError
        A rival whose package is not installed.

    Examples
    --------
    >>> runs = mm.tl.compare_optimizers(mdata, ("adam", "asgdadam"), lr_grid=(1e-3,), seeds=(0, 1))
    >>> mdata.uns["optimizer_comparison"]["summary"]
    """
    _keys.refuse_slot_of_others(key_added, _keys.OPTIMIZER_COMPARISON)
    optimizers = [optimizers] if isinstance(optimizers, str) else optimizers
    optimizers = list(dict.fromkeys(map(canonical, optimizers)))
    lr_grid, seeds = ([v] if isinstance(v, Real) else v for v in (lr_grid, seeds))
    seeds = list(dict.fromkeys(map(operator.index, seeds)))  # a run that is done twice cannot be told apart
    if not (optimizers and len(lr_grid) and len(seeds)):
        raise ValueError("optimizers, lr_grid and seeds must each name at least one")
    if (model_kwargs or {}).get("n_networks", 1) != 1:
        raise ValueError("optimizers are compared on one network; leave n_networks out of model_kwargs")
    if own := sorted(OWN & set(train_kwargs)):
        raise TypeError(f"{own} cannot be given: a comparison sets them itself, the same for every optimizer")
    grids = _grids(optimizers, lr_grid)
    further = _by_optimizer(optimizer_kwargs or {}, optimizers, "optimizer_kwargs has arguments")
    settings = {
        name: _settings(name, {"eps": eps, "weight_decay": weight_decay}, further.get(name, {}), grids[name])
        for name in optimizers
    }
    TriVI.setup_mudata(
        mdata,
        rna=rna,
        atac=atac,
        prot=prot,
        layer=layer,
        batch_key=batch_key,
        use_highly_variable=use_highly_variable,
    )
    labels = None if label_key is None else _checks.obs_column(mdata, label_key)
    callbacks = train_kwargs.pop("callbacks", [])
    rows, curves, baselines = [], [], {}
    rounds = list(zip(*grids.values(), strict=True))
    plan = [
        (seed, lr, name) for seed in seeds for rates in rounds for name, lr in zip(grids, rates, strict=True)
    ]
    for seed, lr, name in progress(plan, "optimizers", show=progress_bar):
        model = TriVI(mdata, random_state=seed, **(model_kwargs or {}))
        mosaic = read_mosaic(model.adata_manager)
        held_out = held_out_cells(mosaic.present, train_size, np.random.default_rng(derived(seed)))
        if not (0 < train_size < 1 and 0 < len(held_out) < mdata.n_obs):
            raise ValueError(
                f"train_size={train_size} leaves no cells to train on or to score; take 0.8 or so"
            )
        if seed not in baselines:
            baselines[seed] = baseline_scores(model, mosaic, held_out, labels, seed)
        kind, arguments = settings[name]
        row = {"optimizer": name, "lr": lr, "seed": seed, "status": "ok", "implementation": kind}
        clock, start = Clock(), time.perf_counter()
        try:
            model.train(
                max_epochs,
                optimizer=name,
                lr=lr,
                optimizer_kwargs=arguments,
                batch_size=batch_size,
                held_out=held_out,
                early_stopping=False,
                accelerator=accelerator,
                random_state=seed,
                progress_bar=False,
                callbacks=[*callbacks, clock],
                **train_kwargs,
            )
        except NonFiniteLossError:
            rows.append(
                row | {"status": "diverged", "seconds": time.perf_counter() - start} | baselines[seed]
            )
            continue
        row |= {"n_steps": clock.steps[-1], "seconds": time.perf_counter() - start}
        history = pd.concat(model.history.values(), axis=1)
        last = history.iloc[-1]
        row |= {"elbo": last["elbo_validation"], "elbo_iterate": clock.last_iterate}
        row |= {f"nll_{m}": last[f"nll_{m}_validation"] for m in model.modalities}
        rows.append(row | held_out_scores(model, mosaic, held_out, labels) | baselines[seed])
        curve = history[["elbo_train", "elbo_validation"]].reset_index()
        curves.append(curve.assign(step=clock.steps, seconds=clock.seconds, optimizer=name, lr=lr, seed=seed))
    reference = canonical(reference) if canonical(reference) in optimizers else optimizers[0]
    evaluations = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
    runs = with_target(pd.DataFrame(rows), evaluations, reference)
    mdata.uns[key_added] = {
        "runs": runs,
        "curves": evaluations,
        "summary": summarise(runs, reference),
        "params": {
            "reference": reference,
            "lr_grid": {name: np.array(grid) for name, grid in grids.items()},
            "optimizers": {name: str(arguments) for name, (_, arguments) in settings.items()},
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "train_size": train_size,
            "label_key": label_key or "",
            "batch_key": batch_key or "",
        },
        "versions": versions(),
    }
    return runs


def _grids(
    optimizers: Sequence[str], lr_grid: Sequence[float] | Mapping[str, Sequence[float]]
) -> dict[str, list[float]]:
    """Learning rates of each optimizer, equally many."""
    own = _by_optimizer(lr_grid, optimizers, "lr_grid has rates") if isinstance(lr_grid, Mapping) else {}
    common = LR_GRID if isinstance(lr_grid, Mapping) else lr_grid
    grids = {
        name: list(dict.fromkeys(own.get(name, [LR_SCALE.get(name, 1) * lr for lr in common])))
        for name in optimizers
    }
    if len({len(grid) for grid in grids.values()}) > 1:
        raise ValueError(
            "every optimizer needs as many learning rates as the others, or those with more runs have the better "
            f"chance; got { ({name: len(grid) for name, grid in grids.items()}) } different ones"
        )
    return grids


def _by_optimizer(given: Mapping[str, Any], optimizers: Sequence[str], what: str) -> dict[str, Any]:
    """``given``, by the names that the optimizers have here."""
    named = {canonical(name): value for name, value in given.items()}
    if len(named) < len(given):
        raise ValueError(f"{what} for one optimizer under two names; got {list(given)}")
    if unknown := sorted(set(named) - set(optimizers)):
        raise ValueError(f"{what} for {unknown}, which are not among the optimizers {list(optimizers)}")
    return named


def _settings(
    name: str, common: Mapping[str, Any], own: Mapping[str, Any], rates: Sequence[float]
) -> tuple[str, dict[str, Any]]:
    """Kind of implementation and arguments of an optimizer, refused before anything is trained."""
    arguments = {**common, **own}
    for lr in rates:
        optim.creator(name, lr=lr, **arguments)
    for kind in IMPLEMENTATIONS:
        if not set(IMPLEMENTATIONS) & set(own):
            try:
                optim.creator(name, **arguments, **{kind: True})
            except TypeError:  # it has no such implementation
                continue
            return kind, arguments | {kind: True}
    return next((kind for kind in IMPLEMENTATIONS if own.get(kind)), "own"), arguments

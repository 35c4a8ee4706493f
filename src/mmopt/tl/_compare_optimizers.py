"""The same model trained by several optimizers, on equal terms."""

import time
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt import _checks, _keys
from mmopt._compat import versions
from mmopt._progress import progress
from mmopt._random import derived
from mmopt.models import NonFiniteLossError, TriVI
from mmopt.models.data import held_out_cells, read
from mmopt.tl._held_out import baseline_scores, held_out_scores

DEFAULT = ("adam", "amsgrad", "padam", "sgd", "asgdadam", "asgdamsgrad")
REFERENCE = "adam"


def compare_optimizers(
    mdata: MuData,
    optimizers: Sequence[str] = DEFAULT,
    *,
    lr_grid: Sequence[float] = (1e-4, 1e-3, 1e-2),
    seeds: Sequence[int] = (0, 1, 2),
    optimizer_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    label_key: str | None = None,
    rna: str | None = None,
    atac: str | None = None,
    prot: str | None = None,
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

    Every optimizer gets the same number of runs. A seed fixes the held-out cells, the starting weights, the order of
    the cells and the noise of the bound, so that differences between optimizers are paired. Nothing is stopped early.

    Parameters
    ----------
    mdata
        Raw counts, as for :func:`mmopt.tl.integrate`.
    optimizers
        Names known to :func:`mmopt.optim.available`.
    lr_grid, seeds
        Learning rates and seeds; each pair is a run. The ASGD optimizers take the rate as their starting rate.
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
    One row per run: ``optimizer``, ``lr``, ``seed``, ``status`` (``"ok"`` or ``"diverged"``), ``elbo`` (held-out
    negative bound per cell with fixed noise, lower is better), ``nll_<modality>``, label transfer from training to
    held-out cells by 15 neighbours in the embedding (``accuracy``; ``precision``, ``recall``, ``f1``, macro averages),
    imputation of each modality from the others on the log1p scale (``r2``, ``rmse``, ``mse``, ``mae``, ``pearson``
    with ``_<modality>``), ``seconds`` of training, and the scores of PCA, k nearest neighbours and ridge regression on
    the same cells (``baseline_…``).

    Sets ``mdata.uns["optimizer_comparison"]``: ``runs`` (the same), ``curves`` (bound per epoch), ``summary`` (one row
    per optimizer, see :func:`summarise`), ``params`` and ``versions``.

    Raises
    ------
    KeyError, TypeError, ValueError
        Unknown optimizers, empty grids, or data that cannot be used.

    Examples
    --------
    >>> runs = mm.tl.compare_optimizers(mdata, ("adam", "asgdadam"), lr_grid=(1e-3,), seeds=(0, 1))
    >>> mdata.uns["optimizer_comparison"]["summary"]
    """
    if not (optimizers and lr_grid and seeds):
        raise ValueError("optimizers, lr_grid and seeds must each name at least one")
    optimizers = [optimizers] if isinstance(optimizers, str) else list(optimizers)
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
    rows, curves, baselines = [], [], {}
    plan = list(product(seeds, lr_grid, optimizers))
    for seed, lr, name in progress(plan, "optimizers", show=progress_bar):
        model = TriVI(mdata, random_state=seed, **(model_kwargs or {}))
        mosaic = read(model.adata_manager)
        held_out = held_out_cells(mosaic.present, train_size, np.random.default_rng(derived(seed)))
        if seed not in baselines:
            baselines[seed] = baseline_scores(mosaic, held_out, labels, seed)
        row = {"optimizer": name, "lr": lr, "seed": seed, "status": "ok"}
        start = time.perf_counter()
        try:
            model.train(
                max_epochs,
                optimizer=name,
                lr=lr,
                optimizer_kwargs=dict((optimizer_kwargs or {}).get(name, {})),
                batch_size=batch_size,
                held_out=held_out,
                early_stopping=False,
                accelerator=accelerator,
                random_state=seed,
                progress_bar=False,
                **train_kwargs,
            )
        except NonFiniteLossError:
            rows.append(row | {"status": "diverged", "seconds": time.perf_counter() - start} | baselines[seed])
            continue
        row["seconds"] = time.perf_counter() - start
        history = pd.concat(model.history.values(), axis=1)
        last = history.iloc[-1]
        row["elbo"] = last["elbo_validation"]
        row |= {f"nll_{m}": last[f"nll_{m}_validation"] for m in model.modalities}
        rows.append(row | held_out_scores(model, mosaic, held_out, labels) | baselines[seed])
        curve = history[["elbo_train", "elbo_validation"]].reset_index()
        curves.append(curve.assign(optimizer=name, lr=lr, seed=seed))
    runs = pd.DataFrame(rows)
    mdata.uns[key_added] = {
        "runs": runs,
        "curves": pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        "summary": summarise(runs),
        "params": {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "train_size": train_size,
            "label_key": label_key or "",
            "batch_key": batch_key or "",
        },
        "versions": versions(),
    }
    return runs


def summarise(runs: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """One row per optimizer, at the learning rate with the lowest mean held-out bound.

    Parameters
    ----------
    runs
        What :func:`compare_optimizers` returns.
    reference
        Optimizer the others are compared with; the first one if it was not run.

    Returns
    -------
    ``optimizer``, ``lr``, ``n_seeds``, the means of all scores, ``elbo_se``, ``regret`` (mean over the learning rates
    of the bound's distance to the best of all runs of the seed) and ``worst_regret``, ``difference`` and
    ``difference_se`` (paired by seed, to the reference at its own best rate) and ``verdict``: ``"better"`` or
    ``"worse"`` beyond two standard errors, ``"tie"`` otherwise, ``"one seed"`` where there is no standard error,
    ``"diverged"`` where the optimizer or the reference did so at every rate. The rate is chosen on the cells that are
    scored, for every optimizer alike. A diverged run counts as infinitely bad.
    """
    names = list(dict.fromkeys(runs["optimizer"]))
    reference = reference if reference in names else names[0]
    elbo = runs.get("elbo", pd.Series(np.nan, runs.index)).where(runs["status"] == "ok", np.inf)
    runs = runs.assign(elbo=elbo)
    regret = runs["elbo"] - runs.groupby("seed")["elbo"].transform("min")
    best = runs.groupby(["optimizer", "lr"])["elbo"].mean().groupby("optimizer").idxmin().map(lambda pair: pair[1])

    def at_best(name: str) -> pd.DataFrame:
        return runs[(runs["optimizer"] == name) & (runs["lr"] == best[name])].set_index("seed")

    rows = []
    for name in names:
        mine = at_best(name)
        apart = mine["elbo"] - at_best(reference)["elbo"]
        n = len(mine)
        difference, se = apart.mean(), _standard_error(apart)
        own = regret[runs["optimizer"] == name]
        rows.append(
            {"optimizer": name, "lr": best[name], "n_seeds": n}
            | mine.drop(columns=["lr"]).mean(numeric_only=True).to_dict()
            | {
                "elbo_se": _standard_error(mine["elbo"]),
                "regret": own.mean(),
                "worst_regret": own.max(),
                "difference": difference,
                "difference_se": se,
                "verdict": "reference" if name == reference else _verdict(difference, se),
            }
        )
    return pd.DataFrame(rows)


def _standard_error(values: pd.Series) -> float:
    """NaN for one value, or where a run diverged."""
    return values.std() / len(values) ** 0.5 if np.isfinite(values).all() else np.nan


def _verdict(difference: float, se: float) -> str:
    if not np.isfinite(difference):
        return "diverged"
    if np.isnan(se):
        return "one seed"
    return "tie" if abs(difference) <= 2 * se else "better" if difference < 0 else "worse"

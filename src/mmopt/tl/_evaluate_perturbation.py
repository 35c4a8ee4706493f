"""Predicted against measured effects, always beside what any prediction has to beat."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from mudata import MuData
from sklearn.decomposition import PCA

from mmopt import _keys
from mmopt._checks import check_names, counts, listed, obs_column, positions
from mmopt._compat import versions
from mmopt.grn.pooling import as_dense, per_ten_thousand
from mmopt.metrics import perturbation_baselines
from mmopt.tl._measured_effects import (
    LEAST_EFFECT,
    Measured,
    measure,
    of_gene,
    read_cells,
    roles,
)
from mmopt.tl._method_scores import COMPONENTS, method_scores
from mmopt.tl._perturbation_labels import PREFIXES, Hits, agree, by_name, plain, read_label, spelled
from mmopt.tl._shuffled_network import by_shuffled_networks

_FOR_GENES = 2000


def evaluate_perturbation(
    mdata: MuData,
    predicted: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    *,
    modality: str = "rna",
    perturbation_key: str = "perturbation",
    control: str | None = None,
    layer: str | None = None,
    key_added: str = _keys.PERTURBATION_EVALUATION,
    random_state: int = 0,
) -> pd.DataFrame:
    """Score predicted effects beside every baseline and the noise ceiling; there is no way to ask for fewer.

    Parameters
    ----------
    mdata
        Control cells, and perturbed cells unless ``truth`` is given.
    predicted
        Columns ``perturbation, feature, delta`` and, where there are, ``modality, group`` (rows of ``"all"`` are used),
        ``q05, q95``, as from :func:`mmopt.tl.screen`. Perturbations are named as in ``perturbation_key`` or
        with the mode behind (``GATA1_knockout``); ``A+B`` and ``B+A`` are the same double. Features without a finite
        ``delta`` are not scored.
    truth
        Measured effects in the same form, with ``se`` where known, e.g. of :func:`mmopt.datasets.truth_effect` with a
        column ``perturbation``. What it lacks is not scored. By default they are measured in the cells of ``mdata``, which
        is better where the cells are real: effects in a table have the noise of their common control cells in common, and
        the baselines gain by it.
    modality
        Role or name of the modality to score; roles are those in ``mdata.uns["regulons"]``, where that is there.
    perturbation_key, control
        Column with the perturbation of each cell, and the name of the unperturbed ones: by default ``control``,
        ``ctrl``, ``NT``, ``NTC``, ``non-targeting``, ``PBS`` or ``DMSO``. Cells without a value are left out.
    layer
        Layer with the raw counts.
    key_added
        Slot in ``mdata.uns``.
    random_state
        Seed of halves, shuffles and bootstraps.

    Returns
    -------
    DataFrame
        One row per method and perturbation with the columns of :func:`mmopt.metrics.perturbation_scores`, all measured
        perturbations being candidates for ``discrimination``, and those in ``predicted`` having their mean subtracted for
        ``pearson_vs_mean`` (baselines made from the others: the mean of these), and ``e_distance`` between the perturbed
        cells and the control cells moved by the effect (with cells only).
        Methods: ``prediction``; ``no_change, perturbed_mean, additive, ridge_pca, knn`` of
        :func:`mmopt.metrics.perturbation_baselines`, all but the first of which see the other perturbations' truth, and
        the genes in control cells (with ``truth``: in all cells); ``shuffled_targets``, what five networks whose targets are shuffled
        predict of the same perturbations and cells, where the prediction is a result in ``mdata.uns``, found by its values (of
        :func:`mmopt.tl.perturb` or :func:`mmopt.tl.screen`, with its network still there); of all others
        ``shuffled_features``, the prediction with the features that are scored permuted; of both the mean score over the
        shuffles; ``split_half_ceiling``, about what a prediction without any error would score, as halves
        of the perturbed and control cells tell (with ``truth``: its ``se``, and none where that is unknown; see the notes).
        ``mdata.uns["perturbation_evaluation"]`` gets it as ``scores``, and
        ``summary``: median over perturbations with a 95 % bootstrap interval, ``n`` and the quartiles, and for what is shuffled
        the ``sd`` of the median over the shuffles.

    Raises
    ------
    KeyError, ValueError
        No such column, no control cells, no perturbation or feature that is both predicted and measured, the same in two
        modes; the message names what there is.

    Notes
    -----
    Cells are measured in the unit of predictions, for baselines and halves too. Counts of neighbouring cells, of one
    perturbation, are added up: about as many as in the network's pools (30 without a network), and at most a quarter of the
    perturbation's cells. Control cells are cut at random into samples of as many cells as the perturbation has (the last
    one filled up with cells of the first) and pooled within these: the logarithm of a sum depends on how much was added up,
    and from how far apart. The effect is the difference of the mean logged pools, per 10,000 counts of the network's
    features (without a network: of the predicted ones) less the perturbed genes; for protein, of the mean centred log ratio
    of the same. ``e_distance`` alone is between single cells, whose logarithms vary and move otherwise than those of pools:
    compare it between methods.

    Scores are the mean of two: against effects measured from one half of the control cells, the baselines being made from
    those measured from the other half, and the other way round. From the same control cells their noise would look like an
    effect that all perturbations share. A network that was fitted to these control cells knows their noise as well: fit it
    to others than those in ``mdata`` where there are enough.

    The ceiling's correlations are the root of the covariance of two halves of the cells over the variance of the truth,
    which is ``sqrt(2 r / (1 + r))`` for halves that are alike and correlate by ``r``; 0 where halves have nothing in common.
    Its errors and signs are those of the measured effect beside the same with its noise once more, which is half the
    difference of the halves (of the controls, of which truths have a half: the difference over ``sqrt(2)``). Its
    ``discrimination`` ranks mean squared distances, of which two halves tell the part that is no noise. Its ``e_distance`` is
    one half of the perturbed cells against the other. It has no intervals. Of a single perturbation whose effects are hardly
    larger than the noise it is a rough guess, and too good on the features that change: these are chosen by the same
    cells, and more easily if their noise adds to the effect.

    A feature truly changes where Welch's t test of single cells is below 5 % false discovery rate and the change above 0.1 (with
    ``truth``: above 0.1 and four standard errors). The perturbed genes are left out.

    Examples
    --------
    >>> predicted = mm.tl.screen(mdata, ["STAT1", "JAK2"], cells=control)
    >>> mm.tl.evaluate_perturbation(mdata, predicted, control="NT").groupby("method")["pearson"].median()
    """
    _keys.refuse_slot_of_others(key_added, _keys.PERTURBATION_EVALUATION)
    modalities = roles(mdata)
    role = next((r for r, name in modalities.items() if modality in (r, name)), None)
    if role is None:
        raise KeyError(f"modality={modality!r}: there are {listed(modalities.values())}")
    name = modalities[role]
    check_names(mdata, modalities)
    prefixes = {*PREFIXES, *modalities.values()}
    var = mdata.mod[name].var
    guess = _wide(predicted, "predicted", name, role, var.index, prefixes)
    shown = np.isfinite(guess.values["delta"]).any(0)
    if not shown.any():
        raise ValueError(f"predicted: no delta of a feature of modality {name!r} is a finite number")
    rng = np.random.default_rng([random_state, 21])
    cells, unperturbed = None, np.ones(mdata.n_obs, dtype=bool)
    if truth is None:
        labels = obs_column(mdata, perturbation_key, modalities)
        rows = np.flatnonzero((positions(mdata, name) >= 0) & labels.notna().to_numpy())
        cells = read_cells(mdata, name, role, layer, shown, rows)
        measured = measure(cells, labels.iloc[rows], control, perturbation_key, prefixes, rng)
        unperturbed = np.isin(np.arange(mdata.n_obs), rows[np.concatenate(measured.controls)])
    else:
        measured = _given(_wide(truth, "truth", name, role, var.index, prefixes), shown, rng)
    names = list(measured.hits)
    asked = np.array([p in guess.hits and agree(guess.hits[p], hits) for p, hits in measured.hits.items()])
    if not asked.any():
        there = (listed(spelled(hits) for hits in table.hits.values()) for table in (guess, measured))
        raise ValueError(
            "no perturbation is both predicted ({}) and measured ({}); names must agree, as in 'GATA1' or "
            "'GATA1_knockout'".format(*there)
        )
    order = [list(guess.hits).index(p) for p, wanted in zip(names, asked, strict=True) if wanted]
    prediction = {}
    for value, array in guess.values.items():
        prediction[value] = np.full(measured.delta.shape, np.nan)
        prediction[value][asked] = array[order][:, shown]
    free = np.isfinite(measured.delta) & ~np.stack([of_gene(var[shown], h) for h in measured.hits.values()])
    keep = free.copy()
    keep[asked] &= np.isfinite(prediction["delta"][asked])
    if not keep[asked].any():
        raise ValueError(
            f"modality {name!r}: no feature is both predicted and measured in a perturbation that is both; give the truth of "
            "the features in `predicted`"
        )

    embedding, genes = _gene_embedding(mdata, modalities, layer, unperturbed, rng)
    hit = [[gene for gene, _ in hits] for hits in measured.hits.values()]
    limits = {k: prediction[q] for k, q in (("low", "q05"), ("high", "q95")) if q in prediction}
    chance = by_shuffled_networks(
        mdata,
        role,
        name,
        var.index[shown],
        prediction["delta"],
        measured.hits,
        prefixes,
        np.random.default_rng([random_state, 22]),
    )
    table, shuffles = method_scores(
        prediction["delta"],
        limits if len(limits) == 2 else {},
        lambda effects: perturbation_baselines(effects, hit, genes, embedding),
        measured,
        free,
        keep,
        asked,
        cells,
        chance,
        rng,
    )
    chosen = [p for p, wanted in zip(names, asked, strict=True) if wanted]
    mdata.uns[key_added] = {
        "scores": table,
        "summary": _summary(table, shuffles, rng),
        "params": {
            "modality": name,
            "n_perturbations": len(chosen),
            "not_predicted": [p for p in names if p not in chosen],
            "not_measured": [p for p in guess.hits if p not in chosen],
            "truth": "cells" if truth is None else "table",
            "random_state": random_state,
        },
        "versions": versions(),
    }
    return table


@dataclass(frozen=True, eq=False)
class _Wide:
    """A long table as arrays perturbations × features, by the name of its column."""

    hits: dict[str, Hits]
    values: dict[str, np.ndarray]


def _wide(
    table: pd.DataFrame, what: str, name: str, role: str, features: pd.Index, prefixes: set[str]
) -> _Wide:
    if missing := [c for c in ("perturbation", "feature", "delta") if c not in table]:
        hint = f"; of one perturbation, add it: `{what}.assign(perturbation='STAT1')`" * (
            "perturbation" in missing
        )
        raise ValueError(f"{what}: no column {listed(missing)}; there are {listed(table.columns)}{hint}")
    chosen = np.ones(len(table), dtype=bool)
    if "modality" in table:
        chosen &= table["modality"].astype(str).isin([name, role]).to_numpy()
    if "group" in table:
        chosen &= (table["group"].astype(str) == "all").to_numpy()
    table = table[chosen]
    column = features.get_indexer(table["feature"].astype(str))
    if (column < 0).all():
        raise ValueError(f"{what}: none of its features is in modality {name!r} ({listed(features, 3)})")
    label = table["perturbation"].astype(str)
    read = {each: read_label(each, prefixes) for each in dict.fromkeys(label)}
    hits = by_name(read.values(), what)
    number = {n: i for i, n in enumerate(hits)}
    row = label.map({each: number[plain(h)] for each, h in read.items()}).to_numpy()
    known = column >= 0
    if pd.DataFrame({"r": row[known], "c": column[known]}).duplicated().any():
        raise ValueError(
            f"{what}: some features of a perturbation are there twice; leave one row for each, as in `predicted[~predicted."
            'duplicated(["perturbation", "feature"])]`'
        )
    values = {}
    for value in ("delta", "q05", "q95", "se"):
        if value in table:
            values[value] = np.full((len(hits), len(features)), np.nan)
            values[value][row[known], column[known]] = table[value].to_numpy(dtype=float)[known]
    return _Wide(hits, values)


def _given(wide: _Wide, shown: np.ndarray, rng: np.random.Generator) -> Measured:
    delta = wide.values["delta"][:, shown]
    least, halves = np.full(delta.shape, LEAST_EFFECT), None
    if "se" in wide.values:
        se = wide.values["se"][:, shown]
        least = np.maximum(least, 4 * np.nan_to_num(se))
        # the halves of a sample lie on either side of its mean, and their noise has nothing in common
        noise = se * rng.standard_normal(delta.shape)
        halves = delta + noise, delta - noise
    with np.errstate(invalid="ignore"):
        return Measured(wide.hits, (delta,), np.abs(delta) > least, halves)


def _gene_embedding(
    mdata: MuData, modalities: dict, layer: str | None, unperturbed: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Embed the genes by their loadings on the principal components of RNA; nothing where there is no RNA."""
    if "rna" not in modalities:
        return np.zeros((0, 1)), []
    adata = mdata.mod[modalities["rna"]]
    place = positions(mdata, modalities["rna"])
    place = rng.permutation(place[unperturbed & (place >= 0)])[:_FOR_GENES]
    if min(len(place), adata.n_vars) < 3:  # no components to speak of
        return np.zeros((0, 1)), []
    logged = np.log1p(per_ten_thousand(as_dense(counts(adata, modalities["rna"], layer)[place])))
    pca = PCA(min(COMPONENTS, min(logged.shape) - 1), svd_solver="full").fit(logged)
    loadings = pca.components_.T * np.sqrt(pca.explained_variance_)
    return loadings, list(adata.var_names)


def _summary(
    table: pd.DataFrame, shuffles: pd.DataFrame, rng: np.random.Generator, n_boot: int = 1000
) -> pd.DataFrame:
    """Median over perturbations, its bootstrap interval and the quartiles; of what is shuffled its sd over the shuffles."""
    by_shuffle = shuffles.drop(columns="perturbation").groupby(["method", "shuffle"], as_index=False).median()
    sd = by_shuffle.drop(columns="shuffle").groupby("method").std()
    rows = []
    metrics = [c for c in table.columns if c not in ("method", "perturbation", "n_changed")]
    for method, part in table.groupby("method", sort=False):
        for metric in metrics:
            values = part[metric].dropna().to_numpy()
            if not len(values):
                continue
            drawn = np.median(values[rng.integers(len(values), size=(n_boot, len(values)))], axis=1)
            lo, hi = np.quantile(drawn, [0.025, 0.975])
            q1, q3 = np.quantile(values, [0.25, 0.75])
            of_shuffles = float(sd.loc[method, metric]) if method in sd.index and metric in sd else np.nan
            median = float(np.median(values))
            rows.append((method, metric, median, lo, hi, q1, q3, len(values), of_shuffles))
    columns = ["method", "metric", "median", "lo", "hi", "q25", "q75", "n", "sd"]
    return pd.DataFrame(rows, columns=columns)

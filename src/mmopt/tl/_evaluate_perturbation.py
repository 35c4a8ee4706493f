"""Predicted against measured effects, always beside what any prediction has to beat."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse, stats
from sklearn.decomposition import PCA

from mmopt import _keys
from mmopt._checks import check_names, counts, find_modalities, listed, nearest, obs_column, positions
from mmopt._compat import versions
from mmopt.grn.effects import benjamini_hochberg
from mmopt.grn.pooling import log_ratio, per_ten_thousand
from mmopt.metrics import energy_distance, perturbation_baselines, perturbation_scores
from mmopt.tl._interventions import MODES

PREDICTION, CEILING, SHUFFLED = "prediction", "split_half_ceiling", "shuffled_targets"
_LEAST_CELLS, _FDR, _LEAST_EFFECT = 10, 0.05, 0.1
_SHUFFLES, _EMBEDDED, _COMPONENTS = 10, 300, 20


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
        with the mode behind (``GATA1_knockout``); ``A+B`` is a double.
    truth
        Measured effects in the same form, with ``se`` where known, e.g. of :func:`mmopt.datasets.truth_effect` with a
        column ``perturbation``. By default they are measured in the cells of ``mdata``.
    modality
        Role or name of the modality to score.
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
        One row per method and perturbation with the columns of :func:`mmopt.metrics.perturbation_scores`, and
        ``e_distance`` between the perturbed cells and the control cells moved by the effect (with cells only).
        Methods: ``prediction``; ``no_change, perturbed_mean, additive, ridge_pca, knn`` of
        :func:`mmopt.metrics.perturbation_baselines`, all but the first of which see the other perturbations' truth;
        ``shuffled_targets``, the prediction with its features permuted; ``split_half_ceiling``, one half of the
        perturbed cells against the other. ``mdata.uns["perturbation_evaluation"]`` gets it as ``scores``, and
        ``summary``: median over perturbations with a 95 % bootstrap interval, ``n`` and the quartiles.

    Raises
    ------
    KeyError, ValueError
        No such column, no control cells, no perturbation that is both predicted and measured; the message names what
        there is.

    Notes
    -----
    A feature truly changes where Welch's t test is below 5 % false discovery rate and the change above 0.1 (with
    ``truth``: above 0.1 and four standard errors). The perturbed genes are left out.

    Examples
    --------
    >>> predicted = mm.tl.screen(mdata, ["STAT1", "JAK2"], cells=control)
    >>> mm.tl.evaluate_perturbation(mdata, predicted, control="NT").groupby("method")["pearson"].median()
    """
    _keys.refuse_slot_of_others(key_added, _keys.PERTURBATION_EVALUATION)
    modalities = find_modalities(mdata)
    role = next((r for r, name in modalities.items() if modality in (r, name)), None)
    if role is None:
        raise KeyError(f"modality={modality!r}: there are {listed(modalities.values())}")
    name = modalities[role]
    check_names(mdata, modalities)
    features = mdata.mod[name].var_names
    guess = _wide(predicted, "predicted", name, role, features)
    rng = np.random.default_rng([random_state, 21])
    logged, rows = _logged(mdata, name, role, layer)
    if truth is None:
        labels = obs_column(mdata, perturbation_key, modalities).iloc[rows]
        cells = _measured(logged, labels, control, perturbation_key, rng)
        controls = cells.pop("controls")
    else:
        cells, controls = _given(_wide(truth, "truth", name, role, features), rng), logged
    names = [p for p in cells["names"] if p in guess["names"]]
    if not names:
        raise ValueError(
            f"no perturbation is both predicted ({listed(guess['names'])}) and measured ({listed(cells['names'])}); "
            "names must agree, as in 'GATA1' or 'GATA1_knockout'"
        )
    at = [cells["names"].index(p) for p in names]
    order = [guess["names"].index(p) for p in names]
    prediction = {k: guess[k][order] for k in ("delta", "q05", "q95") if guess[k] is not None}
    hit = [p.split("+") for p in cells["names"]]
    keep = np.stack([~_of_gene(features, mdata.mod[name].var, h) for h in hit])
    known = np.isfinite(prediction["delta"])
    keep_here = keep[at] & known.all(0)

    embedding, genes = _gene_embedding(mdata, modalities, layer, rng)
    made = perturbation_baselines(cells["delta"], hit, genes, embedding)
    methods = {PREDICTION: np.nan_to_num(prediction["delta"])} | {m: d[at] for m, d in made.items()}
    scores = []
    for method, delta in methods.items():
        there = np.isfinite(delta).all(1)
        if not there.any():
            continue
        intervals = {}
        if method == PREDICTION and "q05" in prediction:
            intervals = {"low": np.nan_to_num(prediction["q05"]), "high": np.nan_to_num(prediction["q95"])}
        scores.append(_scored(method, names, delta, cells, at, keep_here, there, intervals))
    shuffled = []
    for _ in range(_SHUFFLES):
        permuted = methods[PREDICTION][:, rng.permutation(len(features))]
        shuffled.append(
            _scored(SHUFFLED, names, permuted, cells, at, keep_here, np.ones(len(names), bool), {})
        )
    numbers = shuffled[0].columns.difference(["method", "perturbation"], sort=False)
    mean = pd.concat(shuffled).groupby("perturbation", sort=False)[list(numbers)].mean()
    scores.append(shuffled[0][["method", "perturbation"]].join(mean, on="perturbation"))
    if cells["half1"] is not None:
        other = cells | {"delta": cells["half2"]}
        everyone = np.ones(len(names), bool)
        scores.append(_scored(CEILING, names, cells["half1"][at], other, at, keep_here, everyone, {}))
    table = pd.concat(scores, ignore_index=True)
    if truth is None:
        table["e_distance"] = _distances(table, methods, cells, names, at, controls, rng)
    mdata.uns[key_added] = {
        "scores": table,
        "summary": _summary(table, rng),
        "params": {
            "modality": name,
            "n_perturbations": len(names),
            "not_predicted": [p for p in cells["names"] if p not in names],
            "not_measured": [p for p in guess["names"] if p not in names],
            "truth": "cells" if truth is None else "table",
            "random_state": random_state,
        },
        "versions": versions(),
    }
    return table


def _plain(name: str) -> str:
    """``GATA1`` of ``GATA1_knockout`` and ``rna:GATA1``; the parts of a combination in alphabetical order."""
    for mode in MODES:
        name = name.removesuffix(f"_{mode}")
    return "+".join(sorted(part.strip().rpartition(":")[2] for part in name.split("+")))


def _wide(table: pd.DataFrame, what: str, name: str, role: str, features: pd.Index) -> dict:
    """Arrays perturbations × features of a long table."""
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
    label = table["perturbation"].astype(str).map(_plain)
    if (column < 0).all():
        raise ValueError(f"{what}: none of its features is in modality {name!r} ({listed(features, 3)})")
    names = list(dict.fromkeys(label))
    row = label.map({n: i for i, n in enumerate(names)}).to_numpy()
    known = column >= 0
    if pd.DataFrame({"r": row[known], "c": column[known]}).duplicated().any():
        raise ValueError(
            f"{what}: some perturbations are there twice, e.g. in two modes; evaluate one mode at a time"
        )
    out: dict = {"names": names}
    for value in ("delta", "q05", "q95", "se"):
        out[value] = None
        if value in table:
            out[value] = np.full((len(names), len(features)), np.nan)
            out[value][row[known], column[known]] = table[value].to_numpy(dtype=float)[known]
    return out


def _logged(mdata: MuData, name: str, role: str, layer: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Normalise and log the measured cells; also give their rows in ``mdata``."""
    place = positions(mdata, name)
    rows = np.flatnonzero(place >= 0)
    matrix = counts(mdata.mod[name], name, layer)[place[rows]]
    dense = np.asarray(matrix.todense() if sparse.issparse(matrix) else matrix, dtype=float)
    return (log_ratio(dense) if role == "prot" else np.log1p(per_ten_thousand(dense))), rows


def find_control(there: Iterable[str], control: str | None, key: str) -> str:
    """Label of the unperturbed cells among those there are; raise where it is not clear which."""
    there = list(there)
    if control is None:
        spelled = [v for v in there if v.lower() in _keys.CONTROLS]
        if len(spelled) != 1:
            raise ValueError(
                f"obs column {key!r} has {'no' if not spelled else 'several'} labels of control cells among "
                f"{listed(there)}; name it with `control=`"
            )
        return spelled[0]
    if control not in there:
        raise ValueError(
            f"control={control!r}: no such label in obs column {key!r}; nearest: {listed(nearest(control, there) or there)}"
        )
    return control


def _measured(
    logged: np.ndarray, labels: pd.Series, control: str | None, key: str, rng: np.random.Generator
) -> dict:
    known = labels.notna().to_numpy()
    values = labels.astype(str)
    there = values[known].unique()
    control = find_control(there, control, key)
    unperturbed = logged[(values == control).to_numpy() & known]
    counted = values[known].value_counts(sort=False)
    names = [n for n in counted.index if n != control and counted[n] >= _LEAST_CELLS]
    if len(unperturbed) < _LEAST_CELLS or not names:
        raise ValueError(
            f"obs column {key!r}: {_LEAST_CELLS} control cells and a perturbation with as many are needed; there are "
            f"{len(unperturbed)} of {control!r} and at most {counted.drop(control, errors='ignore').max() if len(counted) > 1 else 0} "
            "of a perturbation"
        )
    mean = unperturbed.mean(0)
    out: dict = {"names": [_plain(n) for n in names], "controls": unperturbed, "cells": []}
    delta: list[np.ndarray] = []
    changed: list[np.ndarray] = []
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    split = rng.random(len(unperturbed)) < 0.5
    for n in names:
        mine = logged[(values == n).to_numpy() & known]
        out["cells"].append(mine)
        delta.append(mine.mean(0) - mean)
        with np.errstate(invalid="ignore", divide="ignore"):
            p = stats.ttest_ind(mine, unperturbed, equal_var=False).pvalue
        changed.append(
            (np.nan_to_num(benjamini_hochberg(p), nan=1) < _FDR) & (np.abs(delta[-1]) > _LEAST_EFFECT)
        )
        first = rng.permutation(len(mine)) < len(mine) // 2
        halves[0].append(mine[first].mean(0) - unperturbed[split].mean(0))
        halves[1].append(mine[~first].mean(0) - unperturbed[~split].mean(0))
    stacked = {"delta": delta, "changed": changed, "half1": halves[0], "half2": halves[1]}
    return out | {k: np.stack(v) for k, v in stacked.items()}


def _given(wide: dict, rng: np.random.Generator) -> dict:
    delta = np.nan_to_num(wide["delta"])
    out = {"names": wide["names"], "delta": delta, "half1": None, "half2": None}
    least = np.full(delta.shape, _LEAST_EFFECT)
    if wide["se"] is not None:
        se = np.nan_to_num(wide["se"])
        least = np.maximum(least, 4 * se)
        # half of the cells have the square root of two times the standard error
        noise = np.sqrt(2) * se * rng.standard_normal((2, *delta.shape))
        out |= {"half1": delta + noise[0], "half2": delta + noise[1]}
    return out | {"changed": np.abs(delta) > least}


def _of_gene(features: pd.Index, var: pd.DataFrame, genes: list[str]) -> np.ndarray:
    """Which features are the perturbed genes themselves, or their proteins."""
    own = features.isin(genes)
    return (
        own | var["gene"].astype(str).isin(genes).to_numpy()
        if "gene" in var and "promoter" not in var
        else own
    )


def _gene_embedding(
    mdata: MuData, modalities: dict, layer: str | None, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Embed the genes by their loadings on the principal components of RNA; nothing where there is no RNA."""
    if "rna" not in modalities:
        return np.zeros((0, 1)), []
    logged, _ = _logged(mdata, modalities["rna"], "rna", layer)
    if min(logged.shape) < 3:  # no components to speak of
        return np.zeros((0, 1)), []
    logged = logged[rng.permutation(len(logged))[:2000]]
    pca = PCA(min(_COMPONENTS, min(logged.shape) - 1), svd_solver="full").fit(logged)
    loadings = pca.components_.T * np.sqrt(pca.explained_variance_)
    return loadings, list(mdata.mod[modalities["rna"]].var_names)


def _scored(
    method: str,
    names: list[str],
    delta: np.ndarray,
    cells: dict,
    at: list[int],
    keep: np.ndarray,
    there: np.ndarray,
    intervals: dict,
) -> pd.DataFrame:
    chosen = np.flatnonzero(there)
    truth, changed = cells["delta"][at][chosen], cells["changed"][at][chosen]
    limits = {k: v[chosen] for k, v in intervals.items()}
    frame = perturbation_scores(delta[chosen], truth, changed=changed, keep=keep[chosen], **limits)
    frame.insert(0, "perturbation", [names[i] for i in chosen])
    frame.insert(0, "method", method)
    return frame


def _distances(
    table: pd.DataFrame,
    methods: dict[str, np.ndarray],
    cells: dict,
    names: list[str],
    at: list[int],
    controls: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Energy distance in principal components of the control cells; the ceiling is one half against the other."""
    few = controls[rng.permutation(len(controls))[:_EMBEDDED]]
    pca = PCA(min(_COMPONENTS, min(few.shape) - 1), svd_solver="full").fit(few)
    base = pca.transform(few)
    where = {n: i for i, n in enumerate(names)}
    mine = [pca.transform(cells["cells"][i][:_EMBEDDED]) for i in at]
    out = np.full(len(table), np.nan)
    for row, (method, name) in enumerate(zip(table["method"], table["perturbation"], strict=True)):
        i = where[name]
        if method in methods:
            out[row] = energy_distance(base + methods[method][i] @ pca.components_.T, mine[i])
        elif method == CEILING:
            shuffled = mine[i][rng.permutation(len(mine[i]))]
            out[row] = energy_distance(shuffled[::2], shuffled[1::2])
    return out


def _summary(table: pd.DataFrame, rng: np.random.Generator, n_boot: int = 1000) -> pd.DataFrame:
    """Median over perturbations, its bootstrap interval and the quartiles."""
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
            rows.append((method, metric, float(np.median(values)), lo, hi, q1, q3, len(values)))
    return pd.DataFrame(rows, columns=["method", "metric", "median", "lo", "hi", "q25", "q75", "n"])

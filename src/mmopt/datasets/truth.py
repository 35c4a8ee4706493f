"""The truth of a simulated data set: its simulator is asked what an intervention does to the same cells."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed
from mmopt._keys import TRUTH
from mmopt.datasets.dynamics import TRANSCRIPT
from mmopt.datasets.interventions import Intervention, parse
from mmopt.datasets.network import NO_FATE
from mmopt.datasets.observe import signal
from mmopt.datasets.storage import restore
from mmopt.datasets.system import Snapshot, System

_REGIMES = ("chronic", "acute")
_BLOCK = 2000


def truth_effect(
    mdata: MuData,
    perturbation: object,
    *,
    mode: str = "knockout",
    regime: str = "chronic",
    horizon: float | None = None,
    groupby: str | None = "cell_type",
) -> pd.DataFrame:
    """Return the true effect of a perturbation on every feature of a simulated data set.

    The cells of ``mdata`` are simulated again with and without the clamp, under the same noise (common random
    numbers), and compared before any measurement: no counting noise, dropout or donor effect.

    Parameters
    ----------
    mdata
        Data of :func:`simulate_trimodal`, or a subset of its cells and features.
    perturbation
        ``"GATA1"``, ``("GATA1", "overexpress")``, ``("GATA1", "knockout", 2, 4)`` or a list of these, applied
        together.
    mode
        ``"knockout"`` or ``"overexpress"`` for what does not say.
    regime
        ``"chronic"``: clamped from the first time point, each cell read when it was sampled. ``"acute"``: clamped
        from the moment the cell was sampled and read ``horizon`` days later, in both arms; the days of an explicit
        window then count from that moment.
    horizon
        Days of the acute regime; default: a third of the time span sampled.
    groupby
        Column of ``mdata.obs``; the effect is given for all cells and for each of its groups.

    Returns
    -------
    DataFrame
        ``modality, feature, group`` (``"all"`` first), ``delta`` (mean over the group's cells), ``se`` (its standard
        error over cells), ``n_cells``. Deltas are of log1p(counts per 10,000) for RNA and ATAC and of the centred
        log ratio of log1p(counts) of each cell for protein. Clamped genes and their proteins are left out of a
        cell's total and centre, so that a gene without targets changes nothing but itself. All simulated features
        are listed, also those no longer in ``mdata``.

    Raises
    ------
    KeyError
        No simulated truth in ``mdata.uns``, an unknown gene or column, cells that were not simulated.
    ValueError
        Unknown mode or regime, a horizon that is not positive or before a perturbation starts, a group called "all",
        data that were simulated with ``interventions``.

    Examples
    --------
    >>> mdata = simulate_trimodal(200, n_genes=60, n_peaks=80, n_proteins=5)
    >>> effect = truth_effect(mdata, "GATA1")
    >>> bool(effect.query("feature == 'KLF1' and group == 'all'")["delta"].item() < 0)
    True
    """
    system, cells = restore(mdata)
    clamps = _parsed(perturbation, system, mode)
    groups = _groups(mdata, groupby)
    if regime == "chronic" and horizon is None:
        before, (after,) = system.wild_type[0], system.read([system.time], clamps)
    else:
        span = system.times[-1] - system.times[0]
        at = system.time + _checked_horizon(regime, horizon, span / 3, clamps)
        (before,), (after,) = system.read([at]), system.read([at], clamps, since=system.time)

    depth = mdata.uns[TRUTH]["depth"]
    background = float(mdata.uns[TRUTH]["parameters"].get("atac_background", 0.0))
    clamped = [c.gene for c in clamps]
    total: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    membership = np.stack([np.isin(np.arange(len(cells)), rows) for rows in groups.values()]).astype(float)
    for start in range(0, len(cells), _BLOCK):
        block = cells[start : start + _BLOCK]
        old, new = (
            _normalised(system, snapshot, depth, block, clamped, background) for snapshot in (before, after)
        )
        weight = membership[:, start : start + _BLOCK]
        for modality in new:
            delta = new[modality] - old[modality]
            total[modality] = total.get(modality, 0) + weight @ delta
            squares[modality] = squares.get(modality, 0) + weight @ delta**2
    size = membership.sum(1)[:, None]
    features = {"rna": system.layout.genes, "atac": system.layout.peaks, "prot": system.layout.proteins}
    frames = []
    for modality, frame in features.items():
        mean = total[modality] / size
        variance = np.maximum(squares[modality] / size - mean**2, 0)
        for g, group in enumerate(groups):
            frames.append(
                pd.DataFrame(
                    {
                        "modality": modality,
                        "feature": frame.index,
                        "group": group,
                        "delta": mean[g],
                        "se": np.sqrt(variance[g] / size[g]),
                        "n_cells": int(size[g, 0]),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def truth_fates(
    mdata: MuData,
    perturbation: object = None,
    *,
    mode: str = "knockout",
    regime: str = "chronic",
    horizon: float | None = None,
    groupby: str | None = None,
) -> pd.DataFrame:
    """Return the true share of cells that reach each fate, in the wild type and under a perturbation or schedule.

    Parameters
    ----------
    mdata, perturbation, mode, groupby
        As in :func:`truth_effect`; no perturbation: the wild type alone.
    regime
        ``"chronic"``: the whole life of each cell, clamped from the first time point (or in the windows given, in
        days), fates read four days after the last time point, at day 12 at the earliest. ``"acute"``: clamped from
        the moment the cell was sampled (windows count from there), fates read ``horizon`` days later.
    horizon
        Days of the acute regime; default: as long as a whole chronic run.

    Returns
    -------
    DataFrame
        ``group``, ``fate`` (with ``"none"``), ``wild_type``, ``perturbed`` (where there is a perturbation), ``n_cells``.

    Raises
    ------
    KeyError, ValueError
        As :func:`truth_effect`.

    Examples
    --------
    >>> mdata = simulate_trimodal(200, n_genes=60, n_peaks=80, n_proteins=5)
    >>> fates = truth_fates(mdata, [("SPI1", "knockout", 0, 4)]).set_index("fate")
    >>> bool(fates.loc["monocyte", "perturbed"] < fates.loc["monocyte", "wild_type"])
    True
    """
    system, cells = restore(mdata)
    clamps = _parsed(perturbation, system, mode) if perturbation is not None else []
    groups = _groups(mdata, groupby)
    if regime == "chronic" and horizon is None:
        at, since = system.end, None
    else:
        since = system.time
        at = since + _checked_horizon(regime, horizon, system.end[0], clamps)
    reached = {"wild_type": system.read([at])[0]}
    if clamps:
        reached["perturbed"] = system.read([at], clamps, since)[0]
    fate = {arm: system.network.fate(s.levels[TRANSCRIPT])[cells] for arm, s in reached.items()}
    return pd.DataFrame(
        [
            {
                "group": group,
                "fate": name,
                **{arm: float((reached[rows] == name).mean()) for arm, reached in fate.items()},
                "n_cells": len(rows),
            }
            for group, rows in groups.items()
            for name in [*system.network.fates, NO_FATE]
        ]
    )


def _parsed(perturbation: object, system: System, mode: str) -> list[Intervention]:
    clamps = parse(perturbation, system.layout.genes.index, mode=mode)
    if not clamps:
        raise ValueError("perturbation: give at least one gene")
    return clamps


def _groups(mdata: MuData, groupby: str | None) -> dict[str, np.ndarray]:
    """Row numbers of all cells and of each group."""
    groups = {"all": np.arange(mdata.n_obs)}
    if groupby is not None:
        if groupby not in mdata.obs:
            raise KeyError(
                f"groupby: no column {groupby!r} in mdata.obs; there are {listed(mdata.obs.columns)}"
            )
        labels = mdata.obs[groupby].dropna()
        if "all" in labels.astype(str).unique():
            raise ValueError(
                f"groupby: {groupby!r} has a group 'all', which is what all cells are called; rename that group"
            )
        # numbers before text, where a column has both
        names = sorted(labels.unique(), key=lambda g: (isinstance(g, str), g))
        groups |= {str(g): np.flatnonzero(mdata.obs[groupby] == g) for g in names}
    return groups


def _checked_horizon(
    regime: str, horizon: float | None, default: float, clamps: Sequence[Intervention]
) -> float:
    if regime not in _REGIMES:
        raise ValueError(f"regime must be one of {listed(_REGIMES)}, got {regime!r}")
    if regime == "chronic":
        raise ValueError("horizon belongs to regime='acute'")
    if horizon is None and not default > 0:
        raise ValueError(
            "horizon: there is one time point, and no time span to take a third of; give `horizon` in days"
        )
    days = float(default if horizon is None else horizon)
    if not 0 < days < np.inf:
        raise ValueError(f"horizon must be a positive number of days, got {days:g}")
    for clamp in clamps:
        if (clamp.start or 0) > days:
            raise ValueError(
                f"perturbation: {clamp.gene} from day {clamp.start:g} after sampling on, but cells are read on day {days:g}; "
                "give an earlier start or a longer `horizon`"
            )
    return days


def _normalised(
    system: System,
    snapshot: Snapshot,
    depth: dict,
    cells: np.ndarray,
    clamped: Sequence[str],
    background: float,
) -> dict[str, np.ndarray]:
    """Log-normalised signal, cells × features, the clamped genes left out of totals and centres."""
    profile = signal(system, snapshot, depth, cells, atac_background=background)
    free = ~system.layout.genes.index.isin(clamped)
    shown = ~system.layout.proteins["gene"].isin(clamped).to_numpy()
    shown |= not shown.any()
    log_protein = np.log1p(profile["prot"])
    return {
        "rna": np.log1p(1e4 * profile["rna"] / profile["rna"][:, free].sum(1, keepdims=True)),
        "atac": np.log1p(1e4 * profile["atac"] / profile["atac"].sum(1, keepdims=True)),
        "prot": log_protein - log_protein[:, shown].mean(1, keepdims=True),
    }

"""What predictions of this package's networks would be if the networks' targets were shuffled."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._threads import sensible_threads
from mmopt.tl._perturbation_labels import Hits, agree, read_label
from mmopt.tl._repeated import Repeated, is_same, members_used, repeat, stored_results

# shuffled networks, and members of the ensemble that are averaged in each
_NETWORKS, _MEMBERS = 5, 5


@sensible_threads(0)
def by_shuffled_networks(
    mdata: MuData,
    role: str,
    modality: str,
    features: pd.Index,
    prediction: np.ndarray,
    hits: Mapping[str, Hits],
    prefixes: set[str],
    rng: np.random.Generator,
) -> np.ndarray:
    """Predict the same perturbations of the same cells with shuffled networks.

    A prediction is known by its values: those of a result in ``mdata.uns`` that comes out the same when it is repeated. No
    table says where it is from, and one that was saved and read again would have forgotten.

    Parameters
    ----------
    role, modality
        Of the features.
    features
        Names of the columns of ``prediction``.
    prediction
        ``(n_perturbations, n_features)``, NaN where nothing is predicted.
    hits
        What each of the perturbations hits, by its name.

    Returns
    -------
    numpy.ndarray
        ``(n_networks, n_perturbations, n_features)``; NaN for perturbations that are from elsewhere.
    """
    out = np.full((_NETWORKS, *prediction.shape), np.nan)
    open_ = [i for i, row in enumerate(prediction) if np.isfinite(row).any()]
    labels = list(hits.values())
    for result in stored_results(mdata):
        if not open_:
            break
        stored = _stored(result, modality, features)
        read = {name: read_label(name, prefixes) for name in stored}
        mine = {
            i: name
            for i in open_
            for name, values in stored.items()
            if agree(read[name], labels[i]) and is_same(prediction[i], values)
        }
        if not mine or (again := repeat(mdata, result, role)) is None:
            continue
        columns = features.get_indexer(again.features)
        first = next(iter(mine))
        if not is_same(prediction[first], _spread(again.effects(mine[first]), columns, len(features))):
            continue  # another network, or other counts, than when it was made
        _fill(out, again, mine, columns, rng)
        open_ = [i for i in open_ if i not in mine]
    return out


def _fill(
    out: np.ndarray, again: Repeated, mine: dict[int, str], columns: np.ndarray, rng: np.random.Generator
) -> None:
    few = again.members[members_used(len(again.members), _MEMBERS)]
    for network in out:
        order = again.scene.shuffled(rng)  # one network for all perturbations
        for i, name in mine.items():
            network[i] = _spread(again.effects(name, few, order), columns, out.shape[-1])


def _stored(result: Mapping, modality: str, features: pd.Index) -> dict[str, np.ndarray]:
    """Effects on all cells by the name of the perturbation, in the order of ``features``."""
    table = result["effects"]
    here = (table["modality"].astype(str) == modality) & (table["group"].astype(str) == "all")
    table = table[here.to_numpy()]
    column = features.get_indexer(table["feature"].astype(str))
    value, known = table["delta"].to_numpy(dtype=float), column >= 0
    if "perturbation" in table:
        rows = table.groupby(table["perturbation"].astype(str).to_numpy(), sort=False).indices
    else:
        rows = {result["interventions"]["perturbation"].iloc[0]: np.arange(len(table))}
    found = {}
    for name, mine in rows.items():
        mine = mine[known[mine]]
        found[str(name)] = np.full(len(features), np.nan)
        found[str(name)][column[mine]] = value[mine]
    return found


def _spread(values: np.ndarray, columns: np.ndarray, n: int) -> np.ndarray:
    out = np.full(n, np.nan)
    out[columns[columns >= 0]] = values[columns >= 0]
    return out

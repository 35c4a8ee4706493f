"""How a plot reads what a tool wrote, and the range in which it shows it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mudata import MuData

from mmopt import _keys
from mmopt._checks import check_mudata, listed, nearest

MODALITY_NAMES = {"rna": "RNA", "atac": "ATAC", "prot": "Protein"}


def read(mdata: MuData, key: str, call: str, parts: tuple[str, ...]) -> Mapping[str, Any]:
    """``mdata.uns[key]``, or a ``KeyError`` that names the ``call`` that writes it."""
    check_mudata(mdata)
    if key not in mdata.uns:
        raise KeyError(
            f"mdata.uns has no {key!r} (it has {listed(mdata.uns, 20) or 'nothing'}); call `{call}` first"
        )
    slot = mdata.uns[key]
    check_parts(slot, f"mdata.uns[{key!r}]", call, parts)
    return slot


def check_parts(slot: Any, where: str, call: str, parts: tuple[str, ...]) -> None:
    """Refuse a slot without the parts that ``call`` writes."""
    if not isinstance(slot, Mapping):
        raise KeyError(f"{where} holds no results, so `{call}` did not write it; call it again")
    if missing := [part for part in parts if part not in slot]:
        raise KeyError(f"{where} has no {listed(missing)}, so `{call}` did not write it; call it again")


def chosen_result(results: Mapping[str, Any], key: str | None) -> str:
    """Name of the result of :func:`mmopt.tl.perturb` that is asked for; it may be left out where there is one."""
    if not results:
        raise KeyError(f"mdata.uns[{_keys.PERTURB!r}] is empty; call `mm.tl.perturb(mdata, ...)` first")
    if key is None:
        if len(results) != 1:
            raise KeyError(f"key: there are several results, {listed(results, 20)}; name one")
        return next(iter(results))
    if key not in results:
        close = nearest(key, results) or list(results)
        raise KeyError(f"no result {key!r} in mdata.uns[{_keys.PERTURB!r}]; nearest: {listed(close)}")
    return key


def show_settled(ax: Any, values: Any) -> float:
    """Set the y limits so that a few very high values do not flatten all others; gives the upper one.

    Values are left out that lie more than six times as high above the lowest one as the upper quartile does.
    """
    values = np.ravel(np.asarray(values, dtype=float))
    values = values[np.isfinite(values)]
    if not len(values):
        return np.inf
    low, quartile, high = np.quantile(values, [0, 0.75, 1])
    if quartile > low:
        high = values[values <= low + 6 * (quartile - low)].max()
    margin = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    return high + margin

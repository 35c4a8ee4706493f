"""Genes, peaks and proteins over time, with and without the intervention."""

import numpy as np
from matplotlib.figure import Figure
from mudata import MuData

from mmopt import _keys
from mmopt.pl._figure import COLUMN, finish, style
from mmopt.pl._panels import panels
from mmopt.pl._slots import MODALITY_NAMES, read

_CALL = "mm.tl.simulate(mdata, start=...)"


def dynamics(
    mdata: MuData,
    features: str | list[str],
    *,
    key: str = _keys.SIMULATE,
    width: float = 2 * COLUMN,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure | None:
    """Plot genes, peaks and proteins over time, with and without the intervention.

    Parameters
    ----------
    mdata
        The data with the result of :func:`mmopt.tl.simulate`.
    features
        Name or names; ``"rna:CD4"`` where a name alone would be ambiguous.
    key, width, show, return_fig
        As for :func:`mmopt.pl.fates`.

    Returns
    -------
    Axes (a 1-d array), one per feature. The figure with ``return_fig``, nothing when shown.

    Raises
    ------
    KeyError, ValueError
        No such result or feature, or one that is in several modalities.

    Examples
    --------
    >>> mm.pl.dynamics(mdata, ["GATA1", "KLF1", "prot:CD36"])  # doctest: +SKIP
    """
    slot = read(mdata, key, _CALL, ("features", "params"))
    features = [features] if isinstance(features, str) else features
    if not len(features):
        raise ValueError(f"features: a list of names is needed, not {features!r}")
    table = slot["features"]
    lines = {}
    for name in features:
        modality, _, rest = str(name).partition(":")
        found = (table["feature"].astype(str) == name).to_numpy()
        if not found.any() and rest:
            found = (
                (table["feature"].astype(str) == rest) & (table["modality"].astype(str) == modality)
            ).to_numpy()
        if not found.any():
            raise KeyError(f"features: {name!r} was not read out; simulate with it in `features=`")
        modalities = list(table.loc[found, "modality"].astype(str).unique())
        if len(modalities) > 1:
            raise ValueError(
                f"{name!r} is in several modalities; say {' or '.join(f'{m}:{name}' for m in modalities)!r}"
            )
        shown = MODALITY_NAMES.get(modalities[0], modalities[0])
        lines[f"{rest or name} ({shown})"] = {
            arm: part.sort_values("time")[["time", "mean", "lo", "hi"]].to_numpy(dtype=float).T
            for arm, part in table[found].groupby("arm", sort=False, observed=True)
        }
    with style():
        fig, axes = panels(lines, slot["params"], width, "log1p CP10k (protein: CLR)")
        return finish(fig, axes, show, return_fig)

"""How sharply the loss bends around a fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from torch import Tensor

from mmopt import _keys
from mmopt import curvature as core
from mmopt._compat import versions
from mmopt._progress import progress
from mmopt._random import derived
from mmopt.curvature.hessian import Hessian
from mmopt.curvature.parameters import LossFn, flatten
from mmopt.models import TriVI
from mmopt.models.frozen import check_order, draw_cells, frozen_loss, threads_for


def curvature(
    mdata: MuData,
    model: TriVI,
    *,
    k: int = 5,
    n_probes: int = 32,
    rho: float | Sequence[float] = (0.01, 0.05, 0.1),
    n_cells: int = 512,
    n_noise: int = 3,
    smallest: bool = False,
    split: bool = True,
    key_added: str = _keys.CURVATURE,
    random_state: int = 0,
    progress_bar: bool = True,
) -> None:
    """Measure the curvature of the loss at a fit: top of the spectrum, trace and sharpness.

    The loss is the negative evidence lower bound per cell, without dropout. All measures use the same cells
    and the same noise, and are of the parameters that were trained: of a query, those of its new batches. They depend on
    the scale of the weights, the adaptive sharpness least: compare fits of one architecture that reached about the same loss, over several seeds. That flat fits
    generalise better is not proven.

    Parameters
    ----------
    mdata
        The data the model was trained on; slots are written here.
    model
        Trained model; left as it is.
    k
        How many of the largest eigenvalues of the Hessian.
    n_probes
        Random sign vectors for the trace, at least 2.
    rho
        Radius of the ball, or several, for the sharpness: in units of the parameters, and for the adaptive one relative
        to their size.
    n_cells
        Cells, held-out ones first.
    n_noise
        Draws of the noise for which the largest eigenvalue is found, the first being the one used for all else.
    smallest
        Find the smallest eigenvalue too. A clearly negative one shows that the fit is no minimum.
    split
        Say what each modality and the Kullback-Leibler term contribute to eigenvalues and trace.
    key_added
        Slot in ``mdata.uns``.
    random_state
        Seed of cells, noise, starting vectors and probes.
    progress_bar
        Show one.

    Returns
    -------
    Nothing. Sets ``mdata.uns["curvature"]``:

    ``eigenvalues``
        Table, the largest first: ``eigenvalue``, ``residual`` (an eigenvalue lies within this distance) and, with
        ``split``, what each part of the loss contributes along that eigenvector; the parts sum to the eigenvalue.
    ``noise``
        Table of ``lambda_max`` and ``residual``, a row per draw of the noise.
    ``trace``
        Table with a row per ``part`` of the loss (``"loss"`` is the total): ``trace`` and ``standard_error``.
    ``sharpness``
        Table with the rise of the loss and its parts after one step of gradient ascent of length ``rho``; ``adaptive``
        is 1 where distance is relative to the size of each parameter.
    ``loss``
        The loss at the fit, and its parts.
    ``smallest_eigenvalue``, ``smallest_residual``
        With ``smallest``.
    ``n_forwards``, ``n_gradients``, ``n_hvps``
        Work done: forward passes over ``n_cells`` cells, gradients, and Hessian-vector products.
    ``params``, ``versions``
        With ``n_held_out``, how many of the cells were not trained on.

    Raises
    ------
    ValueError
        An argument out of its range, or a Hessian that is not finite.

    Notes
    -----
    Cost: a Hessian-vector product takes as long as about ten forward passes on a CPU. The top eigenvalues take 20 to 60 products,
    each further draw of the noise some 20, the trace ``n_probes``, the split as much again for each part of the loss,
    the smallest eigenvalue 50 to 200; all else is small. The memory is that of ``max(2 * k + 1, 20)`` copies of the
    parameters in double precision and of one graph of a gradient over ``n_cells`` cells.

    References
    ----------
    Ghorbani et al. (2019) ICML 36 (spectrum); Hutchinson (1990) Commun. Stat. 19:433 (trace); Foret et al. (2021) ICLR
    (sharpness); Kwon et al. (2021) ICML 38 (adaptive sharpness).

    Examples
    --------
    >>> mm.tl.curvature(mdata, model)
    >>> mdata.uns["curvature"]["eigenvalues"]
    """
    _keys.refuse_slot_of_others(key_added, _keys.CURVATURE)
    check_order(mdata, model)
    radii = np.atleast_1d(rho).tolist()
    if (
        min(k, n_cells, n_noise) < 1
        or n_probes < 2
        or not radii
        or not all(0 < radius < np.inf for radius in radii)
    ):
        raise ValueError(
            "k, n_cells and n_noise must be at least 1, n_probes at least 2 and every rho positive and finite; got "
            f"k={k}, n_cells={n_cells}, n_noise={n_noise}, n_probes={n_probes}, rho={rho}"
        )
    work = dict.fromkeys(("n_forwards", "n_gradients", "n_hvps"), 0)

    def count(result: Any) -> Any:
        """Add what a result of the core cost."""
        done = result if isinstance(result, dict) else vars(result)
        for name in work:
            work[name] += done.get(name, 0)
        return result

    def top(loss: LossFn, n: int, **which: Any) -> core.Eigenpairs:
        next(ticks)
        return count(core.top_eigenvalues(loss, parameters, n, **which, random_state=random_state))

    def trace(part: str) -> dict[str, Any]:
        next(ticks)
        found = count(core.trace(_part(loss, part), parameters, n_probes, random_state=random_state))
        return {"part": part, "trace": found["trace"], "standard_error": found["standard_error"]}

    cells, n_held_out = draw_cells(model, mdata, n_cells, random_state)
    parameters, loss = frozen_loss(model, mdata, indices=cells, random_state=random_state)
    with threads_for(model, n_cells):
        at_fit = core.parameters.values(loss, parameters)
        parts = [name for name in at_fit if name != "loss"]
        # one bar for all that takes long
        n_steps = 1 + n_noise + len(parts) * split + smallest
        ticks = progress(range(n_steps), "curvature", n_steps, progress_bar)
        pairs = top(loss, k)
        spectrum = pd.DataFrame({"eigenvalue": pairs.eigenvalues, "residual": pairs.residuals})
        noise = [spectrum.iloc[0].to_dict()]
        for draw in range(1, n_noise):
            _, redrawn = frozen_loss(model, mdata, indices=cells, random_state=derived(random_state, draw))
            other = top(redrawn, 1)
            noise.append({"eigenvalue": other.eigenvalues[0], "residual": other.residuals[0]})
        traces = [trace("loss")]
        if split:
            for part in parts:
                hessian = Hessian(_part(loss, part), parameters)
                vectors = map(flatten, pairs.directions)
                spectrum[part] = [float(v @ (hessian @ v)) for v in vectors]
                work["n_forwards"] += hessian.n_forwards
                work["n_hvps"] += hessian.n_products
                traces.append(trace(part))
        sharpness = [
            {"rho": radius, "adaptive": int(adaptive)}
            | count(core.sharpness(loss, parameters, radius, adaptive=adaptive))["sharpness"]
            for adaptive in (False, True)
            for radius in radii
        ]
        lowest = top(loss, 1, which="SA", shift=pairs.eigenvalues[0]) if smallest else None
    work["n_forwards"] += 1
    slot: dict[str, Any] = {
        "eigenvalues": spectrum,
        "noise": pd.DataFrame(noise).rename(columns={"eigenvalue": "lambda_max"}),
        "trace": pd.DataFrame(traces),
        "sharpness": pd.DataFrame(sharpness),
        "loss": at_fit,
        **work,
        "params": {
            "k": k,
            "n_probes": n_probes,
            "n_cells": len(cells),
            "n_held_out": n_held_out,
            "n_parameters": sum(p.numel() for p in parameters.values()),
            "random_state": random_state,
        },
        "versions": versions(),
    }
    if lowest is not None:
        slot |= {
            "smallest_eigenvalue": float(lowest.eigenvalues[0]),
            "smallest_residual": float(lowest.residuals[0]),
        }
    mdata.uns[key_added] = slot


def _part(loss: LossFn, part: str) -> LossFn:
    def one(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": loss(parameters)[part]}

    return one

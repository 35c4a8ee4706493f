"""The loss around a fit."""

from typing import Literal

from mudata import MuData

from mmopt import _keys, curvature
from mmopt.models import TriVI
from mmopt.models.frozen import frozen_loss
from mmopt.models.threads import sensible_threads

DIRECTIONS = ("random", "hessian")
HESSIAN_RISE = 0.05  # of the loss, per unit along an eigenvector, as far as the loss is quadratic


def landscape(
    mdata: MuData,
    model: TriVI,
    *,
    directions: Literal["random", "hessian"] = "random",
    span: float = 1.0,
    n_points: int = 21,
    n_cells: int = 512,
    key_added: str = _keys.LANDSCAPE,
    random_state: int = 0,
    progress_bar: bool = True,
) -> None:
    """Evaluate the held-out loss on a plane through the fitted parameters.

    The same cells and the same noise are used at every point. A plane shows very little of a space of a hundred
    thousand dimensions: it can show that a fit sits in a basin and how the modalities share it, not that the basin is
    wide in the directions that are not shown.

    Parameters
    ----------
    mdata
        The data the model was trained on; slots are written here.
    model
        Trained model; left as it is.
    directions
        ``"random"``: two Gaussian directions with the norms of the fitted filters (Li et al. 2018). ``"hessian"``:
        the two eigenvectors of largest curvature, of such length that the quadratic part of the loss rises by 5 % at 1.
    span
        Half the width of the plane, in units of the directions.
    n_points
        Points along each axis; the cost is ``n_points**2`` forward passes over ``n_cells`` cells.
    n_cells
        Cells, held-out ones first.
    key_added
        Slot in ``mdata.uns``.
    random_state
        Seed of cells, noise and directions.
    progress_bar
        Show one.

    Returns
    -------
    Nothing. Sets ``mdata.uns["landscape"]``: ``x``, ``y`` (``n_points``), ``loss`` and ``loss_<part>`` (``n_points`` ×
    ``n_points``, per cell; the parts sum to the loss), ``directions``, labels and ``params``.

    Raises
    ------
    ValueError
        Unknown ``directions``, fewer than 3 points or a span that is not positive.

    References
    ----------
    Li et al. (2018) Visualizing the Loss Landscape of Neural Nets, NeurIPS 31.

    Examples
    --------
    >>> mm.tl.landscape(mdata, model)
    >>> mm.pl.landscape(mdata)
    """
    if directions not in DIRECTIONS:
        raise ValueError(f"directions={directions!r} is not known; choose one of {list(DIRECTIONS)}")
    if n_points < 3 or span <= 0:
        raise ValueError(f"n_points must be at least 3 and span positive; got {n_points} and {span}")
    parameters, loss = frozen_loss(model, mdata, n_cells=n_cells, random_state=random_state)
    n_values = n_cells * sum(model.summary_stats[f"n_{m}"] for m in model.modalities)
    seeds = 2 * random_state, 2 * random_state + 1
    across, up = (curvature.random_direction(parameters, random_state=seed) for seed in seeds)
    slot: dict = {}
    with sensible_threads(n_values):
        if directions == "hessian":
            top = curvature.top_eigenvalues(loss, parameters, k=2, random_state=random_state, show_progress=progress_bar)
            slot["hessian_eigenvalues"] = top.eigenvalues
            rise = 2 * HESSIAN_RISE * abs(float(loss(parameters)["loss"]))
            across, up = (
                {name: (rise / abs(eigenvalue)) ** 0.5 * v for name, v in unit.items()}
                for unit, eigenvalue in zip(top.directions, top.eigenvalues, strict=True)
            )
        axis = curvature.axis(n_points, -span, span)
        plane = curvature.slice_2d(
            loss, parameters, (across, curvature.orthogonalise(across, up)), axis, axis, show_progress=progress_bar
        )
    slot |= {"x": plane["x"], "y": plane["y"], "x_label": "Random direction 1", "y_label": "Random direction 2"}
    slot |= {"loss" if key == "loss" else f"loss_{key}": values for key, values in plane["values"].items()}
    slot |= {
        "directions": directions,
        "params": {"span": span, "n_cells": n_cells, "n_forwards": plane["n_forwards"], "random_state": random_state},
    }
    mdata.uns[key_added] = slot


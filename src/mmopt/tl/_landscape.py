"""The loss around a fit."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from mudata import MuData
from torch import Tensor

from mmopt import _keys, curvature
from mmopt._compat import versions
from mmopt._random import derived
from mmopt.curvature.parameters import LossFn, Params, check_same_shapes
from mmopt.models import TriVI
from mmopt.models.frozen import check_order, draw_cells, filter_axes, frozen_loss, threads_for
from mmopt.models.trajectory import RecordParameters

DIRECTIONS = ("random", "trajectory", "hessian")
HESSIAN_RISE = 0.05  # of the loss, per unit along an eigenvector, as far as the loss is quadratic
MARGIN = 0.15  # around a trajectory, as a share of its extent


def landscape(
    mdata: MuData,
    model: TriVI,
    *,
    directions: Literal["random", "trajectory", "hessian"] = "random",
    n_dimensions: Literal[1, 2] = 2,
    n_repeats: int = 5,
    trajectory: RecordParameters | Sequence[Mapping[str, Tensor]] | None = None,
    other: TriVI | None = None,
    span: float = 1.0,
    n_points: int = 21,
    n_cells: int = 512,
    key_added: str = _keys.LANDSCAPE,
    random_state: int = 0,
    progress_bar: bool = True,
) -> None:
    """Evaluate the loss on a plane or on lines through the fitted parameters, or on the path to another fit.

    The loss is the negative evidence lower bound per cell, without dropout, of the same cells with the same noise at
    every point. What moves are the parameters that were trained: of a query, those of its new batches. One or two
    dimensions show very little of a space of a hundred thousand: they can show that a fit sits in a basin and how the
    modalities share it, not that the basin is wide in the directions that are not shown.

    Parameters
    ----------
    mdata
        The data the model was trained on; slots are written here.
    model
        Trained model; left as it is.
    directions
        ``"random"``: Gaussian directions with the norms of the fitted filters; biases and dispersions stay. ``"trajectory"``: the principal
        components of the training run about the fit. ``"hessian"``: the eigenvectors of largest curvature, of such
        length that the quadratic part of the loss rises by 5 % at 1.
    n_dimensions
        2 for a plane, 1 for lines.
    n_repeats
        Lines along so many random directions, for a band; other directions have one line.
    trajectory
        The run: a :class:`mmopt.models.RecordParameters` that was given to ``tl.integrate(...,
        callbacks=[recorder])``, or parameters in the order of training.
    other
        Second fit with the same settings to the same data: the loss on the straight path from ``model`` to it. Two
        fits that only differ by the order of their hidden units are apart in this space; give both the same
        ``random_state`` to compare what an optimizer did.
    span
        Half the width of the plane or lines in units of the directions; for a trajectory a factor to its extent. Not
        used on a path.
    n_points
        Points along each axis.
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
    Nothing. Sets ``mdata.uns["landscape"]``:

    ``x``, ``y``
        Positions along the axes; the fit is at 0. Lines and paths have no ``y``.
    ``loss``, ``loss_<part>``
        The loss per cell, and what each modality and the Kullback-Leibler term (``kl``) contribute: ``len(y)`` ×
        ``len(x)`` for planes, lines × ``len(x)`` for lines, ``len(x)`` for paths. The parts sum to the loss.
    ``trajectory``, ``explained_variance``, ``null_explained_variance``
        The run in the plane, the share of its squared distances from the fit that lies along the axes, and the share a
        random walk with the same lengths of steps would show: only what is above it says something about the training.
    ``hessian_eigenvalues``
        Curvature along the axes.
    ``barrier``, ``excess``
        On a path: how far the loss, and each part, rises above the worse of the two fits, and above the straight line
        between them.
    ``directions`` (``"path"`` on a path), ``params``, ``versions``
        With the work done, and how many of the cells were not trained on.

    Raises
    ------
    ValueError
        Arguments out of their range or that do not go together; a second model of another architecture or data.

    Notes
    -----
    Cost in forward passes over ``n_cells`` cells: ``n_points**2`` for a plane (441), ``n_points * n_repeats`` for lines
    (105), ``n_points`` for a path (21). Hessian directions add 20 to 60 Hessian-vector products of about ten passes each (on a CPU).
    The run is projected onto the plane: the loss there is not the loss the run had.

    References
    ----------
    Li et al. (2018) Visualizing the Loss Landscape of Neural Nets, NeurIPS 31; Antognini and Sohl-Dickstein (2018) PCA
    of high dimensional random walks with comparison to neural network training, NeurIPS 31; Draxler et al. (2018)
    Essentially No Barriers in Neural Network Energy Landscape, ICML 35.

    Examples
    --------
    >>> mm.tl.landscape(mdata, model)
    >>> mm.pl.landscape(mdata)
    >>> mm.tl.landscape(mdata, model, other=second, key_added="path")
    >>> mm.pl.landscape(mdata, key="path")
    """
    _keys.refuse_slot_of_others(key_added, _keys.LANDSCAPE)
    check_order(mdata, model)
    if directions not in DIRECTIONS:
        raise ValueError(f"directions={directions!r} is not known; choose one of {list(DIRECTIONS)}")
    if n_points < 3 or not 0 < span < np.inf or n_dimensions not in (1, 2) or n_repeats < 1 or n_cells < 1:
        raise ValueError(
            "n_points must be at least 3, span positive and finite, n_dimensions 1 or 2, n_repeats and n_cells at least 1; got "
            f"n_points={n_points}, span={span}, n_dimensions={n_dimensions}, n_repeats={n_repeats}, n_cells={n_cells}"
        )
    if (directions == "trajectory") != (trajectory is not None):
        raise ValueError(
            "directions='trajectory' and trajectory= go together: `from mmopt.models import "
            "RecordParameters`, record the run with `recorder = RecordParameters()` and `mm.tl.integrate(mdata, "
            "n_networks=1, callbacks=[recorder])`, and give `trajectory=recorder`"
        )
    if trajectory is not None and len(model.networks) > 1:
        raise ValueError(
            f"the model has {len(model.networks)} networks, fitted one after the other, and a run is that of one: record "
            "`mm.tl.integrate(mdata, n_networks=1, callbacks=[recorder])`"
        )
    if other is not None and directions != "random":
        raise ValueError(f"the path to another fit has no directions={directions!r}; give one or the other")
    cells, n_held_out = draw_cells(model, mdata, n_cells, random_state)
    parameters, loss = frozen_loss(model, mdata, indices=cells, random_state=random_state)
    with threads_for(model, len(cells)):
        if other is not None:
            end = _comparable(model, other, parameters)
            slot = curvature.slice_between(loss, parameters, end, n=n_points, show_progress=progress_bar)
            slot |= {"directions": "path"}
        else:
            axes = [curvature.axis(n_points, -span, span)] * n_dimensions
            if directions == "random":
                lines, found = _random(parameters, n_repeats if n_dimensions == 1 else 2, random_state)
            elif directions == "hessian":
                lines, found = _sharpest(loss, parameters, n_dimensions, random_state, progress_bar)
            else:
                run = trajectory.snapshots if isinstance(trajectory, RecordParameters) else trajectory
                lines, found = _travelled([*run, parameters], n_dimensions, random_state)
                axes = [_around(at, span, n_points) for at in found["trajectory"].T]
            show = {"show_progress": progress_bar}
            if n_dimensions == 1:
                slot = curvature.slice_1d(loss, parameters, lines, *axes, **show)
            else:
                across, up = lines
                plane = across, curvature.orthogonalise(across, up)
                slot = curvature.slice_2d(loss, parameters, plane, *axes, **show)
            slot |= found | {"directions": directions}
    slot |= {("loss" if k == "loss" else f"loss_{k}"): v for k, v in slot.pop("values").items()}
    slot["params"] = {
        "span": span,
        "n_cells": len(cells),
        "n_held_out": n_held_out,
        "n_forwards": slot.pop("n_forwards"),
        "n_hvps": slot.pop("n_hvps", 0),
        "random_state": random_state,
    }
    mdata.uns[key_added] = slot | {"versions": versions()}


def _random(parameters: Params, n: int, seed: int) -> tuple[list[Params], dict[str, Any]]:
    """Directions with the norms of the filters."""
    axes = filter_axes(parameters)
    lines = [
        curvature.random_direction(parameters, filter_axes=axes, random_state=derived(seed, i))
        for i in range(n)
    ]
    return lines, {}


def _sharpest(
    loss: LossFn, parameters: Params, n: int, seed: int, progress_bar: bool
) -> tuple[list[Params], dict[str, Any]]:
    """Eigenvectors of largest curvature, scaled to a rise that can be seen."""
    top = curvature.top_eigenvalues(loss, parameters, n, random_state=seed, show_progress=progress_bar)
    rise = 2 * HESSIAN_RISE * abs(curvature.parameters.values(loss, parameters)["loss"])
    lines = [
        {name: (rise / abs(value)) ** 0.5 * v for name, v in unit.items()}
        for unit, value in zip(top.directions, top.eigenvalues, strict=True)
    ]
    return lines, {"hessian_eigenvalues": top.eigenvalues, "n_hvps": top.n_hvps}


def _travelled(run: list[Params], n: int, seed: int) -> tuple[list[Params], dict[str, Any]]:
    """Directions in which a run moved most, and what a random walk would have shown."""
    found = curvature.pca_directions(run, n_components=n, random_state=seed)
    return found.directions, {
        "trajectory": found.coordinates,
        "explained_variance": found.explained_variance,
        "null_explained_variance": found.null_explained_variance,
    }


def _around(coordinates: np.ndarray, span: float, n: int) -> np.ndarray:
    """Grid that holds the run and, exactly, the fit, which is at 0: no finer than the longer side allows."""
    margin = MARGIN * np.ptp(coordinates)
    low, high = span * (coordinates.min() - margin), span * (coordinates.max() + margin)
    before = np.arange(1, n - 1)  # points before 0
    steps = np.maximum(-low / before, high / (n - 1 - before))
    return steps.min() * (np.arange(n) - before[steps.argmin()])


def _comparable(model: TriVI, other: TriVI, parameters: Params) -> Params:
    """Return the same parameters of another fit, if all else in it is the same."""
    ours, theirs = model.module, other.module
    end = {name: p.detach().to(ours.device) for name, p in theirs.named_parameters()}
    check_same_shapes(dict(ours.named_parameters()), end)
    held = theirs.state_dict()
    differing = [
        name
        for name, value in ours.state_dict().items()
        # depths are predicted after the fit: they are no part of the bound
        if not (name in parameters or "depths." in name or torch.equal(value.cpu(), held[name].cpu()))
    ]
    if differing:
        raise ValueError(
            f"the two models were made with different data or references ({', '.join(differing[:5])} differ), so a point "
            "between them means nothing; fit both to the same data"
        )
    return {name: end[name] for name in parameters}

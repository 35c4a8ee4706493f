"""What a knock-out, an over-expression, a closed peak or a blocked protein does to every feature."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from mudata import MuData

from mmopt import _keys
from mmopt._compat import own_copy, versions
from mmopt._threads import sensible_threads
from mmopt.grn.effects import Perturbation, against_null, epistasis, summarise
from mmopt.models.trained import check_model
from mmopt.tl._cell_effects import cell_effects, store_cell_effects, wanted_roles
from mmopt.tl._conformal import calibrate, check_interval, control_cells
from mmopt.tl._descent import NETWORK, TWIN, check_method, claimed, in_course, with_past
from mmopt.tl._evidence import doubts
from mmopt.tl._interventions import build, label, parse, refuse_unsound, where_silent
from mmopt.tl._matched import matched_p
from mmopt.tl._perturb_tables import decoded_effects, effect_table, group_table
from mmopt.tl._reference import shift_cells, some_cells
from mmopt.tl._reference_flow import reference_flow
from mmopt.tl._repeated import recorded
from mmopt.tl._scene import ALL, Stage, members_of, set_stage
from mmopt.tl._states import state_table

if TYPE_CHECKING:
    from mmopt.models import TriVI

_MUCH = 0.1


def perturb(
    mdata: MuData,
    perturbation: str | tuple[str, str] | Sequence | Mapping[str, object],
    *,
    model: "TriVI | None" = None,
    mode: str = "knockout",
    level: float | None = None,
    method: str = NETWORK,
    groupby: str | None = None,
    cells: Sequence | None = None,
    n_steps: int | str | None = None,
    n_null: int = 20,
    regulons: str = _keys.REGULONS,
    twin: str = _keys.TWIN,
    pseudotime_key: str | None = None,
    flow: str | None = None,
    interval: str = "ensemble",
    perturbation_key: str = "perturbation",
    control: str | None = None,
    allow_extrapolation: bool = False,
    on_missing: str = "raise",
    per_cell: str | Sequence[str] = (),
    key_added: str | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> MuData | None:
    """Clamp one or more features, let the effect travel through the network, and read out every modality.

    Parameters
    ----------
    mdata
        Data with the network of :func:`mmopt.tl.regulons`.
    perturbation
        ``"GATA1"``, ``"rna:CD4"``, ``("GATA1", "overexpress")``, a list of these (applied together), or a dict such as
        ``{"GATA1": 0.0, "SPI1": "2x"}``.
    model
        A trained model: cells are moved in its embedding and decoded. Without one, the embedding is principal
        components.
    mode, level
        ``"knockout"``: 0. ``"knockdown"``: less ``level``, a share (0.5). ``"overexpress"``: ``level`` times the 99.9 %
        quantile (2). ``"block"``: closes a peak or blocks a surface protein. ``"set"``: to ``level``, counts per 10,000 of all
        genes (of a protein: the exponent of its centred log ratio), at most what an over-expression may reach.
    method
        ``"network"``: every cell from where it is, for ``n_steps``. ``"twin"``: needs the result of :func:`mmopt.tl.twin`; the
        features are held from the first time point on, the regulators run along lines of ancestors of each cell, and the cell
        is read at its own time. Effects are then those of cells that grew up without the gene; the regulators of cells of the
        first time point have had no time to change. What the members of the ensemble do not agree on is taken back, as in
        :func:`mmopt.tl.simulate`. It is no better in general: the documentation shows both beside the truth.
    groupby
        Column of groups; effects are given for all cells and for each group.
    cells
        Names or mask of the cells to perturb; default: all.
    n_steps
        Steps of the propagation, or ``"steady"``. By default each member of the ensemble has its own number: how long
        an effect travels is not known, and the intervals say so.
    n_null
        Networks with shuffled targets.
    regulons, twin
        Slots of the network and of the twin.
    pseudotime_key, flow
        What says whether cells are moved forwards or backwards: a column that rises on their way; or as ``flow`` the
        velocity of the ``"twin"``, each cell at its own time, or one in ``mdata.obsm`` beside its embedding,
        ``"velocity_umap"`` beside ``"X_umap"``. Default: ``dpt_pseudotime`` where there is one, else the
        twin with ``method="twin"`` and a model.
    interval
        ``"conformal"`` calibrates the limits on the perturbed cells in the data (split conformal over perturbations): at
        least 9 in the mode of the one asked for, which is left out itself. Effects are then those in the control cells,
        and the network should have been fitted to control cells only.
    perturbation_key, control
        For ``"conformal"``: column with each cell's perturbation (``GATA1``, ``A+B``, ``GATA1_overexpress``; without a
        mode, ``mode``) and the label of the unperturbed cells, as in :func:`mmopt.tl.evaluate_perturbation`.
    allow_extrapolation
        Compute an over-expression or level beyond twice the observed, or of a gene that is not expressed.
    on_missing
        ``"zero"`` gives the direct effect alone for what regulates nothing, instead of an error.
    per_cell
        Modalities, such as ``"rna"`` or ``["rna", "prot"]``, of which the effects on every cell are stored too. Off by
        default: that is a dense array of cells by features, and the ensemble runs for every cell.
    key_added
        Name of the result; default ``"GATA1_knockout"``, ``"GATA1+SPI1_knockout"``.
    random_state
        Seed.
    copy
        Return a changed copy.

    Returns
    -------
    Nothing, or the copy. Sets, for the key ``"GATA1_knockout"``:

    ``mdata.uns["perturb"]["GATA1_knockout"]``
        ``effects``: table ``modality, feature, group`` (``"all"`` first), ``delta`` (for RNA and ATAC of log1p counts per
        10,000 counts of the network's features, which are fewer than all where some are marked highly variable; of the centred
        log ratio for protein; the clamped genes are left out of totals and centres), ``sd``,
        ``q05``, ``q95``, ``prob_up``, ``null_p`` (how often a feature of the modality has as large an effect for its spread
        when the same is done in networks with shuffled targets),
        ``null95`` (size that one feature in twenty of those networks exceeds), ``padj`` (Benjamini–Hochberg over the features
        of a group), ``direct`` (set by the intervention, not inferred through the network: also the protein of a clamped gene,
        at the level that goes with the gene's over the cells), ``decoded`` (the cells moved
        by the network, decoded by the model after and before: as ``delta``, but of the model's features, with the clamped ones
        in the totals; NaN without a model), and for two features ``epistasis`` (``delta`` less those of the two alone) with
        ``epistasis_q05, epistasis_q95`` (over the members alone: nothing of what no ensemble knows is in it).
        ``groups``: table ``group, n_cells, detected`` (share of its cells in which the feature was counted, the least of
        several), ``shift_norm`` (root mean square of the RNA effects), ``matched_p`` (how often the
        same done to other regulators of like expression has as large effects, by some of the members),
        ``clip_fraction, ood_fraction, perturbation_score`` (mean cosine of the cells' moves with the
        direction in which their neighbours are ahead, by pseudotime or along the velocity), ``agreement`` (cosine of the network's
        effects with the model's difference of decodes). ``cells`` (those that stand for the groups, with their ``weight`` in the mean over all) and
        ``interventions``; ``params`` (with ``interval``), ``warnings``, ``versions``. For
        conformal intervals also ``n_calibration``, ``coverage`` and ``coverage_changed`` in ``params``;
        ``calibration``: ``perturbation, n_cells, coverage`` (of its measured features by the interval calibrated on the
        others), ``coverage_changed`` (of those that change by more than 0.1 and four standard errors), the same for
        the ensemble (``ensemble, ensemble_changed``), ``widening`` (median width over that of the ensemble),
        ``mae`` beside ``mae_no_change`` and ``mae_scaled``, with the ``factor`` on all effects that fits the others
        (only reported: a fitted factor would cost the guarantee); and ``skipped``, with reasons. ``sd`` and ``prob_up``
        stay those of the ensemble; limits are NaN where fewer than 9 perturbations measure a feature.
        ``states`` (where ``groupby`` names two groups or more): table ``group, state, before, after, delta, q05, q95``:
        what share of the 15 unperturbed cells nearest to one of ``group`` is of the group ``state``, mean over the cells that stand for
        the group, before and after the perturbation; limits over the members alone, which hold few of the true changes. Cells that stand for the groups are
        compared, up to 50 of each, in the embedding of ``model``, or else in the first principal components of the
        pooled RNA without the clamped genes. ``null95``: size of ``delta`` that one network in twenty with shuffled targets
        exceeds.
    ``mdata["rna"].layers["delta_GATA1_knockout"]``
        With ``per_cell="rna"``: the effect on every cell, as ``delta``, float32; its mean over a group is the ``delta`` of the group, but for
        the drawing of up to 50 cells that stand for it (300 where there are no groups). NaN for cells that were not perturbed and for features
        the network does not have.
    ``mdata.obsm["X_mmopt_GATA1_knockout"]``, ``mdata.obsm["X_mmopt_GATA1_knockout_null"]``
        Where the model puts each cell afterwards, and where it would with shuffled targets; only with ``model``.
    ``mdata.obs["perturb_score_GATA1_knockout"]``
        The cosine of each cell; only where there is a pseudotime or a velocity.

    Raises
    ------
    KeyError, TypeError, ValueError
        No network or twin, a feature that is unknown, ambiguous, not expressed or without outgoing edges, a mode or level that
        makes no sense; the message says what to change.

    Notes
    -----
    The direction of an effect is the deliverable, its size needs calibration on real perturbations. Intervals hold the
    spread over cells, edges, forms and horizons, and terms for the transfer to unseen states that were set on simulated
    networks: 91 to 99 % of the changed RNA features lie within on new networks of that kind, 76 to 83 % where most genes
    are constant, 81 to 92 % where ATAC has much background besides, and 78 to 90 % on another simulator.
    Read them as too narrow. ``null_p`` and ``padj`` rank the targets of one perturbation among themselves: a regulator with broad
    effects has them in shuffled networks too, so that hardly any of its targets stands out, and a target that does is no
    evidence that the regulator acts. ``matched_p`` and the intervals speak of that. A conformal interval holds the measured
    effect on a feature, of a perturbation that is
    exchangeable with the calibrating ones and has as many cells, with 90 % probability or more. That is an average over
    features and perturbations: on the features that change it can hold less. For doubles
    ``epistasis`` comes from saturation alone: it is no evidence of genetic interaction.

    Examples
    --------
    >>> mm.tl.perturb(mdata, "GATA1", model=model, groupby="cell_type")
    >>> mdata.uns["perturb"]["GATA1_knockout"]["effects"].query("group == 'all'").nsmallest(5, "null_p")
    """
    if n_null < 5:
        raise ValueError(f"n_null must be at least 5, got {n_null}")
    if (
        n_steps is not None
        and n_steps != "steady"
        and not (isinstance(n_steps, int | np.integer) and n_steps > 0)
    ):
        raise ValueError(f"n_steps must be a positive integer, 'steady' or None, got {n_steps!r}")
    check_model(model)
    check_interval(interval, cells)
    check_method(method, n_steps, interval)
    if copy:
        mdata = own_copy(mdata)
    conformal = interval == "conformal"
    if conformal:
        cells, labels = control_cells(mdata, perturbation_key, control)
        control = str(labels[cells].iloc[0])
    lost: list[str] = []
    if method == TWIN:
        course, members, cells, lost = in_course(mdata, twin, members_of(mdata, cells))
    stage = set_stage(
        mdata, regulons=regulons, groupby=groupby, cells=cells, seed=random_state, apart=conformal
    )
    if method == TWIN:
        stage = with_past(stage, course, members, random_state)
    # without a model only few cells are moved where there are many, and no reference is worth more
    usual = TWIN if method == TWIN and model is not None else None
    reference, ahead = reference_flow(mdata, pseudotime_key, flow, twin, usual)
    interventions = parse(perturbation, mode, level, stage.features, mdata)
    roles = wanted_roles(per_cell, stage.features.modalities)
    columns = [i.column for i in interventions]
    detected = stage.profiles.detected(columns, stage.member)
    in_groups = stage.profiles.detected_in(
        columns, [np.isin(np.arange(mdata.n_obs), rows) for rows in stage.groups.values()]
    )
    remarks = (
        lost
        + stage.remarks
        + doubts(mdata.uns[regulons], detected)
        + refuse_unsound(
            interventions,
            stage.features,
            stage.scene,
            stage.links,
            detected,
            allow_extrapolation=allow_extrapolation,
            on_missing=on_missing,
        )
        + where_silent(interventions, list(stage.groups), in_groups)
    )
    key = _keys.perturbation_key(key_added or label(interventions))
    make = partial(_on_scene, interventions, stage, n_steps)
    clamp = make(stage.scene)
    rng = np.random.default_rng([random_state, 12])

    with sensible_threads(0):
        draws, clipped = stage.scene.draws(clamp)
        null = stage.scene.null(clamp, n_null, rng)
        together = {}
        if len(interventions) == 2:
            singles = [_on_scene([one], stage, n_steps, stage.scene) for one in interventions]
            effects = [draws, *(stage.scene.draws(single)[0] for single in singles)]
            both, first, second = (e * claimed(e, method) for e in effects)
            together = epistasis(both, first, second, list(clamp.clamps))
    spread = stage.spread
    summary = summarise(draws, spread, list(clamp.clamps), claimed(draws, method))
    extra: dict[str, Any] = {}
    if conformal:
        calibration = calibrate(
            mdata, stage, labels, mode=mode, level=level, groupby=groupby, n_steps=n_steps, seed=random_state
        )
        summary, n_calibration = calibration.interval(interventions, summary)
        extra, remark = calibration.report(n_calibration, [interventions])
        remarks += remark
    blocks = list(stage.features.blocks.values())
    p, band = against_null(draws.mean(0), null, spread, blocks, list(clamp.clamps))
    # without a model or a direction only the share of the cells that leave the data is wanted
    moved = whole = stage.groups[ALL]
    if model is None and ahead is None:
        moved, whole = some_cells(stage, random_state)
    shift = shift_cells(mdata, stage, make, model, random_state, moved)
    score = None if ahead is None else shift.along(ahead)
    with sensible_threads(0):
        matched = matched_p(stage, interventions, clamp, rng)
        states = state_table(mdata, stage, clamp, shift, model, n_null, random_state)
        of_cells = {
            stage.features.modalities[role]: cell_effects(mdata, stage, make, role, claimed(draws, method))
            for role in roles
        }
    decoded = decoded_effects(stage, shift)
    groups = group_table(
        stage, clamp, in_groups, summary["delta"], decoded, clipped, matched, shift, whole, score
    )
    for column, limit in (
        ("clip_fraction", "what was observed"),
        ("ood_fraction", "99 % of the unperturbed cells"),
    ):
        if (groups[column] > _MUCH).any():
            worst = groups.loc[groups[column].idxmax()]
            remarks.append(
                f"{worst[column]:.0%} of the {'changes' if column[0] == 'c' else 'cells'} of {worst['group']} lie beyond {limit}"
            )
    for remark in remarks:
        warnings.warn(f"{key}: {remark}", stacklevel=2)

    tables, how = recorded(mdata, stage, [interventions], method, n_steps, twin)
    found = {
        "effects": effect_table(
            stage, summary, p, band, list(clamp.clamps), {"decoded": decoded, **together}
        ),
        "groups": groups,
        **({} if states is None else {"states": states}),
        **tables,
        "params": {
            "perturbation": [i.name for i in interventions],
            "mode": [i.mode for i in interventions],
            "level": np.array([np.nan if i.level is None else i.level for i in interventions]),
            **how,
            "groupby": groupby or "",
            "n_null": n_null,
            "n_members": stage.scene.network.n_members,
            "n_cells": len(stage.chosen),
            "interval": interval,
            **({"perturbation_key": perturbation_key, "control": control} if conformal else {}),
            **extra.pop("params", {}),
            "regulons": regulons,
            "modalities": dict(stage.features.modalities),
            "model": model is not None,
            "flow": reference,
            "random_state": random_state,
        },
        **extra,
        "warnings": np.array(remarks, dtype=object),
        "versions": versions(),
    }
    # not into the dict that is there: a view of the data would share it with its parent
    mdata.uns[_keys.PERTURB] = {**mdata.uns.get(_keys.PERTURB, {}), key: found}
    for stale in (_keys.shifted_embedding(key), _keys.null_embedding(key)):  # of a call that had a model
        mdata.obsm.pop(stale, None)
    if _keys.perturbation_score(key) in mdata.obs:
        del mdata.obs[_keys.perturbation_score(key)]
    store_cell_effects(mdata, key, of_cells)
    if model is not None:
        embedded = np.full((mdata.n_obs, shift.after.shape[1]), np.nan, dtype=np.float32)
        embedded[moved] = shift.after
        mdata.obsm[_keys.shifted_embedding(key)] = embedded
        mdata.obsm[_keys.null_embedding(key)] = by_chance = np.full_like(embedded, np.nan)
        by_chance[moved] = shift_cells(mdata, _shuffled(stage, rng), make, model, random_state, moved).after
    if score is not None:
        along = np.full(mdata.n_obs, np.nan)
        along[moved] = score
        mdata.obs[_keys.perturbation_score(key)] = along
    return mdata if copy else None


def _on_scene(interventions: list, stage: Stage, n_steps: int | str | None, scene) -> Perturbation:
    return build(interventions, stage.features, scene, stage.links, stage.cognate, n_steps)


def _shuffled(stage: Stage, rng: np.random.Generator) -> Stage:
    """Give every target of the network the regulators of another one."""
    network = stage.scene.network
    other = replace(network, target=stage.scene.shuffled(rng)[network.target])
    return replace(stage, scene=replace(stage.scene, network=other))

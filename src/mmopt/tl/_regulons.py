"""Who regulates whom: an ensemble of networks from a prior, chromatin and covariation."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt import _keys
from mmopt._batches import batch_codes
from mmopt._checks import find_modalities, listed, report_unused
from mmopt._compat import versions
from mmopt._logging import logger
from mmopt._response import log_odds
from mmopt._threads import sensible_threads
from mmopt.grn.confirmation import confirm
from mmopt.grn.ensemble import TOGETHER, cross_validated_penalty, fit_network
from mmopt.grn.evidence import labels
from mmopt.grn.links import activity
from mmopt.grn.network import sign_stability, spectral_radius
from mmopt.grn.problem import Problem
from mmopt.grn.scale import agreement, produced, production_scale, tops
from mmopt.tl._evidence import FEW_PREDICTED, PREDICTED, edge_support, linked_peaks
from mmopt.tl._features import choose_features, one_spelling, role_of
from mmopt.tl._nascent import nascent
from mmopt.tl._pace import pace
from mmopt.tl._profiles import read_profiles, usual_embedding
from mmopt.tl._regulon_tables import checked_table, regulator_columns, two_halves, wanted_regulators

_FIT_CELLS = 3000
_LEAST_CELLS = 10
# evidence of at least so many edges that is not confirmed so many standard deviations more often than by chance is warned of
_JUDGED_EDGES, _CHANCE = 20, 2.0


def regulons(
    mdata: MuData,
    prior: pd.DataFrame | None = None,
    *,
    rna: str | None = None,
    atac: str | bool | None = None,
    prot: str | bool | None = None,
    layer: str | None = None,
    regulators: Sequence[str] | None = None,
    motifs: pd.DataFrame | None = None,
    window: float = 150_000,
    prior_strength: float = 100.0,
    donor_key: str | None = None,
    time_key: str | None = None,
    unspliced: str | None = None,
    use_rep: str | None = None,
    n_neighbors: int = 30,
    n_boot: int = 20,
    key_added: str = _keys.REGULONS,
    random_state: int = 0,
) -> None:
    """Fit which regulator acts on which gene, peak and protein, as often as it takes to see how sure that is.

    Raw counts of neighbouring cells are added up, and the log odds of every feature between off and fully on are
    regressed on the occupancy of the regulators. For a gene with linked peaks whose accessibility goes along with its
    expression (a correlation of at least 0.4 to 0.6, by member) that counts too, on the scale of expression; for a regulator it is all
    that counts: chromatin shows what is being made now, expression what was made before. Penalties grow on edges
    without evidence, most of a regulator of whose evidence the data confirm few edges, on those the data do not ask for, and on
    all edges of a regulator of whose evidence the data confirm no more than chance would.

    Parameters
    ----------
    mdata
        Raw counts of RNA, and ATAC and surface protein where there are.
    prior
        Edges with columns ``source``, ``target`` and optionally ``weight`` (or ``sign``, ``mor``; numbers, ``"+"`` or
        ``"-"``), as decoupler's networks come; a source may be a protein, as ``"prot:CD4"``. An edge that is there with both
        signs has none. Without a prior every gene (or ``regulators``)
        may regulate, on the evidence of covariation alone: decoys then get effects as large as true regulators.
    rna, atac, prot
        Names of the modalities; ``False`` leaves ATAC or protein out. RNA is needed: regulators are genes.
    layer
        Layer with the raw counts; ``layers["counts"]`` where there is one, else ``X``.
    regulators
        Genes that may regulate; by default the sources of ``prior`` and ``motifs``.
    motifs
        Columns ``peak`` and ``source``: which regulator's motif lies in which peak.
    window
        Largest distance in bases between a peak and a transcription start to which it may be linked.
    prior_strength
        Penalty of an edge outside the prior relative to one inside.
    donor_key
        Column of the donors: with four or more penalties are validated across donors, with five or more the bootstrap draws
        donors instead of pools of cells.
    time_key
        Column with the real times of sampling, where there are several: features are then regressed as what they come to at the
        pace at which they change (see Notes).
    unspliced
        Layer of the RNA with raw counts of unspliced molecules, as of RNA velocity: they show what is being made of each gene, beside
        chromatin or without it (see Notes).
    use_rep
        Embedding in which neighbours are found: ``obsm["X_mmopt"]`` where there is one, else principal components.
    n_neighbors
        Cells added up.
    n_boot
        Members of the ensemble.
    key_added
        Slot in ``mdata.uns``.
    random_state
        Seed.

    Returns
    -------
    Nothing. Sets ``mdata.uns["regulons"]``:

    ``edges``
        Table ``source_modality, source, target_modality, target, weight`` (mean coefficient, in standard deviations
        of the target's log odds per standard deviation of the occupancy), ``sd`` over the members (both before the spectral
        radius is limited), ``sign_stability`` (share of the members with the sign that most of them give), ``evidence``:
        ``"prior+peak"`` (in the prior, and the chromatin of the target agrees), ``"prior"``, ``"motif+peak"`` or
        ``"covariation"``.
    ``regulators``
        Table ``modality, feature, n_edges`` (edges to genes that prior and motifs give the regulator), ``n_confirmed`` (of
        these, how many come out with the same sign and a standardised coefficient above 0.1), ``n_by_chance`` (the same of as
        many edges to genes drawn at random, mean of five draws), ``doubt`` (0 to 1: how much more likely so few are by chance
        than for all regulators together). Where all together have hardly more than by chance, a warning says so.
    ``links``
        Table ``gene, peak, distance, correlation, weight``.
    ``spectral_radius``
        Largest of the members, after it was kept below 0.95; ``members["spectral_radius"]`` has those before.
    ``members``, ``features``, ``params``, ``versions``
        What :func:`mmopt.tl.perturb` needs. ``features["held_out_r2"]``: share of each feature's variance that the regulators
        predict in cells pooled apart, NaN where it does not vary; ``params["predictable"]``: share of the genes that vary with
        more than 0.3. Below a tenth a warning says so here, and another with every perturbation.

    Raises
    ------
    KeyError, TypeError, ValueError
        Data, prior or arguments that cannot be used; the message says what to change.

    Notes
    -----
    Covariation in a snapshot mixes cause, co-regulation and cell type. Edges labelled ``"covariation"`` are hypotheses;
    a sign can flip where a regulator falls while its targets rise.

    With ``time_key`` cells of consecutive times are coupled as in :func:`mmopt.tl.twin`, and each pool's change is the mean of its
    descendants less that of its ancestors. A level that changes has not yet come to what its regulators make of it; what they make
    is the level plus its change during one turnover, and that is regressed on the regulators. Turnovers of 6, 12 and 24 a course
    are shared out among the members. Of a regulator with linked chromatin, of which the chromatin alone counts without times, it is the
    mean of both.

    ``unspliced`` counts are pooled as the others are, and enter where the chromatin does, on the scale of expression and where they go along
    with it; of a gene with both it is their mean. This is what velocity says (what is made, relative to what there is) without a velocity.

    References
    ----------
    Kamimoto K et al. (2023) Nature 614:742, for regularised regression on candidate edges. Ma S et al. (2020) Cell
    183:1103, for chromatin that leads expression. La Manno G et al. (2018) Nature 560:494, for unspliced RNA that does.

    Examples
    --------
    >>> mdata = mm.datasets.toy()
    >>> net = pd.DataFrame({"source": ["GATA1", "SPI1"], "target": ["KLF1", "GATA1"], "weight": [1, -1]})
    >>> mm.tl.regulons(mdata, prior=net)
    >>> mdata.uns["regulons"]["edges"].head()
    """
    _keys.refuse_slot_of_others(key_added, _keys.REGULONS)
    if n_boot < 5 or n_neighbors < 2 or not prior_strength >= 1 or not window > 0:
        raise ValueError(
            "n_boot must be at least 5, n_neighbors at least 2, prior_strength at least 1 and window positive; got "
            f"{n_boot=}, {n_neighbors=}, {prior_strength=}, {window=}"
        )
    modalities = find_modalities(mdata, rna, atac, prot)
    report_unused(mdata, modalities, rna=rna, atac=atac, prot=prot)
    if "rna" not in modalities:
        raise ValueError(
            f"no RNA modality among {listed(mdata.mod)}: regulators are genes; name it with `rna=`"
        )
    if mdata.n_obs < _LEAST_CELLS:
        raise ValueError(
            f"a network needs {_LEAST_CELLS} cells, and many more to mean anything; there are {mdata.n_obs}"
        )
    prior = checked_table(prior, "prior", ("source", "target"))
    motifs = checked_table(motifs, "motifs", ("peak", "source"))
    for given in (prior, motifs):
        if given is not None:
            given["source"] = [one_spelling(s, mdata, modalities) for s in given["source"]]
    if motifs is not None and "atac" not in modalities:
        raise ValueError("motifs lie in peaks, but there is no ATAC modality; name it with `atac=`")
    wanted = wanted_regulators(prior, motifs, regulators)
    named = {(role_of(w.partition(":")[0], modalities), w.partition(":")[2]) for w in wanted}
    keep = {role: {name for r, name in named if r == role} for role in ("rna", "prot")}
    features = choose_features(mdata, modalities, keep | {"rna": keep["rna"] | wanted})
    profiles = read_profiles(mdata, features, layer=layer, use_rep=use_rep)
    transcribed = None if unspliced is None else nascent(mdata, profiles, unspliced, layer)
    columns = regulator_columns(mdata, features, prior, motifs, regulators)

    rng = np.random.default_rng(random_state)
    query = np.sort(rng.permutation(mdata.n_obs)[:_FIT_CELLS])
    values = profiles.values(query, n_neighbors)
    top, bottom = tops(values), np.zeros(values.shape[1])
    blocks = features.blocks
    if "prot" in blocks:
        bottom[blocks["prot"]] = 0.95 * np.quantile(values[:, blocks["prot"]], 0.005, axis=0)
    scale = np.maximum(top - bottom, 1e-9)
    links = linked_peaks(mdata, features, values, window)
    sign, in_prior, by_motif = edge_support(mdata, features, links, columns, prior, motifs)
    donors = None
    if donor_key is not None:
        codes, names = batch_codes(mdata, donor_key, modalities)  # refuses cells without a donor
        donors = np.array(names)[codes]

    def levels(
        values: np.ndarray, rows: np.ndarray, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        chromatin = np.full_like(values, np.nan)
        if len(links):
            opened, linked = activity(links, values[:, blocks["atac"]], len(features.names["rna"]))
            chromatin[:, np.flatnonzero(linked)] = (opened / tops(opened))[:, linked]
        seen = [chromatin]
        if transcribed is not None:
            seen.append(np.full_like(values, np.nan))
            now = transcribed.values(rows, n_neighbors, among)
            seen[1][:, blocks["rna"]] = now / tops(now)
        return (values - bottom) / scale, [log_odds(each) for each in seen]

    level, seen = levels(values, query)
    scales = [production_scale(log_odds(level), each, min(TOGETHER)) for each in seen]
    together = agreement(scales)

    def problem(level: np.ndarray, seen: list[np.ndarray], rows: np.ndarray) -> Problem:
        return Problem(
            level,
            produced(seen, scales),
            together,
            columns,
            sign,
            None if donors is None else donors[rows],
            len(features.names["rna"]),
        )

    whole = problem(level, seen, query)
    folds = []
    for among in two_halves(profiles.rows, mdata.n_obs, donors, rng):
        rows = query[among[query]]
        folds.append(problem(*levels(profiles.values(rows, n_neighbors, among), rows, among), rows))
    if time_key is not None:
        whole = replace(whole, pace=pace(mdata, time_key, profiles.embedding, query, level))
    with sensible_threads(len(columns) * values.shape[1]):
        penalty, errors, explained = cross_validated_penalty(folds, prior_strength)
        evidence = confirm(whole, penalty, prior_strength, random_state)
        network, size, spread, radii = fit_network(
            whole, penalty, evidence, prior_strength=prior_strength, n_members=n_boot, seed=random_state
        )
    of_genes = explained[blocks["rna"]]
    of_genes = of_genes[np.isfinite(of_genes)]
    predictable = float((of_genes > PREDICTED).mean()) if len(of_genes) else 0.0
    if prior is None and motifs is None:
        logger.warning(
            "no prior: %d regulators on the evidence of covariation alone; in simulations decoys then get effects as "
            "large as true regulators. Give `prior=`, e.g. decoupler's CollecTRI",
            len(columns),
        )
    if evidence.known.sum() >= _JUDGED_EDGES and evidence.beyond_chance < _CHANCE:
        logger.warning(
            "the data confirm %d of the %d edges to genes that the evidence gives, and %.0f of as many to genes drawn at random: "
            "in these cells it says little about who regulates what, and effects rest on covariation",
            evidence.confirmed.sum(),
            evidence.known.sum(),
            evidence.by_chance.sum(),
        )
    if predictable < FEW_PREDICTED:
        logger.warning(
            "the regulators predict %.0f %% of the genes in cells pooled apart (held-out R2 above %.1f): there is little in "
            "these counts to learn a network from, and what is computed with it will mostly be noise",
            100 * predictable,
            PREDICTED,
        )
    table = features.table
    occupied = whole.level[:, columns]
    agrees = np.sign(_correlation(occupied, np.nan_to_num(seen[0])))
    expected = np.zeros_like(sign)
    expected[network.target, network.source] = np.sign(size)
    radius = [
        spectral_radius(network.dense(m)[columns], occupied, network.forms[m])
        for m in range(network.n_members)
    ]
    source, target = columns[network.source], network.target
    edges = pd.DataFrame(
        {
            "source_modality": pd.Categorical(table["modality"].to_numpy()[source]),
            "source": table["feature"].to_numpy()[source],
            "target_modality": pd.Categorical(table["modality"].to_numpy()[target]),
            "target": table["feature"].to_numpy()[target],
            "weight": size,
            "sd": spread,
            "sign_stability": sign_stability(network.weights),
            "evidence": pd.Categorical(
                labels(in_prior, by_motif, (expected == agrees.T) & (expected != 0), target, network.source)
            ),
        }
    )
    mdata.uns[key_added] = {
        "edges": edges,
        "links": links.assign(
            gene=features.names["rna"].to_numpy(dtype=object)[links["gene"]],
            peak=features.names["atac"].to_numpy(dtype=object)[links["peak"]] if len(links) else "",
        ),
        "regulators": table.iloc[columns]
        .reset_index(drop=True)
        .assign(
            modality=lambda t: pd.Categorical(t["modality"]),
            n_edges=evidence.known,
            n_confirmed=evidence.confirmed,
            n_by_chance=evidence.by_chance,
            doubt=evidence.doubt,
        ),
        "spectral_radius": float(max(radius)),
        "members": {
            "source": network.source.astype(np.int32),
            "target": network.target.astype(np.int32),
            "weights": network.weights.astype(np.float32),
            "regulators": columns.astype(np.int32),
            "exponent": np.array([f.exponent for f in network.forms]),
            "half": np.array([f.half for f in network.forms]),
            "n_steps": np.array(network.n_steps),
            "spectral_radius": radii,
        },
        "features": table.assign(
            modality=pd.Categorical(table["modality"]),
            top=top,
            bottom=bottom,
            highest=np.quantile(whole.level, 0.999, axis=0),
            held_out_r2=explained,
        ),
        "params": {
            "modalities": dict(modalities),
            "layer": layer or "",
            "use_rep": use_rep or usual_embedding(mdata),
            "n_neighbors": n_neighbors,
            "penalty": penalty,
            "prior_strength": float(prior_strength),
            "cross_validation": pd.DataFrame({"penalty": list(errors), "error": list(errors.values())}),
            "window": float(window),
            "donor_key": donor_key or "",
            "time_key": time_key or "",
            "unspliced": unspliced or "",
            "predictable": predictable,
            "n_prior_edges": int(in_prior[: len(features.names["rna"])].sum()),
            "random_state": random_state,
        },
        "versions": versions(),
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y) / np.maximum(np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=0)), 1e-12)

"""What a model takes from the registered data before training."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scvi.data import AnnDataManager

from mmopt import _checks
from mmopt._cut_sites import are_cut_sites
from mmopt._logging import logger
from mmopt.models import components, panels, statistics
from mmopt.models.mosaic import Mosaic, forget, read_mosaic
from mmopt.models.stored import blocks


def found(
    manager: AnnDataManager, n_components: int = 0
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray], int]:
    """Return the statistics of each modality, what each batch measured of it, and the number of cells.

    With ``n_components`` those of the peaks too.
    """
    mosaic = read_mosaic(manager)
    measured = what_is_measured(manager, mosaic)
    per_modality = {
        m: statistics.protein(counts, batch_of_rows(mosaic, m), measured[m])
        if m == "prot"
        else getattr(statistics, m)(counts)
        for m, counts in mosaic.counts.items()
    }
    if n_components:
        atac = per_modality["atac"]
        atac["components"] = components.leading(mosaic.counts["atac"], atac, n_components)
    return per_modality, measured, len(mosaic.batch)


def what_is_measured(manager: AnnDataManager, mosaic: Mosaic) -> dict[str, np.ndarray]:
    """Return which batch measured each modality (batches × 1) and which proteins (batches × proteins)."""
    batches = list(manager.get_state_registry("batch")["categorical_mapping"])
    measured = {m: seen[:, None] for m, seen in mosaic.seen(len(batches)).items()}
    if "prot" in measured:
        measured["prot"] = panels.measured(
            mosaic.counts["prot"],
            batch_of_rows(mosaic, "prot"),
            manager.get_state_registry("prot")["features"],
            batches,
            manager.registry["setup_args"].get("protein_panels", "auto"),
        )
    return measured


def note_empty_batches(manager: AnnDataManager, known: Sequence[str]) -> None:
    """Note in the setup which batches, beside those known, have no count of any protein: they did not measure protein.

    Files that join experiments hold zeros there, which are absent values like those of single proteins.
    """
    fields = manager.registry["field_registries"]
    batches = fields["batch"]["state_registry"]["categorical_mapping"]
    if "prot" not in fields or manager.registry["setup_args"].get("protein_panels", "auto") != "auto":
        return
    state = fields["prot"]["state_registry"]
    if state["absent"] or len(batches) < 2 or set(batches) <= set(known):
        return
    mosaic = read_mosaic(manager)
    # what was read for an earlier registration has these cells left out
    place = mosaic.place | {"prot": _checks.positions(manager.adata, state["modality"])}
    mosaic = replace(mosaic, place=place)
    empty = panels.empty_batches(mosaic.counts["prot"], batch_of_rows(mosaic, "prot"), batches)
    empty = [b for b in empty if b not in known]
    if not empty:
        return
    where = f"modality {state['modality']!r}: the cells of {len(empty)} batches ({_checks.listed(empty)})"
    state["empty_batches"] = [*state.get("empty_batches", []), *empty]
    forget(manager)
    lost = manager.adata.obs_names[~read_mosaic(manager).present.any(1)]
    if len(lost):
        raise ValueError(
            f"{where} have no count of any protein, and {len(lost)} of them no other modality "
            f"({_checks.listed(lost)}); leave these cells out"
        )
    logger.warning("%s have no count of any protein; it is taken as not measured there", where)


def warn_of_cut_sites(manager: AnnDataManager) -> None:
    """Say it where the ATAC counts, as far as a first part of them tells, are no fragments."""
    state = manager.registry["field_registries"].get("atac", {}).get("state_registry")
    if state is None or state["absent"]:
        return
    name, counts = state["modality"], read_mosaic(manager).counts["atac"]
    if are_cut_sites(next(blocks(counts)).data):
        logger.warning(
            "modality %r: twos outnumber ones, so these counts are cut sites, two of each fragment, which the likelihood takes "
            "for independent; put fragments in their place, half of each count rounded up: `mm.pp.prepare(mdata)` does it in "
            'layers["counts"], but for counts on disk',
            name,
        )


def batch_of_rows(mosaic: Mosaic, modality: str) -> np.ndarray:
    """Return the batch of each row of a modality's counts, -1 for rows that count as not measured."""
    place = mosaic.place[modality]
    cells = np.flatnonzero(place >= 0)
    out = np.full(mosaic.counts[modality].shape[0], -1)
    out[place[cells]] = mosaic.batch[cells]
    return out

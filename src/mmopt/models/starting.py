"""What a model takes from the registered data before training."""

import numpy as np
from scvi.data import AnnDataManager

from mmopt.models import components, panels, statistics
from mmopt.models.data import Mosaic, read


def found(
    manager: AnnDataManager, n_components: int = 0
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray], int]:
    """Return the statistics of each modality, what each batch measured of it, and the number of cells.

    With ``n_components`` those of the peaks too.
    """
    mosaic = read(manager)
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


def batch_of_rows(mosaic: Mosaic, modality: str) -> np.ndarray:
    """Return the batch of each row of a modality's counts."""
    rows = mosaic.rows[modality]
    cells = np.flatnonzero(rows >= 0)
    return mosaic.batch[cells[np.argsort(rows[cells])]]

"""Which proteins each batch's antibody panel holds; the others are absent there, not zero."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmopt import _checks
from mmopt.models.stored import Counts, blocks

Panels = str | Mapping[str, Sequence[str]] | None


def check(panels: Panels, proteins: Sequence[str], batches: Sequence[str]) -> Panels:
    """Return the panels as plain lists, refusing batches and proteins that are not in the data.

    Raises
    ------
    KeyError
        An unknown batch or protein.
    ValueError
        Neither ``"auto"`` nor ``None`` nor a mapping from batches to proteins.
    """
    if panels is None or panels == "auto":
        return panels
    if not isinstance(panels, Mapping):
        raise ValueError(
            f'protein_panels={panels!r} must be "auto", None, or a mapping from batches to their proteins'
        )
    plain = {str(batch): [str(p) for p in names] for batch, names in panels.items()}
    if unknown := [b for b in plain if b not in batches]:
        raise KeyError(
            f"protein_panels names batches that are not in the data ({_checks.listed(unknown)}); they have "
            f"{_checks.listed(batches, 20)}"
        )
    for batch, names in plain.items():
        if unknown := [p for p in names if p not in set(proteins)]:
            raise KeyError(
                f"protein_panels[{batch!r}] names proteins that are not in the data ({_checks.listed(unknown)}); give "
                "the names in var_names of the protein modality"
            )
        if not names:
            raise ValueError(
                f"protein_panels[{batch!r}] is empty; leave the protein modality out of that batch's cells instead"
            )
    return plain


def measured(
    counts: Counts,
    batch: np.ndarray,
    proteins: Sequence[str],
    batches: Sequence[str],
    panels: Panels = "auto",
) -> np.ndarray:
    """Return which batch measured which protein (batches × proteins).

    With ``"auto"`` a protein is in a batch's panel if any cell of the batch has a count of it; a protein without a count
    anywhere is in all panels. A batch without a cell has no panel.

    Parameters
    ----------
    counts, batch
        Cells × proteins, and the position of each cell's batch in ``batches``, -1 where the cell is left out.

    Raises
    ------
    ValueError
        Counts of a protein in a batch whose panel lacks it; a protein that no batch measured.
    """
    there = np.bincount(batch[batch >= 0], minlength=len(batches)) > 0
    out = np.repeat(there[:, None], len(proteins), 1)
    if panels is None:
        return out
    found = _counted(counts, batch, len(batches))
    if panels == "auto":
        return out & (found | ~found.any(0))
    for i, name in enumerate(batches):
        if name not in panels:
            continue
        listed = np.isin(proteins, panels[name])
        if extra := [p for p, bad in zip(proteins, found[i] & ~listed, strict=True) if bad]:
            raise ValueError(
                f"batch {name!r} has counts of {len(extra)} proteins that its panel lacks ({_checks.listed(extra)}); "
                "correct `protein_panels`"
            )
        out[i] &= listed
    if there.any() and (nowhere := [p for p, seen in zip(proteins, out.any(0), strict=True) if not seen]):
        raise ValueError(
            f"{len(nowhere)} proteins are in the panel of no batch that has protein ({_checks.listed(nowhere)}); add them "
            "to `protein_panels`, or leave them out of the protein modality"
        )
    return out


def empty_batches(counts: Counts, batch: np.ndarray, batches: Sequence[str]) -> list[str]:
    """Return the batches whose cells have no count of any protein, though those of others have."""
    there = np.bincount(batch[batch >= 0], minlength=len(batches)) > 0
    found = _counted(counts, batch, len(batches)).any(1)
    return [b for b, empty in zip(batches, there & ~found, strict=True) if empty] if found.any() else []


def _counted(counts: Counts, batch: np.ndarray, n_batch: int) -> np.ndarray:
    """Return which protein has a count in which batch (batches × proteins)."""
    found, start = np.zeros((n_batch, counts.shape[1]), bool), 0
    for x in blocks(counts):
        of = batch[start : start + x.shape[0]]
        for b in np.unique(of[of >= 0]):
            found[b] |= np.asarray(x[of == b].sum(0)).ravel() > 0
        start += x.shape[0]
    return found

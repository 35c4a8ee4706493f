"""Knock-outs and over-expressions as users write them, and as the simulator needs them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mmopt._checks import listed, nearest

MODES = ("knockout", "overexpress")


@dataclass(frozen=True)
class Intervention:
    """Clamp ``gene`` from ``start`` to ``stop`` (days); ``start=None``: as soon as the regime says."""

    gene: str
    mode: str
    start: float | None = None
    stop: float = np.inf


def parse(interventions: object, genes: Collection[str], *, mode: str = "knockout") -> list[Intervention]:
    """Read ``"GATA1"``, ``("GATA1", "overexpress")``, ``("GATA1", "knockout", 2, 4)`` or a list of these.

    Raises
    ------
    KeyError
        A gene that the simulation does not have; the message names the nearest ones.
    ValueError
        Unknown mode, a window that is not ``0 <= start < stop``, two windows of one gene that overlap.
    """
    if interventions is None:
        return []
    entries = interventions if isinstance(interventions, list) else [interventions]
    parsed = [_parse_one(entry, genes, mode) for entry in entries]
    for i, a in enumerate(parsed):
        for b in parsed[:i]:
            if a.gene == b.gene and (a.start or 0) < b.stop and (b.start or 0) < a.stop:
                raise ValueError(f"interventions: {a.gene} is clamped twice at the same time")
    return parsed


def _parse_one(entry: object, genes: Collection[str], mode: str) -> Intervention:
    parts: Sequence = (entry,) if isinstance(entry, str) else tuple(entry) if isinstance(entry, tuple) else ()
    if len(parts) not in (1, 2, 4):
        raise TypeError(
            f"interventions: expected a gene, (gene, mode) or (gene, mode, start, stop), got {entry!r}"
        )
    gene, mode = parts[0], parts[1] if len(parts) > 1 else mode
    if gene not in genes:
        raise KeyError(
            f"interventions: no gene {gene!r} in the simulation; nearest: {listed(nearest(str(gene), genes)) or 'none'}"
        )
    if mode not in MODES:
        raise ValueError(f"interventions: mode of {gene} must be one of {', '.join(MODES)}, got {mode!r}")
    if len(parts) < 4:
        return Intervention(gene, mode)
    start, stop = float(parts[2]), float(parts[3])
    if not 0 <= start < stop:
        raise ValueError(f"interventions: {gene} needs 0 <= start < stop, got start={start:g}, stop={stop:g}")
    return Intervention(gene, mode, start, stop)

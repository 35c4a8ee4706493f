"""Which regulators the user's tables name, and halves of the cells to validate in."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed
from mmopt._logging import logger
from mmopt.tl._features import Features, other_spelling

# halves of donors, or of cells, that are drawn until both have every modality
_TRIES = 50


def checked_table(table: pd.DataFrame | None, name: str, columns: tuple[str, str]) -> pd.DataFrame | None:
    if table is None:
        return None
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"{name}: a DataFrame with the columns {' and '.join(columns)} is needed, not {table!r:.60}"
        )
    if missing := [c for c in columns if c not in table]:
        raise ValueError(f"{name}: no column {listed(missing)}; there are {listed(table.columns)}")
    if table.empty:
        raise ValueError(f"{name}: the table has no rows")
    return table.reset_index(drop=True)


def wanted_regulators(
    prior: pd.DataFrame | None, motifs: pd.DataFrame | None, regulators: Sequence[str] | None
) -> set[str]:
    if regulators is not None:
        return set(map(str, regulators))
    return {str(s) for table in (prior, motifs) if table is not None for s in table["source"]}


def regulator_columns(
    mdata: MuData,
    features: Features,
    prior: pd.DataFrame | None,
    motifs: pd.DataFrame | None,
    regulators: Sequence[str] | None,
) -> np.ndarray:
    """Columns of the regulators in the order of the data."""
    genes = features.names["rna"]
    if regulators is not None:
        if not len(regulators):
            raise ValueError("regulators: the list is empty")
        return np.unique([features.find(r, mdata) for r in regulators])
    if prior is None and motifs is None:
        return np.arange(len(genes))
    wanted = sorted(wanted_regulators(prior, motifs, None))
    prots = [w for w in wanted if w.startswith("prot:") and w not in genes]
    columns = [*np.flatnonzero(genes.isin(wanted)), *(features.find(w, mdata) for w in prots)]
    if not columns:
        raise ValueError(
            f"prior: none of its {len(wanted)} sources ({listed(wanted, 3)}) is in modality "
            f"{features.modalities['rna']!r} ({listed(genes, 3)}){other_spelling(wanted, genes)}"
        )
    return np.unique(columns)


def two_halves(
    measured: Mapping[str, np.ndarray], n: int, donors: np.ndarray | None, rng: np.random.Generator
) -> list[np.ndarray]:
    """Two halves of the cells, or of the donors where there are at least four; each with cells of every modality."""

    def whole(half: np.ndarray) -> bool:
        return all(half[rows].any() and not half[rows].all() for rows in measured.values())

    names = np.unique(donors) if donors is not None else np.array([])
    if len(names) >= 4:
        for _ in range(_TRIES):
            half = np.isin(donors, rng.permutation(names)[: len(names) // 2])
            if whole(half):
                return [half, ~half]
        logger.warning(
            "no two halves of the %d donors have all modalities both, so penalties are validated across cells, not donors",
            len(names),
        )
    for _ in range(_TRIES):
        half = rng.permutation(n) < n // 2
        if whole(half):
            return [half, ~half]
    raise ValueError(
        f"a network is validated in two halves of the cells, and no two have {listed(measured)} both: too few cells have one of "
        "them; leave that modality out, e.g. with `prot=False`"
    )

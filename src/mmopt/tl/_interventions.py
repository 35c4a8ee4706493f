"""What a user wants to do to which feature, checked and turned into clamps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed
from mmopt._response import log_odds
from mmopt.grn.effects import Perturbation, Scene
from mmopt.tl._features import Features

MODES = ("knockout", "knockdown", "overexpress", "block", "set")
# removed by a knock-down where nothing is said
KNOCKDOWN_SHARE = 0.5
# times the 99.9 % quantile: what an over-expression means where nothing is said, and the most that is not extrapolation
OVEREXPRESS_FACTOR = 2.0
# a gene counted in fewer cells, or a smaller share of them, is not expressed
_LEAST_CELLS, _LEAST_SHARE = 10, 0.01
# share of the cells of a small group in which a gene that is expressed there is counted
_OF_FEW = 0.1


@dataclass(frozen=True)
class Intervention:
    """One feature, what is done to it, and how much of it (``None``: the mode's usual amount)."""

    column: int
    name: str
    mode: str
    level: float | None = None

    @property
    def factor(self) -> float:
        """Multiple of the 99.9 % quantile, or share removed, that an over-expression or knock-down stands for."""
        usual = OVEREXPRESS_FACTOR if self.mode == "overexpress" else KNOCKDOWN_SHARE
        return usual if self.level is None else self.level


def parse(
    perturbation: object, mode: str, level: float | None, features: Features, mdata: MuData
) -> list[Intervention]:
    """Read ``"GATA1"``, ``("GATA1", "overexpress")``, a list of these (jointly) or ``{"GATA1": 0.0, "SPI1": "2x"}``.

    Raises
    ------
    TypeError, KeyError, ValueError
        What cannot be read, unknown features and modes, a feature twice, a mode that does not fit the modality.
    """
    if isinstance(perturbation, Mapping):
        entries = [_entry_with_value(name, value) for name, value in perturbation.items()]
    elif isinstance(perturbation, str):
        entries = [(perturbation, mode, level)]
    elif isinstance(perturbation, tuple) and len(perturbation) == 2 and perturbation[1] in MODES:
        entries = [(*perturbation, level)]
    elif isinstance(perturbation, Sequence):
        if any(isinstance(entry, list) for entry in perturbation):
            raise TypeError("a list of lists is a screen; call `mm.tl.screen(mdata, features)`")
        entries = [
            (*e, level) if isinstance(e, tuple) and len(e) == 2 else (e, mode, level) for e in perturbation
        ]
    else:
        raise TypeError(
            f"perturbation: a feature, a list or a dict of features is needed, not {perturbation!r:.60}"
        )
    if not entries:
        raise ValueError("perturbation: give at least one feature")
    found = [
        Intervention(features.find(name, mdata), name, *_checked(how, much)) for name, how, much in entries
    ]
    for i, one in enumerate(found):
        if one.column in [other.column for other in found[:i]]:
            raise ValueError(f"perturbation: {one.name!r} is there twice")
        role = features.role(one.column)
        if role == "rna" and one.mode == "block":
            raise ValueError(
                f"{one.name!r} is a gene: use mode='knockout'; 'block' is for peaks and surface proteins"
            )
        if role != "rna" and one.mode not in ("block", "set"):
            what = (
                "a peak can be closed"
                if role == "atac"
                else "a surface protein can be blocked, which is not a knock-out of its gene"
            )
            raise ValueError(f"{one.name!r}: {what}: use mode='block', not {one.mode!r}")
        if role == "atac" and one.mode == "set":
            raise ValueError(f"{one.name!r}: a peak can only be closed: use mode='block'")
    return found


def label(interventions: Sequence[Intervention]) -> str:
    """``GATA1_knockout``, ``GATA1+SPI1_knockout``, ``GATA1_knockout+SPI1_overexpress``."""
    if len({i.mode for i in interventions}) == 1:
        return "+".join(i.name for i in interventions) + f"_{interventions[0].mode}"
    return "+".join(f"{i.name}_{i.mode}" for i in interventions)


def refuse_unsound(
    interventions: Sequence[Intervention],
    features: Features,
    scene: Scene,
    links: pd.DataFrame,
    detected: Mapping[int, tuple[int, int]],
    *,
    allow_extrapolation: bool,
    on_missing: str,
) -> list[str]:
    """Raise on what has no answer; return remarks on what has a weak one.

    Parameters
    ----------
    detected
        Column to the number of cells in which it was counted, and of cells in which it was looked for.
    """
    if on_missing not in ("raise", "zero"):
        raise ValueError(f"on_missing must be 'raise' or 'zero', got {on_missing!r}")
    remarks = []
    network = scene.network
    acting = set(network.regulators[np.unique(network.source)].tolist())
    for one in interventions:
        n, of = detected[one.column]
        rare = hardly_counted(n, of)
        if rare and one.mode in ("knockout", "knockdown", "block"):
            raise ValueError(
                f"{one.name!r} was counted in {n} of {of} cells: it is not expressed, so a {one.mode} has no effect to "
                "propagate"
            )
        if rare and not allow_extrapolation:
            raise ValueError(
                f"{one.name!r} was counted in {n} of {of} cells: what it does at a high level was never seen; "
                "`allow_extrapolation=True` computes it all the same"
            )
        if one.mode == "overexpress" and one.factor > OVEREXPRESS_FACTOR and not allow_extrapolation:
            raise ValueError(
                f"{one.name!r}: {one.factor:g} times its 99.9 % quantile is beyond twice what was observed; "
                "`allow_extrapolation=True` computes it all the same"
            )
        if one.mode == "overexpress":
            raised = one.factor * scene.cells.highest[one.column]
            usual = scene.cells.level[:, one.column].mean()
            if raised < usual:
                remarks.append(
                    f"{one.name} over-expressed {one.factor:g} times: that is {raised / usual:.2g} of its mean over the cells, so it "
                    "is lowered; the multiple is of its 99.9 % quantile"
                )
        if one.mode == "set" and not allow_extrapolation:
            times = _set_level(one, features, scene) / max(scene.cells.highest[one.column], 1e-9)
            if times > OVEREXPRESS_FACTOR + 1e-9:
                raise ValueError(
                    f"{one.name!r}: {one.level:g} is {times:.3g} times its 99.9 % quantile over pools of neighbouring cells (single "
                    f"cells vary more), and at most {OVEREXPRESS_FACTOR:g} times is taken; `allow_extrapolation=True` computes it all the same"
                )
        if features.role(one.column) == "atac":
            known = (links["peak"] == features.name(one.column)).any()
            reason = "is linked to no gene"
        else:
            known, reason = (
                one.column in acting,
                "has no outgoing edge in the network (it is not among its regulators)",
            )
        if not known:
            if on_missing == "raise":
                raise ValueError(
                    f"{one.name!r} {reason}, so nothing is known of what follows from it; `on_missing='zero'` gives the "
                    "direct effect only, or call `mm.tl.regulons` with a prior or `regulators=` that has it"
                )
            remarks.append(f"{one.name} {reason}: its direct effect only")
    return remarks


def hardly_counted(n: int, of: int) -> bool:
    """Whether what was counted in ``n`` of so many cells is not expressed in them."""
    return n < max(_LEAST_CELLS, _LEAST_SHARE * of)


def where_silent(
    interventions: Sequence[Intervention],
    groups: Sequence[str],
    detected: Mapping[int, list[tuple[int, int]]],
) -> list[str]:
    """Say in which groups there is nothing to take away; ``detected`` as in :func:`refuse_unsound`, for each group.

    Of a group of fewer than 100 cells a tenth is enough: it may have no ten cells to count a gene in.
    """
    remarks = []
    for one in interventions:
        counted = zip(groups, detected[one.column], strict=True)
        silent = [group for group, (n, of) in counted if hardly_counted(n, of) and n < _OF_FEW * of]
        if silent and one.mode in ("knockout", "knockdown", "block"):
            remarks.append(
                f"{one.name} is hardly expressed in {listed(silent)} (`detected`, in the table of groups): what a {one.mode} "
                "does there is read off neighbouring cells, if anything"
            )
    return remarks


def build(
    interventions: Sequence[Intervention],
    features: Features,
    scene: Scene,
    links: pd.DataFrame,
    cognate: pd.DataFrame,
    n_steps: int | str | None,
) -> Perturbation:
    """Clamps and shifts of the interventions in the cells of ``scene``."""
    level, highest = scene.cells.level, scene.cells.highest
    clamps: dict[int, np.ndarray | float] = {}
    for one in interventions:
        c = one.column
        if one.mode in ("knockout", "block"):
            value = 0.0
        elif one.mode == "knockdown":
            value = level[:, c] * (1 - one.factor)
        elif one.mode == "overexpress":
            value = float(highest[c] * one.factor)
        else:
            value = _set_level(one, features, scene)
        clamps[c] = value
    shifts = _closed([c for c in clamps if features.role(c) == "atac"], features, level, links)
    for protein, gene in zip(cognate["protein"], cognate["gene"], strict=True):
        column = features.blocks["prot"].start + protein
        if gene in clamps and column not in clamps:
            clamps[column] = _follows(level[:, column], level[:, gene], clamps[gene])
    return Perturbation(clamps, shifts, n_steps)


def _set_level(one: Intervention, features: Features, scene: Scene) -> float:
    """Level on the scene's scale of what is set to so many counts per 10,000."""
    plain = features.within(one.level, features.role(one.column))
    return float(scene.readout.level(plain, one.column))


def _follows(protein: np.ndarray, gene: np.ndarray, value: np.ndarray | float) -> np.ndarray:
    """Level of the protein of a clamped gene: it goes with the gene as it does over the cells."""
    spread = float(np.var(gene))
    slope = max(float(np.cov(protein, gene)[0, 1]), 0) / spread if spread > 0 else 0.0
    return np.maximum(protein + slope * (value - gene), 0)


def _closed(
    closed: list[int], features: Features, level: np.ndarray, links: pd.DataFrame
) -> dict[int, np.ndarray]:
    """Shift of the log odds of each gene the peaks serve: expression falls by their share of its open chromatin."""
    if not closed:
        return {}
    start = features.blocks["atac"].start
    genes, peaks = features.names["rna"], features.names["atac"]
    served = links.loc[links["peak"].isin([features.name(c) for c in closed]), "gene"]
    out = {}
    for gene in served.unique():
        mine = links[links["gene"] == gene]
        columns = start + peaks.get_indexer(mine["peak"])
        open_ = np.maximum(level[:, columns], 0) * mine["weight"].to_numpy()
        share = open_[:, np.isin(columns, closed)].sum(1) / np.maximum(open_.sum(1), 1e-9)
        g = int(genes.get_loc(gene))
        out[g] = log_odds(level[:, g] * (1 - share)) - log_odds(level[:, g])
    return out


def _entry_with_value(name: str, value: object) -> tuple[str, str, float | None]:
    if isinstance(value, str):
        if value in MODES:
            return name, value, None
        factor = value.removesuffix("x")
        try:
            return name, "overexpress", float(factor)
        except ValueError:
            raise ValueError(
                f"perturbation: {name!r}: {value!r} is neither a mode nor a multiple such as '2x'"
            ) from None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"perturbation: {name!r}: a number, '2x' or a mode is needed, not {value!r}")
    return (name, "knockout", None) if value == 0 else (name, "set", float(value))


def _checked(mode: str, level: float | None) -> tuple[str, float | None]:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {listed(MODES)}, got {mode!r}")
    if mode == "set" and level is None:
        raise ValueError(
            "mode='set' needs `level=`: counts per 10,000 (of all genes), for a protein the exponent of its centred log ratio"
        )
    if level is not None and (not np.isfinite(level) or level < 0):
        raise ValueError(f"level must be a number of at least 0, got {level!r}")
    if mode in ("knockout", "block") and level is not None:
        raise ValueError(f"mode={mode!r} takes no level; use 'knockdown' or 'set'")
    if mode == "knockdown" and level is not None and not 0 < level <= 1:
        raise ValueError(f"level of a knock-down is the share removed, above 0 and at most 1; got {level:g}")
    if mode == "overexpress" and level is not None and level == 0:
        raise ValueError("level of an over-expression is a multiple of the 99.9 % quantile, above 0")
    return mode, level

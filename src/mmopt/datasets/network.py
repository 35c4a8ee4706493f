"""What a simulated gene-regulatory network is, and networks from a user's edges."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmopt.datasets.logic import EDGE_COLUMNS

STAGE_COLUMNS = ["kind", "on", "off"]
PROGENITOR, NO_FATE = "progenitor", "none"
# a cell is in a stage if it is this close to the stage's pattern (0 = on the pattern, 0.5 = on neither side)
STAGE_TOLERANCE = 0.3
# of a stage's decisive genes, what is on is above the first level, what is off below the second
DECISIVE, _OFF, _ON = "decisive", 0.3, 0.7


@dataclass(frozen=True, eq=False)
class Network:
    """Regulators, their edges and the stages they define.

    Parameters
    ----------
    edges
        Columns ``source, target, sign`` (1 or -1), ``strength`` (0 to 1), ``threshold`` (level of half effect, the full
        level being 1), ``hill`` and ``complex``: sources of one target, sign and complex act together (AND), complexes
        of activators are alternatives (OR), any complex of repressors suffices.
    initial
        Level of each regulator at day 0; its index is the regulators.
    stages
        Index: names; ``kind`` (``"intermediate"`` or ``"fate"``), ``on`` and ``off`` (space-separated regulators) and
        optionally ``decisive``: without those of them that are in ``on``, or with any other, a cell is not in the stage,
        however well the rest fits.
        Empty: the fates are found by simulation.
    """

    edges: pd.DataFrame
    initial: pd.Series
    stages: pd.DataFrame

    @property
    def regulators(self) -> list[str]:
        """Names of the regulators, the genes with out-going edges."""
        return self.initial.index.tolist()

    @property
    def leaves(self) -> list[str]:
        """Genes of ``edges`` that are regulated and regulate nothing."""
        return [g for g in dict.fromkeys(self.edges["target"]) if g not in self.initial.index]

    @property
    def fates(self) -> list[str]:
        """Names of the terminal stages."""
        return self.stages.index[self.stages["kind"] == "fate"].tolist()

    @classmethod
    def from_edges(
        cls,
        edges: pd.DataFrame,
        *,
        initial: Mapping[str, float] | None = None,
        stages: pd.DataFrame | None = None,
    ) -> "Network":
        """Build a network from a frame of edges.

        Parameters
        ----------
        edges
            Columns ``source``, ``target`` and ``sign`` or ``weight`` (its sign, and its size relative to the largest
            of the same target and sign as ``strength``); optionally ``strength`` (1), ``threshold`` (0.5), ``hill``
            (4) and ``complex`` (each edge its own).
        initial
            Level at day 0 of each regulator, 0.5 where not given: all programmes primed, none decided.
        stages
            Intermediate stages and fates, see :class:`Network`; default: found by simulation.

        Raises
        ------
        ValueError
            Columns missing, no rows, a name empty or with blanks or ``/``, a duplicate edge, a number out of range.

        Examples
        --------
        >>> import pandas as pd
        >>> toggle = pd.DataFrame({"source": ["A", "B", "A", "B"], "target": ["B", "A", "A", "B"], "sign": [-1, -1, 1, 1]})
        >>> Network.from_edges(toggle).regulators
        ['A', 'B']
        """
        edges = _complete(edges)
        regulators = list(dict.fromkeys(edges["source"]))
        levels = pd.Series(0.5, index=pd.Index(regulators), name="level")
        if unknown := set(initial or {}) - set(regulators):
            raise ValueError(f"initial: not among the sources of the edges: {', '.join(sorted(unknown))}")
        levels.update(pd.Series(dict(initial or {}), dtype=float))
        if not np.isfinite(levels).all() or (levels < 0).any():
            raise ValueError("initial: levels must be finite and not negative")
        return cls(edges, levels, _checked_stages(stages, regulators))

    def stage(self, levels: np.ndarray) -> np.ndarray:
        """Cell type of each column of ``levels`` (regulators × cells): a fate, an intermediate or progenitor."""
        names = np.full(levels.shape[1], PROGENITOR, dtype=object)
        for kind in ("intermediate", "fate"):
            self._assign(levels, kind, names)
        return names

    def fate(self, levels: np.ndarray) -> np.ndarray:
        """Fate of each column of ``levels`` (regulators × cells), ``"none"`` where it is in no fate."""
        names = np.full(levels.shape[1], NO_FATE, dtype=object)
        self._assign(levels, "fate", names)
        return names

    def _assign(self, levels: np.ndarray, kind: str, names: np.ndarray) -> None:
        """Write the nearest stage of ``kind`` into ``names`` where it is near enough."""
        stages = self.stages[self.stages["kind"] == kind]
        if stages.empty:
            return
        levels, rows = np.minimum(levels, 1), pd.Index(self.regulators)
        decisive = stages[DECISIVE] if DECISIVE in stages else np.full(len(stages), "")
        distance = []
        for on, off, genes in zip(stages["on"], stages["off"], decisive, strict=True):
            missing = [1 - levels[rows.get_indexer(on.split())].mean(0)] if on else []
            excess = [levels[rows.get_indexer(off.split())].mean(0)] if off else []
            distance.append(np.mean(missing + excess, axis=0))
            for gene in genes.split():
                level = levels[rows.get_loc(gene)]
                distance[-1][level < _OFF if gene in on.split() else level > _ON] = np.inf
        nearest, near = np.argmin(distance, axis=0), np.min(distance, axis=0) < STAGE_TOLERANCE
        names[near] = stages.index.to_numpy(dtype=object)[nearest[near]]


def _complete(edges: pd.DataFrame) -> pd.DataFrame:
    """Check a frame of edges and fill in what it does not say."""
    if not isinstance(edges, pd.DataFrame):
        raise TypeError(f"network: expected a Network or a DataFrame of edges, got {type(edges).__name__}")
    if absent := {"source", "target"} - set(edges.columns):
        raise ValueError(
            f"edges: column {' and '.join(sorted(absent))} missing; there are {', '.join(map(str, edges.columns))}"
        )
    if not {"sign", "weight"} & set(edges.columns):
        raise ValueError(
            "edges: give a column sign (1 or -1) or weight (its sign says activation or repression)"
        )
    if edges.empty:
        raise ValueError("edges: the frame has no rows")
    out = pd.DataFrame({c: edges[c].to_numpy(dtype=object) for c in ("source", "target")})
    for column in ("source", "target"):
        bad = [
            n
            for n in out[column]
            if not isinstance(n, str) or not n or any(c.isspace() or c == "/" for c in n)
        ]
        if bad:
            raise ValueError(f"edges: {column} must be names without blanks and '/'; got {bad[:3]}")
    duplicate = out.duplicated()
    if duplicate.any():
        first = out[duplicate].iloc[0]
        raise ValueError(
            f"edges: {duplicate.sum()} duplicate edges, the first {first['source']} -> {first['target']}"
        )
    effect = _numbers(edges, "sign" if "sign" in edges else "weight", 1.0)
    if (effect == 0).any():
        raise ValueError("edges: sign or weight is 0 for some edges; leave those rows out")
    out["sign"] = np.sign(effect).astype(int)
    size = (
        pd.Series(np.abs(effect))
        if "weight" in edges and "sign" not in edges
        else pd.Series(np.ones(len(out)))
    )
    largest = size.groupby([out["target"], out["sign"]]).transform("max")
    out["strength"] = _numbers(edges, "strength", (size / largest).to_numpy())
    out["threshold"] = _numbers(edges, "threshold", 0.5)
    out["hill"] = _numbers(edges, "hill", 4.0)
    out["complex"] = _numbers(edges, "complex", np.arange(len(out))).astype(int)
    for column, upper in (("strength", 1.0), ("threshold", np.inf), ("hill", np.inf)):
        if not ((out[column] > 0) & (out[column] <= upper)).all():
            raise ValueError(f"edges: {column} must be positive" + (" and at most 1" if upper == 1 else ""))
    return out[EDGE_COLUMNS]


def _numbers(edges: pd.DataFrame, column: str, default: float | np.ndarray) -> np.ndarray:
    """Values of a column of finite numbers, or the default where there is no such column."""
    if column not in edges:
        return np.broadcast_to(np.asarray(default, dtype=float), len(edges))
    values = pd.to_numeric(edges[column], errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(f"edges: column {column} has values that are not finite numbers")
    return values


def _checked_stages(stages: pd.DataFrame | None, regulators: list[str]) -> pd.DataFrame:
    if stages is None:
        return pd.DataFrame(
            {c: pd.Series(dtype=object) for c in STAGE_COLUMNS}, index=pd.Index([], dtype=object)
        )
    if absent := set(STAGE_COLUMNS) - set(stages.columns):
        raise ValueError(f"stages: column {', '.join(sorted(absent))} missing")
    if wrong := set(stages["kind"]) - {"intermediate", "fate"}:
        raise ValueError(f"stages: kind must be 'intermediate' or 'fate', got {', '.join(map(str, wrong))}")
    columns = [*STAGE_COLUMNS, DECISIVE] if DECISIVE in stages else STAGE_COLUMNS
    named = {name for column in columns[1:] for names in stages[column] for name in names.split()}
    if unknown := named - set(regulators):
        raise ValueError(
            f"stages: {', '.join(sorted(unknown))} not among the regulators {', '.join(regulators)}"
        )
    if not (stages["on"] + stages["off"]).all():
        raise ValueError("stages: every stage needs at least one regulator in on or off")
    return stages[columns]

"""Where the perturbed cells go in an embedding: outside of what was seen, with or against the reference flow."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mudata import MuData
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from mmopt._random import derived
from mmopt.grn.effects import Perturbation, Scene
from mmopt.grn.pooling import log_ratio, per_ten_thousand
from mmopt.grn.propagation import Cells
from mmopt.tl._recounted import Recounted
from mmopt.tl._reference_flow import Ahead
from mmopt.tl._scene import ALL, Stage

if TYPE_CHECKING:
    from mmopt.models import TriVI

# cells around one that say how dense the data are there, and the share of the cells that lies within its usual distance
_NEIGHBOURS, _RADIUS = 15, 0.99
# principal components where there is no model
_COMPONENTS = 10
# the mean of a few members moves a cell hardly elsewhere than that of all
_MEMBERS = 4
# cells that are dense in memory at a time
_BLOCK = 2000
# cells that tell what share leaves the data, and as many of each group at least
_MOST, _EACH = 5000, 50


class Seen:
    """The unperturbed cells of an embedding ``(n, d)``, and how near their neighbours usually are."""

    def __init__(self, before: np.ndarray) -> None:
        self.k = min(_NEIGHBOURS, len(before) - 1)
        if self.k > 0:
            self._index = NearestNeighbors(n_neighbors=self.k).fit(before)
            self._usual = np.quantile(self._index.kneighbors()[0][:, -1], _RADIUS)

    def outside(self, after: np.ndarray) -> np.ndarray:
        """Which cells lie farther from the unperturbed ones than 99 % of those do from each other."""
        if self.k < 1:
            return np.zeros(len(after), dtype=bool)
        return self._index.kneighbors(after)[0][:, -1] > self._usual


@dataclass(frozen=True, eq=False)
class Shift:
    """Embedding of some cells before and after, ``(n, d)``, and the generative effects if a model gave any.

    ``rows``: of the cells in the data. ``decoded``: role to the mean change of logged values of each group, from the difference of two decodes of the cells
    that stand for it.
    """

    rows: np.ndarray
    before: np.ndarray
    after: np.ndarray
    decoded: dict[str, np.ndarray]

    def outside(self) -> np.ndarray:
        """Which cells lie farther from the unperturbed ones than 99 % of those do from each other."""
        return Seen(self.before).outside(self.after)

    def along(self, ahead: Ahead) -> np.ndarray:
        """Cosine of each cell's shift with the direction in which its neighbours are ahead of it; NaN without either."""
        k = min(2 * _NEIGHBOURS, len(self.before) - 1)
        near = NearestNeighbors(n_neighbors=k).fit(self.before).kneighbors(return_distance=False)
        offset = self.before[near] - self.before[:, None]
        far = ahead(self.rows, self.rows[near])
        # of a cell of which nothing is known the mean is that of nothing
        mean = np.nansum(far, 1, keepdims=True) / np.maximum(np.isfinite(far).sum(1, keepdims=True), 1)
        flow = np.nansum(offset * (far - mean)[..., None], axis=1)
        move = self.after - self.before
        length = np.linalg.norm(flow, axis=1) * np.linalg.norm(move, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(length > 1e-12, (flow * move).sum(1) / length, np.nan)


def some_cells(stage: Stage, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw so many cells as are plenty to tell a share, and none of the groups lost; also which of them are drawn of all.

    The others would let small groups count for more than they are.
    """
    rng = np.random.default_rng([seed, 15])
    drawn = [rng.permutation(rows)[: _MOST if name == ALL else _EACH] for name, rows in stage.groups.items()]
    whole = next(cells for name, cells in zip(stage.groups, drawn, strict=True) if name == ALL)
    return np.unique(np.concatenate(drawn)), whole


def shift_cells(
    mdata: MuData,
    stage: Stage,
    build: Callable[[Scene], Perturbation],
    model: "TriVI | None",
    seed: int,
    cells: np.ndarray,
) -> Shift:
    """Move cells of the data by the mean of a few members of the network and embed them again.

    With a model: counts are changed, both versions encoded and decoded, and the decodes subtracted, so that what the
    model gets wrong about a cell cancels. Without: principal components of the logged expression.
    """
    parts, rng = [], np.random.default_rng([seed, 13])
    for start in range(0, len(cells), _BLOCK):
        rows = cells[start : start + _BLOCK]
        scene = stage.on(rows)
        perturbation = build(scene)
        members = range(min(_MEMBERS, scene.network.n_members))
        level = np.mean([scene.moved(perturbation, m)[0] for m in members], axis=0)
        if model is None:
            rna = stage.features.blocks["rna"]
            parts.append([scene.readout.logged(x)[:, rna] for x in (scene.cells.level, level)])
        else:
            values = scene.readout.values(scene.cells.level), scene.readout.values(level)
            parts.append(_with_model(mdata, stage, model, rows, *values, rng))
    old, new = (np.vstack(part) for part in list(zip(*parts, strict=True))[:2])
    if model is None:
        embed = components(old, seed)
        return Shift(cells, embed(old), embed(new), {})
    decoded = {}
    place = {cell: i for i, cell in enumerate(stage.chosen)}
    for role in model.modalities:
        found = [part[2][role] for part in parts if role in part[2]]
        if found:
            change, shown = (np.concatenate(each) for each in zip(*found, strict=True))
            decoded[role] = stage.scene.averaging[:, [place[c] for c in shown]] @ change
    return Shift(cells, old, new, decoded)


def components(values: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """First principal components of these cells' values, as a function that embeds others; as they are where there is but one."""
    n = min(_COMPONENTS, min(values.shape) - 1)
    if n < 1:
        return np.asarray
    # exact for the few components wanted, whatever the shape
    return PCA(n, svd_solver="arpack", random_state=derived(seed, 13)).fit(values).transform


def outside_of_data(stage: Stage, cells: Cells, sets: Sequence[Mapping[int, float]], seed: int) -> np.ndarray:
    """Share of the cells that clamping each set of columns takes out of the data, ``(n_sets,)``.

    As :meth:`Shift.outside` has it without a model, of cells that need not be any of the data.
    """
    rna = stage.features.blocks["rna"]
    rows, _ = some_cells(stage, seed)
    blocks = (stage.on(rows[i : i + _BLOCK]) for i in range(0, len(rows), _BLOCK))
    before = np.vstack([scene.readout.logged(scene.cells.level)[:, rna] for scene in blocks])
    embed = components(before, seed)
    seen = Seen(embed(before))
    scene, place = replace(stage.scene, cells=cells).narrowed(rna)
    members = range(min(_MEMBERS, scene.network.n_members))
    share = []
    for clamps in sets:
        done = Perturbation(clamps, {}).placed(place)
        level = np.mean([scene.moved(done, m)[0] for m in members], axis=0)
        after = scene.readout.logged(level)[:, : rna.stop - rna.start]
        share.append(float(seen.outside(embed(after)).mean()))
    return np.array(share)


@contextmanager
def less_talk() -> Iterator[None]:
    """Keep scvi-tools from announcing every copy of the data inside the block; its warnings stay."""
    logger = logging.getLogger("scvi")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _with_model(
    mdata: MuData,
    stage: Stage,
    model: "TriVI",
    rows: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Latent means of both versions of some cells, and the change of the logged decodes in the network's columns."""
    registry, recounted = model.registry["field_registries"], Recounted(mdata, stage, model, rows)
    roles, reference = recounted.roles, mdata[rows].copy()
    changed = recounted.changed(before, after, rng)
    with less_talk():
        pair = [np.asarray(model.get_latent_representation(m), dtype=float) for m in (reference, changed)]
        shown = np.flatnonzero(np.isin(rows, stage.chosen))
        expectations = {
            role: [
                np.asarray(model.get_normalized(role, mdata=m, indices=shown), dtype=float)
                for m in (reference, changed)
            ]
            for role in roles
            if len(shown)
        }
    decoded = {}
    for role, expected_pair in expectations.items():
        logged = []
        for expected in expected_pair:
            logged.append(log_ratio(expected) if role == "prot" else np.log1p(per_ten_thousand(expected)))
        known = pd.Index(registry[role]["state_registry"]["features"]).get_indexer(stage.features.names[role])
        change = (logged[1] - logged[0])[:, known]
        decoded[role] = np.where(known >= 0, change, np.nan), rows[shown]
    return pair[0], pair[1], decoded

"""The simulated population without its measurement: the same cells, with and without interventions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from mmopt.datasets.attractors import find_stages
from mmopt.datasets.dynamics import CHROMATIN, EXPRESSION, PROTEIN, TRANSCRIPT, Clamp, Kinetics, integrate
from mmopt.datasets.interventions import Intervention
from mmopt.datasets.layout import lay_out
from mmopt.datasets.logic import Logic
from mmopt.datasets.network import Network

# over-expression: this many times the level that one wild-type cell in a thousand exceeds
_OVEREXPRESSION, _TOP = 2.0, 0.999


@dataclass(frozen=True)
class Held:
    """A clamped gene that regulates nothing: its level and how far RNA and protein of each cell have come to it."""

    gene: str
    value: float
    rna: np.ndarray
    protein: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """Every cell at one moment of its own: ``levels`` (4 × regulators × cells) and the other genes that are held."""

    levels: np.ndarray
    held: Sequence[Held] = ()


class System:
    """Genome, cells and dynamics of one simulation, all drawn from ``random_state``.

    Parameters
    ----------
    network
        The regulators; where it has no stages they are found by simulation.
    times
        Days at which cells are sampled, increasing.
    n_cells, n_genes, n_peaks, n_proteins, n_decoys, housekeeping
        Sizes, see :func:`mmopt.datasets.simulate_trimodal`.
    """

    def __init__(
        self,
        network: Network,
        *,
        n_cells: int,
        n_genes: int,
        n_peaks: int,
        n_proteins: int,
        n_decoys: int,
        housekeeping: float,
        times: Sequence[float],
        kinetics: Kinetics,
        random_state: int,
    ) -> None:
        self.kinetics, self.random_state, self.housekeeping = kinetics, random_state, float(housekeeping)
        self.times = np.asarray(times, dtype=float)
        self.network = network if len(network.stages) else find_stages(network, kinetics, random_state)
        self.layout = lay_out(
            network,
            n_genes=n_genes,
            n_peaks=n_peaks,
            n_proteins=n_proteins,
            n_decoys=n_decoys,
            housekeeping=housekeeping,
            seed=random_state,
        )
        self.cells = pd.Index([f"cell{i:06d}" for i in range(n_cells)])
        rng = np.random.default_rng([random_state, 1])
        self.time = rng.permutation(np.resize(self.times, n_cells))
        # the wild type has decided by then
        self.end = np.full(n_cells, max(self.times[-1] + 4, 12.0))
        regulators, genes = network.regulators, self.layout.genes.index
        self._regulation = Logic(network.edges, regulators, regulators)
        self._genes = Logic(self.layout.edges, regulators, genes)
        self._peaks = Logic(self.layout.links, regulators, self.layout.peaks.index)
        self._regulator_rows = genes.get_indexer(regulators)

    def read(
        self,
        at: Sequence[np.ndarray],
        interventions: Sequence[Intervention] = (),
        since: np.ndarray | None = None,
    ) -> list[Snapshot]:
        """Run every cell and read it at each of ``at``; windows count from ``since`` (default: the first time point).

        A window without a start opens at ``since``; an explicit one is in days of the simulation, or in days after
        ``since`` where that is given.
        """
        begin = np.full(len(self.cells), self.times[0]) if since is None else since
        offset = 0.0 if since is None else since
        clamps, held = [], []
        for each in interventions:
            start = begin if each.start is None else np.broadcast_to(each.start + offset, begin.shape)
            stop = np.broadcast_to(each.stop + offset, begin.shape)
            value = 0.0 if each.mode == "knockout" else _OVEREXPRESSION * self._top_level(each.gene)
            if each.gene in self.network.regulators:
                clamps.append(Clamp(self.network.regulators.index(each.gene), value, start, stop))
            else:
                held.append((each.gene, value, start, stop))
        levels = self._integrate(np.asarray(at), clamps)
        return [
            Snapshot(
                read,
                [Held(gene, value, *self._progress(start, stop, t)) for gene, value, start, stop in held],
            )
            for read, t in zip(levels, at, strict=True)
        ]

    @cached_property
    def wild_type(self) -> list[Snapshot]:
        """Every cell when it is sampled, and at the end."""
        return [Snapshot(levels) for levels in self._integrate(np.stack([self.time, self.end]), [])]

    def rna(self, snapshot: Snapshot, cells: slice | np.ndarray = slice(None)) -> np.ndarray:
        """RNA level, genes × cells; 1 is fully on."""
        level = self._with_leak(self._genes(snapshot.levels[EXPRESSION][:, cells]))
        level[self._regulator_rows] = snapshot.levels[TRANSCRIPT][:, cells]
        for held in snapshot.held:
            row, share = self.layout.genes.index.get_loc(held.gene), held.rna[cells]
            level[row] += share * (held.value - level[row])
        return level

    def nascent(self, snapshot: Snapshot, cells: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Production of each gene, genes × cells, 1 is fully on; of a snapshot in which nothing is held."""
        made = self._with_leak(self._genes(snapshot.levels[CHROMATIN][:, cells]))
        made[self._regulator_rows] = self._with_leak(self._regulation(snapshot.levels[TRANSCRIPT][:, cells]))
        return made

    def atac(self, snapshot: Snapshot, cells: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Chromatin accessibility, peaks × cells; 1 is fully open."""
        return self._with_leak(self._peaks(snapshot.levels[CHROMATIN][:, cells]))

    def protein(self, snapshot: Snapshot, cells: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Surface protein, proteins × cells; 1 is fully on."""
        coding = self.layout.proteins["gene"]
        level = self._with_leak(self._proteins(snapshot.levels[PROTEIN][:, cells]))
        for held in snapshot.held:
            rows = np.flatnonzero(coding == held.gene)
            level[rows] += held.protein[cells] * (held.value - level[rows])
        return level

    @cached_property
    def _proteins(self) -> Logic:
        return Logic(self.layout.edges, self.network.regulators, self.layout.proteins["gene"])

    def _with_leak(self, production: np.ndarray) -> np.ndarray:
        return self.kinetics.leak + (1 - self.kinetics.leak) * production

    def _integrate(self, at: np.ndarray, clamps: Sequence[Clamp]) -> np.ndarray:
        return integrate(
            self._regulation,
            self.network.initial.to_numpy(),
            at,
            clamps=clamps,
            kinetics=self.kinetics,
            seed=(self.random_state, 2),
        )

    def _top_level(self, gene: str) -> float:
        levels = self.rna(self.wild_type[0])[self.layout.genes.index.get_loc(gene)]
        return float(np.quantile(levels, _TOP))

    def _progress(self, start: np.ndarray, stop: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of the way from the free level to the clamp's that RNA and protein have gone at ``t``.

        While the clamp lasts the RNA is there at once and the protein follows at its rate; afterwards both relax.
        """
        k_rna, k_protein = self.kinetics.expression, self.kinetics.protein
        on = np.clip(np.minimum(t, stop) - start, 0, None)
        off = np.clip(t - stop, 0, None)
        started = t >= start
        rna = np.where(started, np.exp(-k_rna * off), 0.0)
        protein = (1 - np.exp(-k_protein * on)) * np.exp(-k_protein * off)
        if np.isclose(k_rna, k_protein):
            refilled = k_protein * off * np.exp(-k_protein * off)
        else:
            refilled = k_protein / (k_protein - k_rna) * (np.exp(-k_rna * off) - np.exp(-k_protein * off))
        return rna, np.where(started, protein + refilled, 0.0)

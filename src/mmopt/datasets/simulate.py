"""The public simulator: a differentiating population as RNA, ATAC and protein counts in one MuData."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from mmopt._checks import listed
from mmopt._compat import override_pull_on_update
from mmopt._keys import MODALITIES, TRUTH
from mmopt.datasets.dynamics import TRANSCRIPT, Kinetics
from mmopt.datasets.interventions import parse
from mmopt.datasets.myeloid import krumsiek2011
from mmopt.datasets.network import Network
from mmopt.datasets.observe import Assay, count, count_unspliced, default_depth, missing_cells
from mmopt.datasets.storage import record
from mmopt.datasets.system import System


def simulate_trimodal(
    n_cells: int = 2000,
    *,
    network: Network | pd.DataFrame | None = None,
    n_genes: int = 400,
    n_peaks: int = 1000,
    n_proteins: int = 20,
    n_decoys: int = 8,
    housekeeping: float = 0.25,
    times: Sequence[float] = (0, 2, 4, 6, 8),
    n_donors: int = 1,
    batch_effect: float = 0.15,
    missing: Mapping[str, float] | str | None = None,
    depth: Mapping[str, float] | None = None,
    dropout: float = 0.1,
    atac_background: float = 0.0,
    unspliced: float = 0.0,
    interventions: object = None,
    kinetics: Kinetics | None = None,
    random_state: int = 0,
) -> MuData:
    """Simulate cells that differentiate along a gene-regulatory network, measured as RNA, ATAC and protein counts.

    The regulators follow stochastic differential equations with Hill activation and repression. The chromatin of the
    peaks follows the regulators of their gene, the RNA of the other genes follows the chromatin, and surface protein
    follows the RNA, each with a lag. Each cell is sampled once, at one of ``times``.

    Parameters
    ----------
    n_cells
        Cells, spread evenly over ``times``, and evenly over donors; a donor may have more of them at one time than at
        another.
    network
        Default: the myeloid network of :func:`krumsiek2011`. Or a network of :func:`random_network`, or a frame of
        edges with columns ``source``, ``target`` and ``weight`` or ``sign`` (see :meth:`Network.from_edges`), whose
        fates are found by simulation.
    n_genes, n_peaks, n_proteins
        Features. Genes include the regulators, ``n_decoys`` decoys, which follow regulators and regulate nothing, and
        a share ``housekeeping`` of the rest, which is constant. Peaks are promoters first, then enhancers and peaks
        that serve no gene. Proteins are coded by target genes.
    times
        Days of sampling, not negative, increasing; differentiation starts at day 0 and takes about 8 days.
    n_donors, batch_effect
        Donors, and the standard deviation of their effect on each feature's log mean and on the log depth.
    missing
        Share of cells that lack a modality, e.g. ``{"atac": 0.2, "prot": 0.3}`` (a cell keeps at least one), or
        ``"mosaic"``: the first donor has all three modalities, the second no ATAC, the third no protein, and again.
    depth
        Counts per cell, e.g. ``{"rna": 2000, "atac": 1200, "prot": 1000}``; default: 5 per gene, 1.2 per peak, 50 per
        protein. It is the median expected of a donor without effect. Every donor, also a single one, multiplies it in
        each modality by exp(``batch_effect`` × a standard normal number); RNA loses what ``dropout`` takes; and protein
        goes with how much of it the cells show, which may be a fifth off.
    dropout
        Largest share of RNA counts set to 0; it falls off with the expected count.
    atac_background
        Share of a cell's ATAC fragments that fall on the peaks as if all were open, whatever the cell is. Real data have
        such background; 0.3 takes more than half of the range of the log accessibility.
    unspliced
        Share of the RNA molecules that are not spliced yet, which tell what a cell is transcribing now, as in ``layers["unspliced"]``
        of RNA velocity; 0.2 to 0.3 is usual. The wild type only.
    interventions
        Clamp genes in all cells: ``"GATA1"``, ``("GATA1", "overexpress")``, ``("GATA1", "knockout", 2, 4)`` (days)
        or a list of these. Knock-out holds the gene at 0, over-expression at twice the 99.9 % quantile of the wild
        type. The cells go through the noise that those of the wild type with the same ``random_state`` go through;
        their counts are another draw.
    kinetics
        Rates and noise of the cells.
    random_state
        Seed; the same seed gives the same data.

    Returns
    -------
    MuData
        Modalities ``rna``, ``atac`` and ``prot`` with float32 CSR counts; a cell without a modality is absent there.
        ``obs``: ``time``, ``donor``, ``cell_type`` (where the true state is now: ``progenitor``, an intermediate or a
        fate), ``fate`` (where the cell will end if left alone, or ``none``; the truth, not an input), ``perturbation``
        (only with ``interventions``). With ``unspliced`` ``rna`` has ``layers["spliced"]``, the counts of ``X``, and
        ``layers["unspliced"]``. ``var`` of the modalities: ``chrom, start, end, tss, strand``; ``chrom, start,
        end, gene`` (the nearest), ``promoter``; ``gene``. ``uns["truth"]``: edges, peak links and all that
        :func:`truth_effect` and :func:`truth_fates` need to run the same cells again.

    Raises
    ------
    ValueError, TypeError, KeyError
        A size, share, time, network or intervention that makes no sense; the message says which.

    References
    ----------
    Krumsiek J et al. (2011) PLoS ONE 6:e22649, for the default network. Gillespie DT (2000) J. Chem. Phys. 113:297,
    for the form of the noise.

    Examples
    --------
    >>> mdata = simulate_trimodal(60, n_genes=60, n_peaks=80, n_proteins=5, missing={"atac": 0.5})
    >>> {name: modality.shape for name, modality in mdata.mod.items()}
    {'rna': (60, 60), 'atac': (30, 80), 'prot': (60, 5)}
    """
    sizes = {
        "n_cells": n_cells,
        "n_genes": n_genes,
        "n_peaks": n_peaks,
        "n_proteins": n_proteins,
        "n_donors": n_donors,
    }
    _check_numbers(
        sizes,
        n_decoys,
        random_state,
        {
            "housekeeping": housekeeping,
            "dropout": dropout,
            "atac_background": atac_background,
            "unspliced": unspliced,
        },
        batch_effect,
    )
    if unspliced == 1:
        raise ValueError("unspliced must be below 1: the other RNA is what is measured as expression")
    if network is None:
        network = krumsiek2011()
    elif not isinstance(network, Network):
        network = Network.from_edges(network)
    system = System(
        network,
        n_cells=n_cells,
        n_genes=n_genes,
        n_peaks=n_peaks,
        n_proteins=n_proteins,
        n_decoys=n_decoys,
        housekeeping=housekeeping,
        times=_checked_times(times),
        kinetics=kinetics or Kinetics(),
        random_state=random_state,
    )
    donor = np.random.default_rng([random_state, 6]).permutation(np.resize(np.arange(n_donors), n_cells))
    clamps = parse(interventions, system.layout.genes.index)
    if unspliced and clamps:
        raise ValueError(
            "unspliced RNA of cells under interventions is not simulated; leave `unspliced` or `interventions` out"
        )
    now, end = system.read([system.time, system.end], clamps) if clamps else system.wild_type
    measured = _checked_depth(depth, default_depth(system.layout))
    assay = Assay(measured, dropout, donor, batch_effect, atac_background)
    lacking = missing_cells(missing, donor, random_state)
    counts = count(system, now, assay)

    obs = pd.DataFrame(
        {
            "time": system.time if (system.time % 1).any() else system.time.astype(int),
            "donor": pd.Categorical([f"donor{d + 1}" for d in donor]),
            "cell_type": pd.Categorical(system.network.stage(now.levels[TRANSCRIPT])),
            "fate": pd.Categorical(system.network.fate(end.levels[TRANSCRIPT])),
        },
        index=system.cells,
    )
    if clamps:
        obs["perturbation"] = pd.Categorical(["+".join(f"{c.gene}_{c.mode}" for c in clamps)] * n_cells)
    layout = system.layout
    var = {
        "rna": layout.genes[["chrom", "start", "end", "tss", "strand"]],
        "atac": layout.peaks[["chrom", "start", "end", "gene", "promoter"]],
        "prot": layout.proteins[["gene"]],
    }
    with override_pull_on_update():
        mdata = MuData(
            {
                m: AnnData(
                    counts[m][~lacking[m]],
                    obs=pd.DataFrame(index=system.cells[~lacking[m]]),
                    var=var[m].copy(),
                )
                for m in MODALITIES
            }
        )
        mdata.obs = obs.loc[mdata.obs_names]
    if unspliced:
        layers = mdata["rna"].layers
        layers["spliced"] = mdata["rna"].X.copy()
        layers["unspliced"] = count_unspliced(system, now, assay, unspliced)[~lacking["rna"]]
    mdata.uns[TRUTH] = record(system, assay, clamps)
    return mdata


def toy(random_state: int = 0) -> MuData:
    """Return a small data set: 1,200 myeloid cells of two donors, some without ATAC or protein.

    300 genes, 600 peaks and 20 proteins, sampled at days 0, 2, 4, 6 and 8; a call of :func:`simulate_trimodal`.

    Examples
    --------
    >>> toy().obs["cell_type"].nunique()
    7
    """
    return simulate_trimodal(
        1200,
        n_genes=300,
        n_peaks=600,
        n_donors=2,
        missing={"atac": 0.15, "prot": 0.2},
        random_state=random_state,
    )


def _check_numbers(
    sizes: Mapping[str, int],
    n_decoys: int,
    random_state: int,
    shares: Mapping[str, float],
    batch_effect: float,
) -> None:
    for name, value in (sizes | {"n_decoys": n_decoys, "random_state": random_state}).items():
        least = 0 if name in ("n_decoys", "random_state") else 1
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    for name, value in (shares | {"batch_effect": batch_effect}).items():
        most = np.inf if name == "batch_effect" else 1
        if not isinstance(value, Real) or not 0 <= value <= most or not np.isfinite(float(value)):
            raise ValueError(
                f"{name} must be a number "
                + ("of at least 0" if most > 1 else "from 0 to 1")
                + f", got {value!r}"
            )


def _checked_times(times: Sequence[float]) -> np.ndarray:
    days = np.atleast_1d(np.asarray(times, dtype=float))
    if (
        days.ndim > 1
        or days.size == 0
        or not np.isfinite(days).all()
        or days[0] < 0
        or (np.diff(days) <= 0).any()
    ):
        raise ValueError(
            f"times must be days, not negative, finite and strictly increasing, got {list(np.ravel(times))}"
        )
    return days


def _checked_depth(depth: Mapping[str, float] | None, default: dict[str, float]) -> dict[str, float]:
    if unknown := set(depth or {}) - set(default):
        raise ValueError(f"depth: no modality {listed(unknown)}; there are {listed(default)}")
    chosen = default | {name: float(value) for name, value in (depth or {}).items()}
    for name, value in chosen.items():
        if not 0 < value < np.inf:
            raise ValueError(f"depth: counts per cell of {name} must be positive and finite, got {value}")
    return chosen

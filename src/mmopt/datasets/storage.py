"""What a simulated data set keeps in ``uns`` so that its cells can be run again."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed
from mmopt._compat import versions
from mmopt._keys import TRUTH
from mmopt.datasets.dynamics import Kinetics
from mmopt.datasets.interventions import Intervention
from mmopt.datasets.logic import EDGE_COLUMNS
from mmopt.datasets.network import Network
from mmopt.datasets.observe import Assay
from mmopt.datasets.system import System


def record(system: System, assay: Assay, interventions: Sequence[Intervention]) -> dict:
    """Everything needed to run ``system`` again, in types that an h5mu file keeps."""
    layout, network = system.layout, system.network
    return {
        "edges": layout.edges,
        "peak_links": layout.links.rename(columns={"target": "peak"}),
        "genes": layout.genes[["kind"]],
        "initial": network.initial.to_frame(),
        "stages": network.stages,
        "kinetics": asdict(system.kinetics),
        "depth": dict(assay.depth),
        "parameters": {
            "n_cells": len(system.cells),
            "n_genes": len(layout.genes),
            "n_peaks": len(layout.peaks),
            "n_proteins": len(layout.proteins),
            "n_decoys": int((layout.genes["kind"] == "decoy").sum()),
            "housekeeping": system.housekeeping,
            "times": system.times,
            "n_donors": int(assay.donor.max()) + 1,
            "batch_effect": float(assay.batch_effect),
            "dropout": float(assay.dropout),
            "atac_background": float(assay.atac_background),
            "random_state": int(system.random_state),
        },
        "interventions": pd.DataFrame(
            {
                "gene": [i.gene for i in interventions],
                "mode": [i.mode for i in interventions],
                "start": [float(system.times[0] if i.start is None else i.start) for i in interventions],
                "stop": [float(i.stop) for i in interventions],
            }
        ),
        "versions": versions(),
    }


def restore(mdata: MuData) -> tuple[System, np.ndarray]:
    """Build the simulation of ``mdata`` again; also the number of each of its cells in it."""
    if TRUTH not in mdata.uns:
        raise KeyError(
            f"no simulated truth in mdata.uns[{TRUTH!r}]; it is there in data of mm.datasets.simulate_trimodal()"
        )
    truth = mdata.uns[TRUTH]
    if len(truth["interventions"]):
        raise ValueError(
            f"these cells were simulated with {listed(truth['interventions']['gene'])} held, and the truth is known of the "
            "wild type only; ask it of `simulate_trimodal` with the same random_state and without `interventions`"
        )
    stored, parameters = truth["edges"], truth["parameters"]
    given = stored.loc[stored["given"].to_numpy(bool), EDGE_COLUMNS].reset_index(drop=True)
    system = System(
        Network(given, truth["initial"]["level"], truth["stages"]),
        **{
            k: int(parameters[k])
            for k in ("n_cells", "n_genes", "n_peaks", "n_proteins", "n_decoys", "random_state")
        },
        housekeeping=float(parameters["housekeeping"]),
        times=parameters["times"],
        kinetics=Kinetics(**{k: float(v) for k, v in truth["kinetics"].items()}),
    )
    made = system.layout.edges
    if list(zip(made["source"], made["target"], strict=True)) != list(
        zip(stored["source"], stored["target"], strict=True)
    ):
        raise ValueError(
            f"the simulation in mdata.uns[{TRUTH!r}] comes out differently with this NumPy; it was made with "
            f"{dict(truth['versions'])}: simulate it again"
        )
    cells = system.cells.get_indexer(mdata.obs_names)
    if (cells < 0).any():
        raise KeyError(
            f"cells that were not simulated: {listed(mdata.obs_names[cells < 0])}; keep the names cell000000, …"
        )
    return system, cells

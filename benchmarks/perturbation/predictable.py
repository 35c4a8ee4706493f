"""What regulators predict in cells pooled apart, and how much of the prior the data confirm beside chance.

``MMOPT_DATA=... python predictable.py`` writes predictable.csv.
"""

import datetime
import sys
import warnings
from pathlib import Path

import anndata
import mudata
import networks
import numpy as np
import pandas as pd
import real

import mmopt as mm

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import machine


def data_sets():
    """Name, data, prior, and which genes may regulate."""
    for name in ("a", "c", "e"):
        mdata, prior, *_ = networks.data((networks.DEVELOPMENT | networks.REPORT)[name])
        yield f"simulated {name}", mdata, prior, None
    prior = real.prior_table()
    cells = mudata.read_h5mu(real.DATA / "papalexi_eccite.h5mu")
    control, rna = (cells.obs["perturbation"] == "control").to_numpy(), cells["rna"]
    sources = sorted({*prior["source"], *real.INTERFERON} & set(rna.var_names))
    yield "papalexi, control cells", mudata.MuData({"rna": rna[control].copy()}), prior, sources
    kang = anndata.read_h5ad(real.DATA / "kang_ifnb.h5ad")
    rest = (kang.obs["condition"] == "ctrl").to_numpy()
    one = rest & (kang.obs["cell_type"] == "CD4 T cells").to_numpy()
    for name, rows in (("all cells", rest | True), ("at rest", rest), ("CD4 T cells at rest", one)):
        yield f"kang, {name}", mudata.MuData({"rna": kang[rows].copy()}), prior, None
    paul = anndata.read_h5ad(real.DATA / "paul15.h5ad")
    paul.var_names = [str(v) for v in paul.var_names]
    back = {v.upper(): v for v in paul.var_names} | real.ALIAS
    mouse = prior.assign(source=prior["source"].map(back), target=prior["target"].map(back)).dropna()
    yield "paul15", mudata.MuData({"rna": paul}), mouse, None
    for name in ("bmmc_multiome_A", "teaseq_rna_adt"):
        yield name, mudata.read_h5mu(real.DATA / f"{name}.h5mu"), prior, None


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rows = []
    for name, mdata, prior, regulators in data_sets():
        mm.tl.regulons(mdata, prior=prior, regulators=regulators, n_boot=5)
        slot = mdata.uns["regulons"]
        genes = (slot["features"]["modality"] == slot["params"]["modalities"]["rna"]).to_numpy()
        r2 = slot["features"].loc[genes, "held_out_r2"]
        row = {"data": name, "cells": mdata.n_obs, "genes": len(r2)}
        row |= {"above 0.3": slot["params"]["predictable"], "median": np.nanmedian(r2)}
        evidence = slot["regulators"][["n_edges", "n_confirmed", "n_by_chance"]].sum().to_dict()
        rows.append(row | evidence | {"doubted": int((slot["regulators"]["doubt"] > 0.5).sum())})
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows).assign(date=str(datetime.date.today()), machine=machine())
    table.round(3).to_csv(Path(__file__).with_suffix(".csv"), index=False)

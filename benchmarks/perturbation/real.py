"""Directions known from experiments, predicted from unperturbed cells; ``MMOPT_DATA=... python real.py`` writes real.csv.

What is expected was written down here before anything was run: knock-outs of STAT1, JAK2, IFNGR1 and IFNGR2 lower
STAT1, PSMB9 and UBE2L6 in interferon-stimulated THP-1 cells, that of CD86 changes none of them; in mouse
haematopoiesis Gata1 and Klf1 are needed for erythroid cells, Spi1 for granulocytes and monocytes, Cebpa for granulocytes.
"""

import os
import warnings
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

import mmopt as mm
from mmopt.metrics import perturbation_scores

DATA = Path(os.environ.get("MMOPT_DATA", "data"))
INTERFERON, READ = ("STAT1", "JAK2", "IFNGR1", "IFNGR2", "CD86"), ("STAT1", "PSMB9", "UBE2L6")
LINEAGES = {
    "Gata1": ("Erythrocyte",),
    "Klf1": ("Erythrocyte",),
    "Spi1": ("Monocytes", "Neutrophils"),
    "Cebpa": ("Neutrophils",),
}
ALIAS = {"SPI1": "Sfpi1"}
_MARKERS, _LEAST_CELLS = 25, 200
_REGULATORS, _EPOCHS = 5, 60


def prior_table() -> pd.DataFrame:
    """TRRUST, signed where it says so."""
    table = pd.read_csv(DATA / "trrust_tf_target.csv")
    return table.rename(columns={"tf": "source", "mor": "weight"})[["source", "target", "weight"]]


def papalexi(n_cells: int = 2386) -> pd.DataFrame:
    """Predicted from control cells, measured in the perturbed ones."""
    cells = mudata.read_h5mu(DATA / "papalexi_eccite.h5mu")
    rna = cells["rna"]
    label = cells.obs["perturbation"].astype(str).to_numpy()
    logged = rna.X.toarray() if hasattr(rna.X, "toarray") else np.asarray(rna.X)
    logged = np.log1p(1e4 * logged / np.maximum(logged.sum(1, keepdims=True), 1))
    control = mudata.MuData({"rna": rna[np.flatnonzero(label == "control")[:n_cells]].copy()})
    prior = prior_table()
    known = [g for g in INTERFERON if g in rna.var_names]
    sources = sorted({*prior["source"], *known} & set(rna.var_names))
    mm.tl.regulons(control, prior=prior, regulators=sources)
    edges = control.uns["regulons"]["edges"]
    rows = []
    for gene in INTERFERON:
        mine, others = logged[label == gene], logged[label == "control"]
        predicted, why = None, "not in the panel of 299 genes"
        if gene in rna.var_names:
            try:
                mm.tl.perturb(control, gene)
                table = control.uns["perturb"][f"{gene}_knockout"]["effects"]
                predicted, why = table[table["group"] == "all"].set_index("feature"), ""
            except ValueError as refusal:
                why = str(refusal)
        for read in READ:
            if read not in rna.var_names or read == gene:
                continue
            column = rna.var_names.get_loc(read)
            row = {"data": "papalexi", "knockout": gene, "readout": read}
            row["expected"] = 0 if gene == "CD86" else -1
            if len(mine):
                row["measured"] = mine[:, column].mean() - others[:, column].mean()
            if predicted is not None:
                edge = edges[(edges["source"] == gene) & (edges["target"] == read)]
                row |= predicted.loc[read, ["delta", "q05", "q95", "null_p"]].to_dict()
                row["evidence"] = edge["evidence"].iloc[0] if len(edge) else "none"
                row["agrees"] = np.sign(row["delta"]) == row["expected"]
            rows.append(row | {"remark": why})
    return pd.DataFrame(rows)


def paul() -> pd.DataFrame:
    """Known regulators of blood, each with the rank of its effect among all knock-outs that can be asked."""
    adata = anndata.read_h5ad(DATA / "paul15.h5ad")
    adata.var_names = [str(v) for v in adata.var_names]
    back = {v.upper(): v for v in adata.var_names} | {k: v for k, v in ALIAS.items() if v in adata.var_names}
    prior = prior_table()
    prior = prior.assign(source=prior["source"].map(back), target=prior["target"].map(back)).dropna(
        subset=["source", "target"]
    )
    logged = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    logged = np.log1p(1e4 * logged / np.maximum(logged.sum(1, keepdims=True), 1))
    label = adata.obs["cell_type2"].astype(str).to_numpy()
    variable = np.argsort(-logged.var(0))[:1200]
    named = {ALIAS.get(g.upper(), g) for g in LINEAGES} | set(prior["source"])
    kept = [g for i, g in enumerate(adata.var_names) if i in set(variable) or g in named]
    cells = mudata.MuData({"rna": adata[:, kept].copy()})
    values = pd.DataFrame(logged, columns=adata.var_names)[kept]
    wanted = [ALIAS.get(g.upper(), g) for g in LINEAGES]
    mm.tl.regulons(cells, prior=prior, regulators=sorted({*prior["source"], *wanted} & set(kept)))
    table = mm.tl.screen(cells, progress_bar=False)
    effects = table[table["group"] == "all"].pivot(index="perturbation", columns="feature", values="delta")
    effects.index = [str(p).removesuffix("_knockout") for p in effects.index]
    edges = cells.uns["regulons"]["edges"]
    skipped = cells.uns["screen"]["skipped"].set_index("perturbation")["reason"]
    rows = []
    for gene, types in LINEAGES.items():
        name = ALIAS.get(gene.upper(), gene)
        here = np.isin(label, types)
        apart = values[here].mean() - values[~here].mean()
        markers = apart.drop(name, errors="ignore").sort_values()
        down, up = markers.index[:_MARKERS], markers.index[-_MARKERS:]
        row = {"data": "paul15", "knockout": gene, "readout": " and ".join(types), "expected": -1}
        if name not in effects.index:
            reason = skipped.get(f"{name}_knockout", "not among the genes")
            rows.append(row | {"remark": str(reason)})
            continue
        scores = effects[up].mean(axis=1) - effects[down].mean(axis=1)
        row["delta"] = scores[name]
        row["agrees"] = scores[name] < 0
        # how often any other regulator's knock-out lowers this lineage as much
        others = scores.drop(name)
        row["permutation_p"] = (1 + (others <= scores[name]).sum()) / (1 + len(others))
        mine = edges[edges["source"] == name]["evidence"].astype(str)
        row["evidence"] = f"{(mine != 'covariation').sum()} of {len(mine)} edges in the prior"
        rows.append(row | {"remark": ""})
    return pd.DataFrame(rows)


def kang() -> pd.DataFrame:
    """Interferon response of a cell type whose stimulated cells were held out, beside the mean shift of the others."""
    cells = anndata.read_h5ad(DATA / "kang_ifnb.h5ad")
    kind, stimulated = (
        cells.obs["cell_type"].astype(str).to_numpy(),
        (cells.obs["condition"] == "stim").to_numpy(),
    )
    counts = cells.X.toarray()
    values = 1e4 * counts / counts.sum(1, keepdims=True)
    logged, types = np.log1p(values), np.unique(kind)
    at_rest = np.stack([logged[(kind == t) & ~stimulated].mean(0) for t in types])
    truth = np.stack([logged[(kind == t) & stimulated].mean(0) for t in types]) - at_rest
    prior, made = prior_table(), {}
    for i, held in enumerate(types):
        others = np.delete(np.arange(len(types)), i)
        shift = truth[others].mean(0)
        centre = at_rest[others].mean(0)
        fit = Ridge(np.square(at_rest[others] - centre).sum() / len(others), fit_intercept=True)
        fit.fit(at_rest[others], truth[others])
        made.setdefault("no change", []).append(0 * shift)
        made.setdefault("mean shift of the others", []).append(shift)
        made.setdefault("ridge", []).append(fit.predict(at_rest[i : i + 1])[0])
        seen = cells[~((kind == held) & stimulated)].copy()
        training = mudata.MuData({"rna": seen})
        mine = np.flatnonzero((seen.obs["cell_type"] == held).to_numpy())
        # the regulators that rise most in the other types, held in the control cells at the level they have there
        present = [g for g in dict.fromkeys(prior["source"]) if g in cells.var_names]
        rises = pd.Series(shift, cells.var_names)[present].nlargest(_REGULATORS).index
        mm.tl.regulons(training, prior=prior, regulators=present)
        there = values[(kind != held) & stimulated].mean(0)
        levels = {g: float(there[cells.var_names.get_loc(g)]) for g in rises}
        mm.tl.perturb(
            training,
            levels,
            cells=seen.obs_names[mine],
            allow_extrapolation=True,
            on_missing="zero",
            key_added="ifn",
        )
        effects = (
            training.uns["perturb"]["ifn"]["effects"].query("group == 'all'").set_index("feature")["delta"]
        )
        made.setdefault("network", []).append(effects[cells.var_names].to_numpy())
        training.obs["condition"] = seen.obs["condition"].astype(str)
        model = mm.tl.integrate(
            training, batch_key="condition", accelerator="cpu", max_epochs=_EPOCHS, progress_bar=False
        )
        decoded = [
            model.get_normalized("rna", indices=mine, library_size=1e4, transform_batch=batch)
            for batch in ("ctrl", "stim")
        ]
        made.setdefault("TriVI, decoded as stimulated", []).append(
            np.subtract(*map(np.log1p, decoded[::-1])).mean(0)
        )
    changed = np.abs(truth) > 0.25
    frames = []
    for method, delta in made.items():
        scores = perturbation_scores(np.stack(delta), truth, changed=changed)[["pearson", "mae", "mae_ratio"]]
        scores.insert(0, "readout", types)
        scores.insert(0, "method", method)
        frames.append(scores)
    return pd.concat(frames, ignore_index=True).assign(data="kang")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    table = pd.concat([papalexi(), paul(), kang()], ignore_index=True)
    table.round(4).to_csv(Path(__file__).with_name("real.csv"), index=False)
    print(table.round(3).to_string())

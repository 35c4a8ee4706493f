"""The twin on a real time course: one held-out time point, beside what it has to beat."""

import numpy as np
from anndata import read_h5ad
from mudata import MuData
from sklearn.decomposition import PCA

import mmopt as mm


def test_a_held_out_day_of_differentiating_stem_cells(real_data):
    adata = read_h5ad(real_data / "semrau_mesc_ra.h5ad")
    adata = adata[:, adata.var_names != "RA"].copy()
    counts = np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X, dtype=float)
    mdata = MuData({"rna": adata})
    logged = np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))
    mdata.obsm["X_pca"] = PCA(15, random_state=0).fit_transform(logged)
    table = mm.tl.evaluate_twin(
        mdata, time_key="time_h", hold_out=48, use_rep="X_pca", n_members=1, n_steps=800, progress_bar=False
    )
    for space in ("embedding", "genes"):
        energy = table[table["space"] == space].set_index("prediction")["energy"]
        assert energy["twin"] < energy["previous_time"]
        assert energy["twin"] < energy["next_time"]
        assert energy["split_half_floor"] < energy["twin"]

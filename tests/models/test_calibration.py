"""Depths and strengths after training."""

import numpy as np
import pytest
import torch

from mmopt.models.calibration import calibrate
from mmopt.models.readout import batch_shares, heard_code

CODES = {"rna": 1, "atac": 2, "prot": 4}


def fit(model):
    calibrate(model.module, model.adata_manager, model.train_indices, model.validation_indices)


def test_the_depth_is_learned_from_what_predicts_it(make_model, train, make_mosaic):
    """ATAC whose depth follows that of RNA: cells without ATAC get a depth of their own."""
    import scipy.sparse as sp

    mdata = make_mosaic(n=240)
    rng = np.random.default_rng(0)
    names = mdata.obs_names
    factor = dict(zip(names, np.exp(rng.normal(0, 1, len(names))), strict=True))
    for m in ("rna", "atac"):
        x = mdata[m].X.toarray() * 10
        thinned = rng.poisson(x * np.array([factor[n] for n in mdata[m].obs_names])[:, None])
        mdata[m].X = sp.csr_matrix(thinned, dtype=np.float32)
    model = train(make_model(mdata), 3)
    cells = np.flatnonzero(names.isin(mdata["rna"].obs_names) & ~names.isin(mdata["atac"].obs_names))
    found = np.log(model.get_normalized("atac", indices=cells).sum(1))
    expected = np.log([factor[n] for n in names[cells]])
    assert np.corrcoef(found, expected)[0, 1] > 0.9
    depth = model.module.depths["atac"]
    assert depth.spread[CODES["rna"]] < 0.5 * depth.spread[0]


def test_subsets_seen_together_are_fitted_and_the_others_answer_as_their_parts(
    make_model, train, make_mosaic
):
    mdata = make_mosaic(n=120, lacking=False)
    halves = np.arange(120) % 2 == 0
    with_prot, with_atac = mdata.obs_names[halves], mdata.obs_names[~halves]
    mdata.mod["prot"] = mdata["prot"][mdata["prot"].obs_names.isin(with_prot)].copy()
    mdata.mod["atac"] = mdata["atac"][mdata["atac"].obs_names.isin(with_atac)].copy()
    mdata.update()
    model = train(make_model(mdata), 1)
    weight = model.module.depths["atac"].weight
    assert weight[CODES["rna"]].abs().sum() > 0
    assert torch.equal(weight[CODES["rna"] + CODES["prot"]], weight[CODES["rna"]])
    assert weight[CODES["prot"]].abs().sum() == 0  # never in one cell: the median
    found = model.get_normalized("atac", given="prot", indices=np.flatnonzero(halves))
    np.testing.assert_allclose(found.sum(1), found.sum(1)[0], rtol=1e-4)


def test_strength_is_the_most_likely_for_held_out_cells(fitted):
    """Against the likelihood of every strength, computed from the answers at own depth."""
    from mmopt.models.calibration import STRENGTHS

    depth = fitted.module.depths["atac"]
    assert set(depth.strength.tolist()) <= set(STRENGTHS.tolist())
    assert depth.strength[CODES["atac"]] == 1  # heard itself: trusted
    mdata = fitted.adata
    both = mdata.obs_names.isin(mdata["rna"].obs_names) & mdata.obs_names.isin(mdata["atac"].obs_names)
    cells = np.arange(80)[both]
    x = mdata["atac"].X.toarray()[mdata["atac"].obs_names.get_indexer(mdata.obs_names[cells])]
    kept, scores = depth.strength.clone(), []
    try:
        for strength in STRENGTHS:
            depth.strength.fill_(strength)
            shares = fitted.get_normalized("atac", given="rna", indices=cells, library_size=1)
            scores.append((x * np.log(shares)).sum())
        calibrate(fitted.module, fitted.adata_manager, fitted.train_indices, cells)
        assert depth.strength[CODES["rna"]] == STRENGTHS[int(np.argmax(scores))]
    finally:
        fit(fitted)
    assert torch.equal(depth.strength, kept)


def test_strength_zero_is_the_profile_of_the_data(fitted, dense):
    depth = fitted.module.depths["rna"]
    kept = depth.strength.clone()
    try:
        depth.strength[CODES["prot"]] = 0
        found = fitted.get_normalized("rna", given="prot", library_size=1, indices=[1, 3])
    finally:
        depth.strength.copy_(kept)
    total = dense(fitted.adata, "rna").sum().to_numpy() + 0.5
    np.testing.assert_allclose(found, np.tile(total / total.sum(), (2, 1)), rtol=1e-4)


def test_is_repeatable_and_changes_no_weight(fitted):
    before = {k: v.clone() for k, v in fitted.module.state_dict().items()}
    fit(fitted)
    assert all(torch.equal(v, before[k]) for k, v in fitted.module.state_dict().items())


def test_no_held_out_cells(make_model, train):
    model = train(make_model(), 1, train_size=1.0)
    assert (model.module.depths["atac"].strength == 1).all()
    assert model.module.depths["atac"].weight.abs().sum() > 0


def test_codes_and_shares():
    present = torch.tensor([[True, False, True], [False, False, True], [True, False, True]])
    assert heard_code(present).tolist() == [5, 0, 7]
    measured = torch.tensor([[True], [False], [True]])
    shares = batch_shares(measured, torch.tensor([0, 1, 2]))
    assert shares.tolist() == [[1, 0, 0], [0.5, 0, 0.5], [0, 0, 1]]
    assert pytest.approx(1) == float(shares.sum(1).mean())

import json
import random

import mudata
import numpy as np
import pandas as pd
import pytest
import torch

import mmopt as mm
from mmopt._checks import presence
from mmopt._compat import override_pull_on_update


@pytest.fixture
def toy(toy_source):
    """A fifth of the cells: what is written, and what is refused, does not depend on how many there are."""
    return toy_source[toy_source.obs_names[::5]].copy()


def short(mdata, **kwargs):
    settings = {"max_epochs": 2, "accelerator": "cpu", "progress_bar": False} | kwargs
    return mm.tl.integrate(mdata, **settings)


def same(a, b):
    """Equal after a round trip through a file, tables and arrays included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True), check_dtype=False)
        return True
    return np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray | list) else a == b


def test_slots(fitted):
    mdata, model = fitted
    assert mdata.obsm["X_mmopt"].shape == (mdata.n_obs, 20)
    np.testing.assert_array_equal(mdata.obsm["X_mmopt"], model.get_latent_representation())
    fit = mdata.uns["mmopt"]
    assert set(fit) == {"params", "history", "steps", "versions"}
    assert len(fit["history"]) == 4
    for m in ("rna", "atac", "prot"):
        assert {f"nll_{m}_train", f"nll_{m}_validation"} <= set(fit["history"])
    assert list(fit["steps"]) == ["step", "loss", "rate"]
    assert len(fit["steps"]) == 4 * -(-fit["params"]["n_train"] // 128)
    assert fit["steps"]["rate"].between(1e-6, 2e-2 + 1e-9).all()
    assert fit["params"]["optimizer"] == "asgdadam"
    assert fit["versions"]["mmopt"] == mm.__version__


def test_two_networks_for_few_cells(toy, monkeypatch):
    mdata = toy[toy.obs_names[:200]].copy()
    model = short(mdata, n_latent=5)
    fit = mdata.uns["mmopt"]
    assert fit["params"]["n_networks"] == len(model.networks) == 2
    assert fit["params"]["n_epochs"] == 2  # of each
    assert mdata.obsm["X_mmopt"].shape == (200, 5)
    assert fit["history"]["network"].tolist() == [0, 0, 1, 1]
    assert fit["steps"]["network"].nunique() == 2
    axes = mm.pl.loss_curves(mdata, show=False)
    bound = [line for line in axes[0].lines if line.get_linestyle() == "-"]
    assert len(bound) == 2
    for line, (_, run) in zip(bound, fit["history"].groupby("network"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), run["elbo_validation"])
    assert len(short(mdata, n_latent=1).networks) == 1
    monkeypatch.setattr("mmopt.tl._integrate.FEW_CELLS", 200)
    assert len(short(mdata, n_latent=5).networks) == 1
    assert len(short(mdata, n_latent=5, n_networks=3).networks) == 3


def test_modality_weights_are_shares_of_the_modalities_present(fitted):
    mdata, _ = fitted
    weights = mdata.obs[[f"mmopt_weight_{m}" for m in ("rna", "atac", "prot")]].to_numpy()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    has = presence(mdata, {m: m for m in ("rna", "atac", "prot")})
    assert (weights[~has] == 0).all()
    assert (weights[has] > 0).all()


def test_weights_of_modalities_used_before_are_taken_out(toy):
    toy.obs["mmopt_weight_prot"] = 0.6
    short(toy, max_epochs=1, n_networks=1, atac=False, prot=False)
    assert [c for c in toy.obs if c.startswith("mmopt_weight")] == ["mmopt_weight_rna"]
    np.testing.assert_allclose(toy.obs["mmopt_weight_rna"], 1)


def test_slots_survive_a_file(fitted, tmp_path):
    mdata, _ = fitted
    with override_pull_on_update():
        mdata.write_h5mu(tmp_path / "fit.h5mu")
        again = mudata.read_h5mu(tmp_path / "fit.h5mu")
    assert same(mdata.uns["mmopt"], again.uns["mmopt"])
    np.testing.assert_array_equal(mdata.obsm["X_mmopt"], again.obsm["X_mmopt"])


def test_key_added_names_every_slot(toy):
    before = set(toy.uns)
    short(toy, key_added="X_other", prot=False)
    assert toy.obsm["X_other"].shape[0] == toy.n_obs
    assert "mmopt_weight_rna" not in toy.obs
    assert {"other_weight_rna", "other_weight_atac"} <= set(toy.obs)
    assert set(toy.uns) - before >= {"other"}
    assert toy.uns["other"]["params"]["modalities"] == {"rna": "rna", "atac": "atac"}


def test_params_say_what_decides_a_fit(toy, tmp_path):
    panels = {str(donor): list(toy["prot"].var_names) for donor in toy.obs["donor"].unique()}
    arguments = {"max_epochs": 1, "early_stopping": False, "use_highly_variable": False}
    short(
        toy,
        **arguments,
        n_networks=1,
        batch_key="donor",
        protein_panels=panels,
        model_kwargs={"n_hidden": 16, "atac_rank": None},
        held_out=[5, 2],
    )
    with override_pull_on_update():
        toy.write_h5mu(tmp_path / "fit.h5mu")
        params = mudata.read_h5mu(tmp_path / "fit.h5mu").uns["mmopt"]["params"]
    assert {k: params[k] for k in arguments} == arguments
    assert json.loads(params["protein_panels"]) == panels
    assert (params["model_n_hidden"], params["model_atac_rank"]) == (16, "")
    assert sorted(params["held_out"]) == [2, 5]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("rna", "overwrite mdata.obsm.*which cells this modality has; take another name, such as 'X_rna'"),
        ("X_umap", "overwrite mdata.uns.*which is no fit; take another name, such as 'X_mmopt_umap'"),
        ("X_twin", "key_added='twin' would overwrite"),
        ("", "a name is needed"),
        ("X_", "a name is needed"),
        (None, "key_added=None: a name is needed"),
        (3, "key_added=3: a name is needed"),
    ],
)
def test_keys_of_others_are_refused(toy, key, message):
    toy.uns["umap"] = {"params": {"a": 0.5, "b": 1.0}}
    before = set(toy.uns)
    with pytest.raises(ValueError, match=message):
        short(toy, key_added=key)
    assert set(toy.uns) == before


def test_a_fit_of_before_is_replaced(toy):
    for max_epochs in (1, 2):
        short(toy, max_epochs=max_epochs, n_networks=1, key_added="X_mine")
    assert len(toy.uns["mine"]["history"]) == 2


@pytest.mark.parametrize("name", ["adt", "ADT", "cite", "protein"])
def test_usual_names_of_modalities(toy, name):
    with override_pull_on_update():
        renamed = mudata.MuData({"gex": toy["rna"].copy(), name: toy["prot"].copy()})
    short(renamed, max_epochs=1)
    assert renamed.uns["mmopt"]["params"]["modalities"] == {"rna": "gex", "prot": name}


def test_same_seed_same_numbers_and_no_global_state_changed(toy):
    copies = [toy.copy(), toy.copy(), toy.copy()]
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    for mdata, seed in zip(copies, (0, 0, 1), strict=True):
        short(mdata, batch_key="donor", random_state=seed)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    first, second, other = (m.obsm["X_mmopt"] for m in copies)
    np.testing.assert_array_equal(first, second)
    pd.testing.assert_frame_equal(copies[0].uns["mmopt"]["steps"], copies[1].uns["mmopt"]["steps"])
    assert not np.array_equal(first, other)


def test_a_function_can_make_the_optimizer(toy):
    made = []

    def plain(parameters):
        made.append(torch.optim.SGD(parameters, lr=1e-5))
        return made[-1]

    short(toy, optimizer=plain, max_epochs=1)
    assert len(made) == 2  # one for each network
    assert toy.uns["mmopt"]["params"]["optimizer"] == "plain"
    np.testing.assert_allclose(toy.uns["mmopt"]["steps"]["rate"], 1e-5)


def test_counts_and_columns_are_not_changed(toy):
    before = {m: a.X.copy() for m, a in toy.mod.items()}
    columns = list(toy.obs)
    short(toy, max_epochs=1)
    for m, x in before.items():
        assert (x != toy[m].X).nnz == 0
    assert list(toy.obs)[: len(columns)] == columns


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"rna": "GEX"}, KeyError, "GEX.*'rna'.*'atac'.*'prot'"),
        ({"batch_key": "nobody"}, KeyError, "nobody.*donor"),
        ({"optimizer": "adamm"}, ValueError, "adamm.*asgdadam"),
        ({"optimizer_kwargs": {"alpha_min": 1.0, "alpha_max": 0.1}}, ValueError, "alpha_min"),
        ({"lr": -1.0}, ValueError, "lr"),
        ({"optimizer_kwargs": {"betas": (0.9, 1.0)}}, ValueError, "beta"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"max_epochs": 0}, ValueError, "max_epochs"),
        ({"train_size": 0.0}, ValueError, "train_size"),
        ({"layer": "raw"}, KeyError, "raw"),
        ({"use_highly_variable": True}, KeyError, "mm.pp.prepare"),
    ],
)
def test_refusals(toy, kwargs, error, message):
    with pytest.raises(error, match=message):
        short(toy, **kwargs)
    assert "X_mmopt" not in toy.obsm


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batchkey": "donor"}, "no argument 'batchkey'; did you mean batch_key"),
        ({"n_hidden": 64}, "n_hidden is an argument of the model: give it as `model_kwargs={'n_hidden'"),
        ({"gradient_clip": 1.0}, "no argument 'gradient_clip'; did you mean gradient_clip_val"),
        ({"model_kwargs": {"n_hiden": 64}}, "model_kwargs: no argument 'n_hiden'; did you mean n_hidden"),
        ({"model_kwargs": {"n_latent": 5}}, "model_kwargs: n_latent is an argument of the call itself"),
    ],
)
def test_misspelt_arguments_are_found_before_anything_is_written(toy, kwargs, message):
    before = set(toy.uns)
    with pytest.raises(TypeError, match=message):
        short(toy, **kwargs)
    assert set(toy.uns) == before


def test_arguments_of_training_and_trainer_go_through(toy):
    model = short(toy, max_epochs=1, n_networks=1, train_size=0.8, limit_val_batches=1, callbacks=[])
    assert len(model.train_indices) == round(0.8 * toy.n_obs)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.X.__imul__(0.5), "prot.*fractional"),
        (lambda a: a.X.__imul__(-1), "prot.*negative"),
        (lambda a: a.X.data.__setitem__(0, np.nan), "prot.*NaN"),
    ],
)
def test_refuses_what_is_not_counts(toy, spoil, message):
    spoil(toy["prot"])
    with pytest.raises(ValueError, match=message):
        short(toy)


def test_an_anndata_is_told_how_to_become_a_mudata(toy):
    with pytest.raises(TypeError, match="MuData"):
        short(toy["rna"])


def test_what_a_wrapped_trainer_takes_is_not_known(toy, monkeypatch):
    import lightning.pytorch

    def wrapped(self, *args, whole=lightning.pytorch.Trainer.__init__, **kwargs):
        whole(self, *args, **kwargs)

    monkeypatch.setattr(lightning.pytorch.Trainer, "__init__", wrapped)
    short(toy, max_epochs=1, n_networks=1, callbacks=[])

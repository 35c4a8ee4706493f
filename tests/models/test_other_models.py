"""Our optimizers in scvi-tools' models through one line: what trains is really ours, MULTIVI included."""

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from mudata import MuData

from mmopt._random import isolated
from mmopt.models import use_optimizer
from mmopt.optim import ASGDAdam, ASGDAMSGrad, LogRates, creator

pytestmark = pytest.mark.filterwarnings("ignore")
N, BATCH, EPOCHS = 60, 18, 4
STEPS = EPOCHS * 3  # nine tenths of the cells are trained on
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}


def counts(features, rate, seed):
    return AnnData(np.random.default_rng(seed).poisson(rate, (N, features)).astype(np.float32))


@pytest.fixture(autouse=True)
def seeded_split(monkeypatch):
    """Without scvi-tools' own seed every training splits off other validation cells."""
    monkeypatch.setattr(scvi.settings, "_seed", 0)


@pytest.fixture(scope="module")
def data():
    rna, atac, prot = counts(10, 2.0, 0), counts(8, 0.5, 1), counts(3, 9.0, 2)
    atac.X = (atac.X > 0).astype(np.float32)
    rna.obsm["protein"] = prot.X.copy()
    rna.obs["donor"] = np.repeat(["a", "b"], N // 2)  # two batches: an adversarial classifier joins in
    mdata = MuData({"rna": rna, "atac": atac, "prot": prot})
    where = {"rna_layer": "rna", "atac_layer": "atac", "protein_layer": "prot", "batch_key": "rna"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="donor", modalities=where)
    scvi.model.SCVI.setup_anndata(rna, batch_key="donor")
    scvi.model.TOTALVI.setup_anndata(rna, protein_expression_obsm_key="protein", batch_key="donor")
    return mdata


def scvi_model(mdata):
    return scvi.model.SCVI(mdata["rna"], n_hidden=8, n_latent=2)


def totalvi(mdata):
    small = {"latent_distribution": "normal", "n_latent": 2, "empirical_protein_background_prior": False}
    return scvi.model.TOTALVI(mdata["rna"], **small)


def multivi(mdata):
    return scvi.model.MULTIVI(mdata, n_genes=10, n_regions=8, n_hidden=8, n_latent=2)


def fit(build, mdata, before=lambda model: None, **train):
    """Optimizer of the encoder and decoder, and the training loss, the same draws for every optimizer."""
    with isolated(0):
        model = build(mdata)
        before(model)
        model.train(max_epochs=EPOCHS, batch_size=BATCH, **QUIET, **train)
    return model.trainer.optimizers[0], model.history["train_loss"].to_numpy(float).ravel(), model


@pytest.mark.parametrize("build", [scvi_model, totalvi, multivi])
def test_one_line_trains_a_model_with_ours(build, data):
    optimizer, losses, _ = fit(build, data, use_optimizer)
    assert type(optimizer) is ASGDAdam
    assert optimizer.param_groups[0]["t"] == STEPS  # every batch was a step of ours
    assert np.isfinite(losses).all()


def test_multivi_takes_other_steps_than_with_its_adamw(data):
    def ours(model):
        use_optimizer(model, "asgdadam", warmup_steps=0, switch_interval=2)

    optimizer, losses, _ = fit(multivi, data, ours, lr=1e-3)
    theirs, adamw, _ = fit(multivi, data, lr=1e-3)
    assert (type(optimizer), type(theirs)) == (ASGDAdam, torch.optim.AdamW)
    assert optimizer.base_rates()[0] != 1e-3
    assert abs(losses[-1] - adamw[-1]) > 1e-3 * adamw[-1]
    # what is left out is the plan's, so that where ours is told to be AdamW it is: nothing else differs
    same, none, _ = fit(multivi, data, lambda m: use_optimizer(m, switch_rule="none", foreach=False), lr=1e-3)
    assert {k: same.defaults[k] for k in ("lr", "eps", "weight_decay")} == {
        k: theirs.defaults[k] for k in ("lr", "eps", "weight_decay")
    }
    np.testing.assert_allclose(none, adamw, rtol=1e-6)


def test_multivi_ignores_plan_kwargs_as_our_documentation_says(data):
    custom = {"optimizer": "Custom", "optimizer_creator": creator("asgdadam")}
    optimizer, *_ = fit(multivi, data, plan_kwargs=custom)
    assert type(optimizer) is torch.optim.AdamW


def test_what_is_given_goes_before_the_plan_and_the_last_call_counts(data):
    def ours(model):
        use_optimizer(model, "sgd")
        use_optimizer(model, "asgdamsgrad", lr=2e-3, eps=1e-7, alpha_max=5e-3)

    optimizer, *_ = fit(totalvi, data, ours)
    assert type(optimizer) is ASGDAMSGrad
    assert [optimizer.defaults[k] for k in ("lr", "eps", "alpha_max")] == [2e-3, 1e-7, 5e-3]


def test_other_models_of_the_class_are_left_alone(data):
    use_optimizer(multivi(data))
    optimizer, *_ = fit(multivi, data)
    assert type(optimizer) is torch.optim.AdamW


def test_the_rates_reach_the_history_of_the_model(data):
    _, _, model = fit(multivi, data, use_optimizer, callbacks=[LogRates()], log_every_n_steps=2)
    rates = model.history["ASGDAdam/base_rate"]
    assert len(rates) == EPOCHS  # scvi-tools keeps the last value of each epoch
    assert rates.iloc[0, 0] == 1e-4 < rates.iloc[-1, 0]
    assert model.history["Adam/lr"].iloc[-1, 0] == pytest.approx(1e-3)  # of the adversarial classifier


def test_refusals(data, make_model):
    with pytest.raises(TypeError, match=r"TriVI does not train with .* `train\(optimizer=…\)`"):
        use_optimizer(make_model())
    model = multivi(data)
    with pytest.raises(ValueError, match="Unknown optimizer 'adma'"):
        use_optimizer(model, "adma")
    with pytest.raises(TypeError, match="does not accept alhpa_max"):
        use_optimizer(model, alhpa_max=1.0)
    assert model._training_plan_cls is scvi.train.AdversarialTrainingPlan

"""In other people's models: the optimizer that really trains is ours (scvi-tools and Lightning)."""

import lightning
import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData

from mmopt._random import isolated
from mmopt.optim import ASGDAdam, ASGDAMSGrad, creator

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}


def counts(cells, features, rate, seed):
    cells_and_features = np.random.default_rng(seed).poisson(rate, (cells, features))
    return AnnData(cells_and_features.astype(np.float32))


def fit(build, **train):
    """Weights after a short training, the same draws for every optimizer; and the optimizer Lightning used."""
    with isolated(0):
        model = build()
        model.train(max_epochs=6, batch_size=20, **QUIET, **train)
    weights = torch.cat([p.detach().flatten() for p in model.module.parameters()])
    return model, weights, model.trainer.optimizers[0]


def test_scvi_is_trained_by_ours():
    data = counts(100, 12, 2.0, 0)
    scvi.model.SCVI.setup_anndata(data)

    def build():
        return scvi.model.SCVI(data, n_hidden=8, n_latent=2)

    def loss_of(plan_kwargs):
        model, weights, optimizer = fit(build, plan_kwargs=plan_kwargs)
        return model.get_elbo(data).item(), weights, optimizer

    common = {"lr": 1e-3, "eps": 0.01}
    ours = creator("asgdadam", weight_decay=1e-6, warmup_steps=0, **common)
    loss, weights, optimizer = loss_of({"optimizer": "Custom", "optimizer_creator": ours})
    assert type(optimizer) is ASGDAdam
    assert optimizer.param_groups[0]["t"] == 6 * 5  # every batch was a step of ours
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"]) == (1e-3, 0.01)
    assert optimizer.base_rates()[0] != 1e-3

    adamw_loss, adamw, theirs = loss_of({"optimizer": "AdamW", "weight_decay": 1e-6, **common})
    assert type(theirs) is torch.optim.AdamW
    assert np.isfinite([loss, adamw_loss]).all() and loss != adamw_loss

    # and where ours is told to be AdamW it is, so nothing else differs
    same = creator("asgdadam", weight_decay=1e-6, switch_rule="none", foreach=False, **common)
    _, none, _ = loss_of({"optimizer": "Custom", "optimizer_creator": same})
    torch.testing.assert_close(none, adamw, rtol=0, atol=3e-7)  # a rounding or two
    assert (weights - adamw).abs().max() > 1e-4


@pytest.fixture(autouse=True)
def seeded_split(monkeypatch):
    """Without scvi-tools' own seed every training splits off other validation cells."""
    monkeypatch.setattr(scvi.settings, "_seed", 0)


def test_totalvi_is_trained_by_ours():
    data = counts(60, 12, 2.0, 0)
    data.obsm["protein"] = np.random.default_rng(1).poisson(9.0, (60, 4))
    scvi.model.TOTALVI.setup_anndata(data, protein_expression_obsm_key="protein")
    ours = creator("asgdamsgrad", lr=4e-3, eps=0.01)
    _, _, optimizer = fit(
        lambda: scvi.model.TOTALVI(
            data, latent_distribution="normal", n_latent=2, empirical_protein_background_prior=False
        ),
        plan_kwargs={"optimizer": "Custom", "optimizer_creator": ours},
    )
    assert type(optimizer) is ASGDAMSGrad
    assert optimizer.param_groups[0]["t"] > 0


class Regression(lightning.LightningModule):
    """A module of one's own: the optimizer, and its rates logged like anything else."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch, _):
        self.log("alpha", self.optimizers().optimizer.alphas()[0])
        return (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        optimizer = ASGDAdam(self.parameters(), alpha_max=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_lightning_trains_clips_schedules_and_resumes(tmp_path):
    with isolated(0):
        module = Regression()
        batches = torch.utils.data.DataLoader(torch.randn(40, 4), batch_size=4)
    settings = {
        **QUIET,
        "logger": False,
        "enable_checkpointing": True,
        "gradient_clip_val": 1.0,
        "default_root_dir": tmp_path,
    }

    def trainer(epochs):
        return lightning.Trainer(max_epochs=epochs, **settings)

    first = trainer(2)
    first.fit(module, batches)
    optimizer = first.optimizers[0]
    assert optimizer.param_groups[0]["t"] == 20
    base = optimizer.base_rates()[0].item()
    assert base > 1e-3
    assert optimizer.alphas()[0].item() == pytest.approx(base * 0.9**19)
    assert first.callback_metrics["alpha"] > 0

    first.save_checkpoint(tmp_path / "half.ckpt")
    again = trainer(3)
    again.fit(Regression(), batches, ckpt_path=tmp_path / "half.ckpt")
    assert again.optimizers[0].param_groups[0]["t"] == 30
    assert again.optimizers[0].base_rates()[0] >= base

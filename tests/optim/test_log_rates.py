"""The rates in the loggers of a Lightning trainer, for any module."""

import subprocess
import sys

import lightning
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from mmopt.optim import ASGDAdam, LogRates
from mmopt.optim.log_rates import current_rates

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*:DeprecationWarning")


class Regression(lightning.LightningModule):
    """Two layers, trained as ``configure`` says; logs nothing itself."""

    def __init__(self, configure):
        super().__init__()
        self.first, self.second, self.configure = torch.nn.Linear(4, 3), torch.nn.Linear(3, 1), configure

    def training_step(self, batch, _):
        return (self.second(self.first(batch)) - batch.sum(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return self.configure(self)


class TwoOptimizers(Regression):
    """A module that steps its optimizers itself."""

    automatic_optimization = False

    def training_step(self, batch, _):
        loss = super().training_step(batch, _)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


def logged(module, folder, **trainer):
    """What a CSV logger was told, by step."""
    logger = CSVLogger(folder)
    lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=logger,
        callbacks=[LogRates()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **trainer,
    ).fit(module, torch.utils.data.DataLoader(torch.randn(40, 4), batch_size=4))
    return pd.read_csv(f"{logger.log_dir}/metrics.csv")


def adaptive(module):
    return ASGDAdam(module.parameters(), warmup_steps=0, switch_interval=4)


def test_a_value_for_every_nth_step(tmp_path):
    seen = []

    class Watching(Regression):
        def on_before_zero_grad(self, optimizer):
            seen.append([x[0].item() for x in (optimizer.base_rates(), optimizer.alphas())])

    table = logged(Watching(adaptive), tmp_path, log_every_n_steps=5)
    assert table["step"].tolist() == [4, 9, 14, 19]
    assert set(table) == {"epoch", "step", "ASGDAdam/base_rate", "ASGDAdam/alpha", "ASGDAdam/agreement"}
    assert table["ASGDAdam/agreement"].between(-1, 1).all()
    assert table["ASGDAdam/base_rate"].nunique() > 1
    # Lightning clears the gradients before the next step: what is seen there is what the step before ended with
    rates = [seen[step + 1][0] for step in (4, 9, 14)]
    assert table["ASGDAdam/base_rate"][:3].tolist() == pytest.approx(rates)


def test_a_scheduler_moves_the_rate_but_not_the_base_rate(tmp_path):
    def scheduled(module):
        optimizer = ASGDAdam(module.parameters(), switch_rule="none")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    table = logged(Regression(scheduled), tmp_path, log_every_n_steps=10)
    assert table["ASGDAdam/base_rate"].tolist() == [1e-3, 1e-3]
    assert table["ASGDAdam/alpha"].tolist() == pytest.approx([0.5e-3, 0.5e-3])


def test_groups_and_several_optimizers_have_names_of_their_own(tmp_path):
    def two(module):
        groups = [
            {"params": [p], "lr": lr} for p, lr in zip(module.first.parameters(), (1e-3, 2e-3), strict=True)
        ]
        second = module.second.parameters()
        return [ASGDAdam(groups, switch_rule="none"), torch.optim.SGD(second, lr=0.01)]

    table = logged(TwoOptimizers(two), tmp_path, log_every_n_steps=10)
    assert table.filter(like="base_rate").iloc[-1].to_dict() == {
        "ASGDAdam/0/base_rate": 1e-3,
        "ASGDAdam/1/base_rate": 2e-3,
    }
    assert table["SGD/lr"].tolist() == pytest.approx([0.01, 0.01])


def test_the_same_class_twice():
    adams = [torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=lr) for lr in (0.1, 0.2)]
    assert current_rates(adams) == {"Adam/lr": 0.1, "Adam-1/lr": 0.2}


def test_one_value_per_controller_and_none_is_read_from_the_device():
    parameters = [torch.nn.Parameter(torch.zeros(n, device="meta")) for n in (3, 4)]
    rates = current_rates([ASGDAdam(parameters, scope="tensor")])
    assert len(rates) == 6
    assert {value.device.type for value in rates.values()} == {"meta"}  # whose values cannot be read


def test_without_a_logger_nothing_is_missing():
    lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[LogRates()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(Regression(adaptive), torch.utils.data.DataLoader(torch.randn(40, 4), batch_size=4))


def test_the_optimizers_do_without_lightning():
    code = "import sys, mmopt.optim; mmopt.optim.ASGDAdam; mmopt.optim.creator; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"

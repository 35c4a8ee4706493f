import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mmopt.models.clock import Clock
from mmopt.models.own_average import EvaluateOwnAverage
from mmopt.optim import creator
from mmopt.optim.averaging import WeightAverage


class TwoPlaces(torch.optim.SGD):
    """Trains at one place and is to be evaluated 1 beside it."""

    mode = "train"

    @torch.no_grad()
    def eval(self):
        assert self.mode == "train"
        self.mode = "eval"
        torch._foreach_add_(self.param_groups[0]["params"], 1.0)

    @torch.no_grad()
    def train(self):
        if self.mode == "eval":
            torch._foreach_sub_(self.param_groups[0]["params"], 1.0)
        self.mode = "train"


class Watch(lightning.Callback):
    def __init__(self):
        self.training, self.validation = set(), set()

    def on_train_batch_start(self, trainer, plan, *_):
        self.training.add(trainer.optimizers[0].mode)

    def on_validation_batch_start(self, trainer, plan, *_):
        self.validation.add(trainer.optimizers[0].mode)
        self.beside = plan.average


def test_training_and_evaluation_have_their_own_parameters(make_model, train):
    watch, fixed = Watch(), lambda params: TwoPlaces(params, lr=0.0)
    model = make_model()
    start = [p.detach().clone() for p in model.module.parameters()]
    train(model, 4, optimizer=fixed, early_stopping=False, callbacks=[watch])
    assert (watch.training, watch.validation) == ({"train"}, {"eval"})
    assert watch.beside is None
    for p, q in zip(model.module.parameters(), start, strict=True):
        torch.testing.assert_close(p, q + 1)


class Line(lightning.LightningModule):
    """Somebody else's module."""

    def __init__(self, optimizer):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.create = optimizer
        self.iterates, self.evaluated = [], []

    def training_step(self, batch, _):
        if self.iterates:
            assert torch.equal(self.weight, self.iterates[-1])
        return (batch @ self.weight - 1).square().mean()

    def on_train_batch_end(self, *_):
        self.iterates.append(self.weight.detach().clone())

    def validation_step(self, batch, _):
        self.evaluated.append(self.weight.detach().clone())

    def configure_optimizers(self):
        return self.create([self.weight])


@pytest.mark.parametrize("name", ["asgdadam", "adam"])
def test_in_other_modules_a_callback_evaluates_at_the_average(name, tmp_path):
    torch.manual_seed(0)
    module = Line(creator(name, lr=1e-2))
    loader = torch.utils.data.DataLoader(torch.randn(40, 3), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[EvaluateOwnAverage()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.validate(module, loader, verbose=False)  # no optimizer yet
    trainer.fit(module, loader, loader)
    beside = WeightAverage([module.weight], 8.0)
    for iterate in module.iterates:
        module.weight.data.copy_(iterate)
        beside.update()
    end, last = module.evaluated[-1], module.iterates[-1]
    beside.eval()
    torch.testing.assert_close(end, module.weight.detach() if name == "asgdadam" else last)
    assert torch.equal(end, last) is (name == "adam")


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 3}, {"every_n_epochs": 2}])
def test_a_checkpoint_holds_what_was_validated_and_training_goes_on_from_it(options, tmp_path):
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(torch.randn(48, 3), batch_size=4)
    every = {k: v for k, v in options.items() if k == "every_n_epochs"}

    def fit(max_epochs, checkpoint=None):
        keep = ModelCheckpoint(tmp_path / str(max_epochs), save_top_k=-1, filename="{step}", **every)
        module = Line(creator("asgdadam", lr=1e-2))
        trainer = lightning.Trainer(
            max_epochs=max_epochs,
            accelerator="cpu",
            callbacks=[EvaluateOwnAverage(), keep],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=options.get("val_check_interval"),
        )
        trainer.fit(module, loader, loader, ckpt_path=checkpoint, weights_only=False)
        return module

    whole = fit(4)
    for file in (tmp_path / "4").iterdir():
        saved = torch.load(file, weights_only=False)["state_dict"]["weight"]
        assert any(torch.equal(saved, evaluated) for evaluated in whole.evaluated), file
        assert not any(torch.equal(saved, iterate) for iterate in whole.iterates[10:]), file
    fit(2)
    last = max((tmp_path / "2").iterdir(), key=lambda file: int(file.stem.removeprefix("step=")))
    resumed = fit(4, last)
    assert torch.equal(resumed.iterates[-1], whole.iterates[-1]) and torch.equal(resumed.weight, whole.weight)


def test_the_clock_runs_in_training_only(make_model, train, monkeypatch):
    class Time(lightning.Callback):
        """A second passes in every training step, a hundred in a validation."""

        now = 0.0

        def on_train_batch_start(self, *_):
            self.now += 1

        def on_validation_batch_start(self, *_):
            self.now += 100

    time, clock = Time(), Clock()
    monkeypatch.setattr("mmopt.models.clock.time.perf_counter", lambda: time.now)
    model = train(make_model(), 3, callbacks=[clock, time])
    per_epoch = -(-len(model.train_indices) // 32)
    assert clock.steps == clock.seconds == [per_epoch, 2 * per_epoch, 3 * per_epoch]

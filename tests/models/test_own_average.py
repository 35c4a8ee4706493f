import lightning.pytorch as lightning
import torch

from mmopt.models.clock import Clock
from mmopt.models.own_average import EvaluateOwnAverage


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
        self.average = plan.average.average


def test_training_and_evaluation_have_their_own_parameters(make_model, train):
    watch, fixed = Watch(), lambda params: TwoPlaces(params, lr=0.0)
    model = make_model()
    start = [p.detach().clone() for p in model.module.parameters()]
    train(model, 4, optimizer=fixed, early_stopping=False, callbacks=[watch, EvaluateOwnAverage()])
    assert (watch.training, watch.validation) == ({"train"}, {"eval"})
    assert watch.average == []
    for p, q in zip(model.module.parameters(), start, strict=True):
        torch.testing.assert_close(p, q + 1)


def test_other_optimizers_do_not_notice(make_model, train):
    plain, watched = (
        train(make_model(), 4, early_stopping=False, callbacks=c) for c in ([], [EvaluateOwnAverage()])
    )
    for p, q in zip(plain.module.parameters(), watched.module.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_clock_runs_in_training_only(make_model, train):
    class Slow(lightning.Callback):
        def on_validation_batch_start(self, *_):
            import time

            time.sleep(0.3)

    clock = Clock()
    model = train(make_model(), 3, callbacks=[clock, Slow()])
    per_epoch = -(-len(model.train_indices) // 32)
    assert clock.steps == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    assert clock.seconds == sorted(clock.seconds)
    assert clock.seconds[0] > 0
    between = [b - a for a, b in zip(clock.seconds, clock.seconds[1:], strict=False)]
    assert max(between) < 0.3

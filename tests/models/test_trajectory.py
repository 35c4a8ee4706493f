import lightning.pytorch as lightning
import pytest
import torch

from mmopt.models import RecordParameters


def test_the_first_copy_is_the_start_and_copies_do_not_move(make_model, train):
    recorder = RecordParameters()
    model = make_model()
    start = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    train(model, 3, callbacks=[recorder])
    assert recorder.epochs == [0, 1, 2, 3]
    assert all(torch.equal(recorder.snapshots[0][n], p) for n, p in start.items())
    first, *_, last = recorder.snapshots
    assert not torch.equal(first["encoders.rna.first.weight"], last["encoders.rna.first.weight"])


def test_every_second_epoch(make_model, train):
    recorder = RecordParameters(every=2)
    train(make_model(), 5, callbacks=[recorder])
    assert recorder.epochs == [0, 2, 4]


def test_memory_is_bounded_and_copies_stay_evenly_spread(make_model, train):
    recorder = RecordParameters(max_snapshots=4)
    train(make_model(), 11, callbacks=[recorder])
    assert recorder.epochs == [0, 4, 8]
    assert len(recorder.snapshots) == 3


def test_a_second_training_starts_anew(make_model, train):
    recorder = RecordParameters(max_snapshots=3)
    model = make_model()
    train(model, 4, callbacks=[recorder])
    train(model, 1, callbacks=[recorder])
    assert recorder.epochs == [0, 1]


def test_a_resumed_run_has_the_whole_trajectory(make_model, train, tmp_path):
    class Stop(lightning.Callback):
        def on_train_epoch_start(self, trainer, plan):
            if trainer.current_epoch == 2:
                raise RuntimeError("the power went")

    whole, resumed = RecordParameters(), RecordParameters()
    train(make_model(), 4, callbacks=[whole])
    file = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="the power went"):
        train(make_model(), 4, checkpoint=file, callbacks=[RecordParameters(), Stop()])
    train(make_model(), 4, checkpoint=file, callbacks=[resumed])
    assert resumed.epochs == whole.epochs
    for one, other in zip(whole.snapshots[:3], resumed.snapshots[:3], strict=True):
        assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"max_snapshots": 2}])
def test_refusals(wrong):
    with pytest.raises(ValueError, match="every must be at least 1 and max_snapshots at least 3"):
        RecordParameters(**wrong)

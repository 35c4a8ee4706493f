"""No step of training waits for the device, shown without one.

A tensor on torch's device "meta" has a shape and no values: what would make the host wait for a CUDA device, reading a
value, a result whose shape depends on values, a copy to the host, is an error there. So a step that can be taken on it asks
the device for nothing. Not seen: what a kernel of CUDA does inside, and the small copies from the host to the device.
"""

from contextlib import nullcontext

import pytest
import torch

META = torch.device("meta")


class EndOfEpoch(Exception):
    pass


def fused(parameters, *_, lr, fused, **__):
    """In the place of torch's kernel, which reads a rate that is a tensor on the device; a number would have to be fetched."""
    assert fused
    assert lr.device == META
    assert {p.grad.device for p in parameters} == {META}


@pytest.fixture
def steps(make_model, monkeypatch):
    """Take the steps of an epoch on the device that waits for nothing; what they left behind."""
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy

    from mmopt.models import module
    from mmopt.models.data import MosaicSplitter
    from mmopt.models.guard import FiniteGuard
    from mmopt.models.training import TriTrainingPlan

    class Nowhere(SingleDeviceStrategy):
        def reduce(self, tensor, *_, **__):
            """Lightning asks once, before the first step, whether the loader of any process is empty: it is not."""
            return torch.ones(())

        def teardown(self):
            """Leave the network there: it has no values to bring back."""

    def taken(sampled):
        if sampled:  # as with many peaks
            for name in ("SAMPLED_ABOVE", "PROJECTED_ABOVE"):
                monkeypatch.setattr(module, name, 20)
            monkeypatch.setattr(module, "SAMPLE", 10)
        model, plans = make_model(), []
        assert bool(model.module.n_components) == sampled

        def stop(plan):
            plans.append(plan)
            raise EndOfEpoch

        # what is looked at once an epoch, before its first step and after its last
        monkeypatch.setattr(FiniteGuard, "save", lambda _: None)
        monkeypatch.setattr(TriTrainingPlan, "on_train_epoch_end", stop)
        # counts are there, as on a GPU that has room for them
        monkeypatch.setattr("mmopt.models.data.fits", lambda *_: True)
        reside = MosaicSplitter.reside
        monkeypatch.setattr(MosaicSplitter, "reside", lambda splitter, _: reside(splitter, META))
        # as on a GPU the optimizer takes torch's fused kernel, which there is none of here
        monkeypatch.setattr("mmopt.optim.implementation.FUSED_DEVICES", ("meta",))
        monkeypatch.setattr("mmopt.optim.asgd.adam", fused)
        # neither Lightning nor autocast knows the device
        monkeypatch.setattr(CPUAccelerator, "setup_device", lambda *_: None)
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        with pytest.raises(EndOfEpoch):
            model.train(1, batch_size=16, progress_bar=False, limit_val_batches=0, strategy=Nowhere("meta"))
        return plans[0]

    return taken


@pytest.mark.parametrize("sampled", [False, True], ids=["few peaks", "many peaks"])
def test_no_step_asks_the_device_for_anything(steps, sampled):
    plan = steps(sampled)
    assert len(plan.losses) == len(plan.rates) == plan.global_step == 5
    left = [*plan.losses, *plan.rates, *plan.guard.first_bad.values(), *plan._sums["train"].values()]
    assert {t.device for t in left if isinstance(t, torch.Tensor)} == {META}
    assert {"rna", "nll_atac", "kl", "total"} <= set(plan.guard.first_bad)
    assert {p.device for p in plan.module.parameters()} == {META}


ASKED = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(torch.isfinite(x).all()),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "nonzero": torch.nonzero,
    "unique": torch.unique,
    "equal": lambda x: torch.equal(x, x),
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "cpu": torch.Tensor.cpu,
    "numpy": lambda x: x.numpy(),
    "list": torch.Tensor.tolist,
}


@pytest.mark.parametrize("what", ASKED)
def test_asking_would_be_seen(what):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError), match=r"(?i)meta|no data"):
        ASKED[what](torch.ones(3, device=META))

"""On a GPU: the same model, and checkpoints whose parts meet on one device."""

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import pytest
import torch

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class At(lightning.Callback):
    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, plan, *_):
        if trainer.global_step == self.step:
            self.act(plan)


def test_answers_are_those_of_a_cpu(make_model, train, tmp_path):
    from mmopt.models import TriVI
    from mmopt.models.frozen import frozen_loss

    model = train(make_model(), 3, accelerator="gpu")
    assert model.device.type == "cuda"
    model.save(tmp_path / "model")
    on_cpu = TriVI.load(tmp_path / "model", model.adata.copy(), accelerator="cpu")
    np.testing.assert_allclose(
        model.get_latent_representation(), on_cpu.get_latent_representation(), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        model.get_modality_weights(), on_cpu.get_modality_weights(), rtol=1e-3, atol=1e-5
    )
    for m in model.modalities:
        for n_samples in (1, 3):
            one, other = (made.get_normalized(m, n_samples=n_samples) for made in (model, on_cpu))
            np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)
    losses = []
    for made in (model, on_cpu):
        parameters, loss = frozen_loss(made, indices=np.arange(30))
        losses.append(loss(parameters)["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("optimizer", ["asgdadam", "adamw"])
def test_a_run_that_failed_goes_on(make_model, train, tmp_path, optimizer):
    def fail(_):
        raise RuntimeError("the power went")

    def history(**kwargs):
        model = train(make_model(), 6, accelerator="gpu", optimizer=optimizer, **kwargs)
        return pd.concat(model.history.values(), axis=1), model.steps_

    expected = history()
    with pytest.raises(RuntimeError, match="the power went"):
        history(checkpoint=tmp_path / "run.ckpt", callbacks=[At(13, fail)])
    for found, table in zip(history(checkpoint=tmp_path / "run.ckpt"), expected, strict=True):
        pd.testing.assert_frame_equal(found, table, rtol=1e-3)


def test_a_loss_that_is_not_finite_is_reported_at_the_end_of_its_epoch(make_model, train):
    from mmopt.models import NonFiniteLossError

    def poison(plan):
        with torch.no_grad():
            plan.module.decoders["prot"].log_theta.fill_(torch.nan)

    model = make_model()
    with pytest.raises(NonFiniteLossError, match=r"'prot' became NaN or infinite at step 4"):
        train(model, 3, accelerator="gpu", callbacks=[At(4, poison)])
    assert all(torch.isfinite(v).all() for v in model.module.state_dict().values())


def test_posterior_predictive_counts(make_model, train):
    model = train(make_model(), 1, accelerator="gpu")
    drawn = model.posterior_predictive_sample(n_samples=2)
    assert set(drawn) == {"rna", "atac", "prot"}
    for m in drawn:
        for found in (
            model.get_predictive_interval(m, "rna"),
            model.get_normalized(m, given="rna", interval=0.9),
        ):
            assert np.isfinite(found.mean).any()

"""Training that fails or is interrupted: what it says, and what is left."""

import signal

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch


class Spy(lightning.Callback):
    """Call a function with the trainer and the plan at one of Lightning's hooks."""

    def __init__(self, **hooks):
        for name, function in hooks.items():
            setattr(self, name, lambda trainer, plan, *_, function=function: function(trainer, plan))


class TestNonFinite:
    def poison(self, modality, at):
        def act(trainer, plan):
            if trainer.global_step == at:
                with torch.no_grad():
                    next(plan.module.decoders[modality].parameters()).fill_(torch.nan)

        return Spy(on_train_batch_start=act)

    @pytest.mark.parametrize("modality", ["rna", "atac", "prot"])
    def test_names_the_modality_and_the_model_still_answers(self, make_model, train, modality):
        from mmopt.models import NonFiniteLossError

        model = make_model()
        with pytest.raises(
            NonFiniteLossError, match=f"the loss of '{modality}' became NaN or infinite at step 5"
        ):
            train(model, 4, callbacks=[self.poison(modality, 5)])
        assert all(torch.isfinite(v).all() for v in model.module.state_dict().values())
        first, second = model.get_latent_representation(), model.get_latent_representation()
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(model.get_normalized(modality)).all()

    def test_the_last_finite_state_is_that_of_the_last_epoch(self, make_model, train):
        from mmopt.models import NonFiniteLossError

        states = []
        model = make_model()
        keep = Spy(
            on_train_epoch_start=lambda _, plan: states.append(
                {k: v.clone() for k, v in plan.module.state_dict().items()}
            )
        )
        with pytest.raises(NonFiniteLossError):
            train(model, 4, callbacks=[keep, self.poison("prot", 5)])
        assert len(states) == 2
        assert all(torch.equal(v, states[1][k]) for k, v in model.module.state_dict().items())

    @pytest.mark.parametrize("early_stopping", [True, False])
    def test_the_last_step_is_looked_at_too(self, make_model, train, tmp_path, early_stopping):
        """No loss is computed after it."""
        from mmopt.models import NonFiniteLossError

        def act(trainer, plan):
            if trainer.global_step == 6:
                with torch.no_grad():
                    plan.module.decoders["rna"].log_theta.fill_(torch.nan)

        model, path = make_model(), tmp_path / "run.ckpt"
        with pytest.raises(NonFiniteLossError, match="'rna' became NaN or infinite at step 5"):
            train(
                model,
                2,
                callbacks=[Spy(on_train_batch_end=act)],
                early_stopping=early_stopping,
                checkpoint=path,
            )
        assert model.is_trained  # as in its first epoch, which is what the checkpoint holds
        assert np.isfinite(model.get_latent_representation()).all()
        assert train(make_model(), 2, checkpoint=path, early_stopping=early_stopping).is_trained

    def test_without_a_finished_epoch_a_model_is_not_trained(self, make_model, train):
        from mmopt.models import NonFiniteLossError

        for options in ({"callbacks": [self.poison("rna", 1)]}, {"optimizer": "sgd", "lr": 1e38}):
            model = make_model()
            with pytest.raises(NonFiniteLossError):
                train(model, 1, **options)
            assert not model.is_trained
            assert all(torch.isfinite(v).all() for v in model.module.state_dict().values())

    def test_a_bad_expert_is_blamed_on_its_modality(self, make_model, train):
        """NaN from one encoder reaches every decoder; the modality to look at is still the encoder's."""
        from mmopt.models import NonFiniteLossError

        def act(trainer, plan):
            if trainer.global_step == 2:
                with torch.no_grad():
                    plan.module.encoders["prot"].trunk.head.bias.fill_(torch.nan)

        with pytest.raises(NonFiniteLossError, match="'prot'"):
            train(make_model(), 2, callbacks=[Spy(on_train_batch_start=act)])

    def test_a_huge_learning_rate(self, make_model, train):
        from mmopt.models import NonFiniteLossError

        model = make_model()
        with pytest.raises(NonFiniteLossError, match="lower learning rate"):
            train(model, 30, optimizer="sgd", lr=1e30, gradient_clip_val=None)
        assert all(torch.isfinite(v).all() for v in model.module.state_dict().values())

    def test_a_model_that_is_broken_from_the_start(self, make_model, train):
        from mmopt.models import NonFiniteLossError

        model = make_model()
        with torch.no_grad():
            model.module.decoders["prot"].log_theta.fill_(torch.nan)
        with pytest.raises(NonFiniteLossError, match=r"'prot'.*step 0"):
            train(model, 1)

    def test_a_trained_model_keeps_answering_when_more_training_fails(self, make_model, train):
        from mmopt.models import NonFiniteLossError

        model = train(make_model(), 1)
        before = model.get_latent_representation()
        with pytest.raises(NonFiniteLossError):
            train(model, 1, callbacks=[self.poison("rna", 0)])
        np.testing.assert_array_equal(model.get_latent_representation(), before)

    @pytest.mark.parametrize("network", [0, 1])
    def test_without_all_of_its_networks_a_model_is_not_trained(self, make_model, train, network):
        from mmopt.models import NonFiniteLossError

        model = make_model(n_networks=2)
        bad = model.networks[network]

        def act(trainer, plan):
            if plan.module is bad and trainer.global_step == 5:
                with torch.no_grad():
                    bad.decoders["rna"].log_theta.fill_(torch.nan)

        with pytest.raises(NonFiniteLossError):
            train(model, 4, callbacks=[Spy(on_train_batch_start=act)])
        assert all(torch.isfinite(v).all() for v in model.module.state_dict().values())
        assert model.is_trained == (network == 1)  # whose first epoch was kept


class TestInterruption:
    def interrupt(self, error, at=4):
        def act(trainer, _):
            if trainer.global_step == at:
                raise error

        return Spy(on_train_batch_start=act)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_ctrl_c_stays_ctrl_c(self, make_model, train):
        handler = signal.getsignal(signal.SIGINT)
        model = make_model()
        try:
            with pytest.raises(KeyboardInterrupt):
                train(model, 3, callbacks=[self.interrupt(KeyboardInterrupt())])
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, handler)
        assert not model.module.training

    def test_an_exit_stays_an_exit(self, make_model, train):
        """Lightning also ends with SystemExit where a cluster asks it to, by SIGTERM."""
        with pytest.raises((SystemExit, KeyboardInterrupt)) as end:
            train(make_model(), 3, callbacks=[self.interrupt(SystemExit(3))])
        assert end.type is SystemExit
        assert end.value.code == 3

    def test_callbacks_may_end_the_training(self, make_model, train):
        def stop(trainer, _):
            if trainer.current_epoch == 4:
                trainer.should_stop = True

        model = train(make_model(), 8, callbacks=[Spy(on_validation_end=stop)])
        assert len(model.history["train_loss"]) == 5

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_a_trained_model_still_gives_one_answer(self, make_model, train, error):
        model = train(make_model(), 1)
        handler = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises((error, SystemExit)):
                train(model, 3, callbacks=[self.interrupt(error("stop"))])
        finally:
            signal.signal(signal.SIGINT, handler)
        first, second = model.get_latent_representation(), model.get_latent_representation()
        np.testing.assert_array_equal(first, second)

    def test_nothing_is_left_in_the_working_directory_or_said(
        self, make_model, train, tmp_path, monkeypatch, capfd, caplog, recwarn
    ):
        monkeypatch.chdir(tmp_path)
        for kwargs in ({"checkpoint": "run.ckpt"}, {"train_size": 1.0}):
            train(make_model(), 2, **kwargs)
        assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]
        said = "".join([*capfd.readouterr(), caplog.text, *(str(w.message) for w in recwarn)])
        for noise in ("weights_only", "Total length", "max_epochs", "LOCAL_RANK", "tensorboard"):
            assert noise not in said


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_what_to_do(make_model, train, error):
    class Full(lightning.Callback):
        def on_train_batch_start(self, *_):
            raise error

    with pytest.raises(MemoryError, match=r"batch_size=16.*peaks_per_step=20.*backed=True"):
        train(make_model(), callbacks=[Full()])

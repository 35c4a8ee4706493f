"""Training: what is recorded, when it stops and what it ends with."""

import json
import math

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import pytest
import torch

from mmopt import optim

COLUMNS = {
    f"{name}_{stage}"
    for stage in ("train", "validation")
    for name in ("elbo", "reconstruction_loss", "kl_local", "nll_rna", "nll_atac", "nll_prot")
} | {"train_loss", "validation_loss"}


class Spy(lightning.Callback):
    """Call a function with the trainer and the plan at one of Lightning's hooks."""

    def __init__(self, **hooks):
        for name, function in hooks.items():
            setattr(self, name, lambda trainer, plan, *_, function=function: function(trainer, plan))


def table(model):
    return pd.concat(model.history.values(), axis=1)


class TestHistory:
    def test_columns_and_one_row_per_epoch(self, fitted):
        assert set(fitted.history) == COLUMNS
        found = table(fitted)
        assert found.index.name == "epoch"
        assert list(found.index) == [0, 1, 2]
        assert np.isfinite(found.to_numpy()).all()
        for stage in ("train", "validation"):
            parts = found[f"reconstruction_loss_{stage}"] + found[f"kl_local_{stage}"]
            np.testing.assert_allclose(found[f"elbo_{stage}"], parts, rtol=1e-6)
        np.testing.assert_allclose(found["validation_loss"], found["elbo_validation"], rtol=1e-5)

    def test_modality_columns_are_per_cell_that_has_the_modality(self, fitted):
        found = table(fitted)
        for stage, cells in (("train", fitted.train_indices), ("validation", fitted.validation_indices)):
            names = fitted.adata.obs_names[cells]
            shares = {m: names.isin(fitted.adata[m].obs_names).mean() for m in fitted.modalities}
            expected = sum(found[f"nll_{m}_{stage}"] * share for m, share in shares.items())
            np.testing.assert_allclose(found[f"reconstruction_loss_{stage}"], expected, rtol=1e-5)

    def test_one_step_per_minibatch(self, fitted):
        steps = fitted.steps_
        assert list(steps.columns) == ["loss", "rate"]
        assert steps.index.name == "step"
        assert len(steps) == 3 * math.ceil(len(fitted.train_indices) / 32)
        assert np.isfinite(steps.to_numpy()).all()
        per_epoch = steps["loss"].to_numpy().reshape(3, -1)
        np.testing.assert_allclose(per_epoch.mean(1), fitted.history["train_loss"]["train_loss"], rtol=0.02)

    def test_batches_whose_gradients_add_up_are_one_step(self, make_model, train):
        weights, seen = [], {}
        spy = Spy(
            on_train_batch_start=lambda trainer, plan: weights.append(plan.kl_weight),
            on_train_end=lambda trainer, plan: seen.update(
                t=trainer.global_step, averaged=plan.average.calls
            ),
        )
        how = {"optimizer": "adam", "accumulate_grad_batches": 2, "batch_size": 12, "held_out": range(32)}
        model = train(make_model(), 5, **how, callbacks=[spy])  # 4 batches an epoch
        assert len(model.steps_) == seen["t"] == seen["averaged"] == 10
        assert weights[:6] == [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1]  # it rises over three tenths of the steps
        steps = model.steps_["loss"].to_numpy().reshape(5, -1)
        np.testing.assert_allclose(steps.mean(1), model.history["train_loss"]["train_loss"], rtol=1e-5)

    def test_losses_fall(self, make_model, train):
        model = train(make_model(dropout_rate=0.0), 15, lr=1e-2, optimizer="adam", early_stopping=False)
        found = table(model)
        for name in (
            "train_loss",
            "elbo_validation",
            "nll_rna_validation",
            "nll_atac_train",
            "nll_prot_validation",
        ):
            assert found[name].iloc[-1] < found[name].iloc[0], name

    def test_training_on_all_cells_has_no_validation(self, make_model, train):
        model = train(make_model(), 2, train_size=1.0)
        assert set(model.history) == {c for c in COLUMNS if "validation" not in c}
        assert len(model.train_indices) == 80
        assert len(model.validation_indices) == 0

    def test_a_modality_absent_from_the_held_out_cells_is_nan(self, make_model, train):
        model = make_model()
        without = np.flatnonzero(~model.adata.obs_names.isin(model.adata["prot"].obs_names))
        train(model, 1, held_out=without)
        assert math.isnan(table(model)["nll_prot_validation"][0])
        assert np.isfinite(table(model)["elbo_validation"][0])

    def test_training_again_starts_from_where_it_was(self, make_model, train):
        model = train(make_model(), 2)
        before = model.get_latent_representation()
        train(model, 1, optimizer="sgd", lr=0.0)
        np.testing.assert_array_equal(model.get_latent_representation(), before)
        assert len(table(model)) == 1


class TestSchedule:
    def test_weight_of_the_divergence_rises_over_the_first_third(self, make_model, train):
        weights = []
        model = train(
            make_model(),
            4,
            callbacks=[Spy(on_train_batch_start=lambda _, plan: weights.append(plan.kl_weight))],
        )
        n = 4 * math.ceil(len(model.train_indices) / 32)
        np.testing.assert_allclose(weights, np.minimum(1, np.arange(1, n + 1) / (0.3 * n)))

    def test_that_weight_is_used(self, make_model, make_mosaic, train):
        """RNA alone has neither alignment nor prior: the training loss of one step is the weighted bound."""
        model = train(make_model(make_mosaic(("rna",))), 1, batch_size=100, plan_kwargs={"warmup": 4.0})
        found = table(model).iloc[0]
        expected = found["reconstruction_loss_train"] + found["kl_local_train"] / 4
        assert found["train_loss"] == pytest.approx(expected, rel=1e-5)

    def test_default_epochs(self):
        from mmopt.models.fitting import default_epochs

        assert default_epochs(100, 128) == 600
        assert default_epochs(12_800, 128) == 30
        assert default_epochs(128_000_000, 128) == 1
        for n in (1, 1000, 50_000, 10**6):
            assert default_epochs(n, 128) * math.ceil(n / 128) >= 600

    def test_processes_together_take_fewer_steps_an_epoch(self, make_model, train, monkeypatch, tmp_path):
        def planned(world, batch_size):
            def stop(trainer, plan):
                found.append((trainer.max_epochs, plan.half, plan.patience))
                found.append(json.loads(plan.description)["trainer"]["world_size"])
                raise RuntimeError("seen")

            found = []
            monkeypatch.setattr(lightning.Trainer, "world_size", world)
            options = {"batch_size": batch_size, "checkpoint": tmp_path / "run.ckpt"}
            with pytest.raises(RuntimeError, match="seen"):
                train(make_model(), None, callbacks=[Spy(on_fit_start=stop)], **options)
            return found

        (alone, one), (together, two) = planned(1, 4), planned(2, 2)
        assert together == alone
        assert alone[2] == 12
        assert (one, two) == (1, 2)


class TestEnd:
    @pytest.mark.parametrize("optimizer", ["adam", "asgdadam"])
    def test_without_early_stopping_it_is_the_average_of_the_iterates(self, make_model, train, optimizer):
        states = []

        def collect(trainer, plan):
            states.append({k: p.detach().clone() for k, p in plan.module.named_parameters()})

        model = make_model()
        spy = Spy(on_train_batch_end=collect)
        own = {"optimizer_kwargs": {"averaging": 2.0}} if optimizer == "asgdadam" else {}
        train(
            model,
            8,
            early_stopping=False,
            callbacks=[spy],
            optimizer=optimizer,
            plan_kwargs={"averaging": 2.0},
            **own,
        )
        assert len(states) == 24
        for name, p in model.module.named_parameters():
            expected = (
                0.25 * states[9][name] + 0.75 * states[19][name]
            )  # the tenth and the twentieth, power 2
            torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)

    def test_it_is_the_last_iterate_where_no_average_is_kept(self, make_model, train):
        last = {}

        def collect(trainer, plan):
            last.update({k: p.detach().clone() for k, p in plan.module.named_parameters()})

        spy = Spy(on_train_batch_end=collect)
        model = make_model()
        train(
            model, 8, early_stopping=False, callbacks=[spy], optimizer="adam", plan_kwargs={"averaging": None}
        )
        assert all(torch.equal(p, last[name]) for name, p in model.module.named_parameters())

    def test_early_stopping_ends_with_the_best_held_out_parameters(self, make_model, train):
        """With a rate that ruins the fit later on, the last epoch is not the best."""

        def ruin(trainer, plan):
            if trainer.current_epoch > 6:
                with torch.no_grad():
                    for p in plan.module.decoders.parameters():
                        p.mul_(1.05)

        model = make_model()
        train(model, 12, callbacks=[Spy(on_train_batch_end=ruin)], lr=1e-2)
        elbo = table(model)["elbo_validation"]
        assert elbo.idxmin() < 11
        assert held_out_elbo(model) == pytest.approx(elbo.min(), rel=1e-6)

    def test_validation_noise_is_the_same_every_time(self, make_model, train):
        model = train(make_model(), 3, optimizer="sgd", lr=0.0)
        assert table(model)["elbo_validation"].nunique() == 1
        assert held_out_elbo(model) == pytest.approx(table(model)["elbo_validation"][0], rel=1e-6)
        other = train(
            make_model(), 3, optimizer="sgd", lr=0.0, random_state=5, held_out=model.validation_indices
        )
        assert table(other)["elbo_validation"][0] == table(model)["elbo_validation"][0]

    def test_stops_when_nothing_improves_but_not_before_half_the_epochs(self, make_model, train):
        def n_epochs(max_epochs, **kwargs):
            return len(
                table(train(make_model(), max_epochs, optimizer="sgd", lr=0.0, batch_size=80, **kwargs))
            )

        assert 6 <= n_epochs(12, early_stopping_patience=2) <= 9
        assert 8 <= n_epochs(12, early_stopping_patience=8) <= 10
        assert n_epochs(4, early_stopping_patience=1, early_stopping=False) == 4

    def test_held_out_cells_are_respected(self, make_model, train):
        cells = [3, 17, 40, 41]
        seen = set()
        model = make_model()
        spy = Spy(on_train_start=lambda trainer, _: seen.update(trainer.train_dataloader.indices.tolist()))
        train(model, 1, held_out=cells, callbacks=[spy])
        assert model.validation_indices.tolist() == cells
        assert model.train_indices.tolist() == sorted(set(range(80)) - set(cells))
        assert seen == set(model.train_indices.tolist())

    def test_held_out_cells_do_not_reach_the_parameters(self, make_model, train, make_mosaic):
        """Changing their counts after the model was made changes nothing without early stopping."""
        cells = np.arange(0, 80, 9)

        def fit(change):
            mdata = make_mosaic()
            model = make_model(mdata)
            if change:
                from mmopt.models.mosaic import read_mosaic

                mosaic = read_mosaic(model.adata_manager)
                for m, place in mosaic.place.items():
                    held_out = place[cells]
                    mosaic.counts[m][held_out[held_out >= 0]] *= 3
            return train(model, 2, held_out=cells, early_stopping=False)

        one, other = fit(False), fit(True)
        for (
            k,
            v,
        ) in other.module.state_dict().items():  # strengths are chosen by them, as the epoch to stop at is
            assert torch.equal(one.module.state_dict()[k], v) or k.endswith("strength"), k
        assert not table(one)["elbo_validation"].equals(table(other)["elbo_validation"])
        assert table(one)["elbo_train"].equals(table(other)["elbo_train"])


def held_out_elbo(model):
    """The held-out bound, computed apart from the training plan."""
    from mmopt._random import derived
    from mmopt.models.data import MosaicLoader

    total = 0.0
    for i, batch in enumerate(MosaicLoader(model.adata_manager, model.validation_indices, 64)):
        noise = torch.randn(len(batch["batch"]), 4, generator=torch.Generator().manual_seed(derived(0, i)))
        with torch.no_grad():
            *_, out = model.module(batch, inference_kwargs={"noise": noise})
        total += float(sum(v.sum() for v in [*out.reconstruction_loss.values(), *out.kl_local.values()]))
    return total / len(model.validation_indices)


class TestOptimizers:
    @pytest.mark.parametrize("name", optim.available())
    def test_the_optimizer_asked_for_is_used(self, make_model, train, name):
        used = []
        model = make_model()
        spy = Spy(on_train_start=lambda trainer, _: used.extend(trainer.optimizers))
        train(model, 1, optimizer=name, lr=2e-3, callbacks=[spy])
        (optimizer,) = used
        expected = optim.create(name, [torch.zeros(1, requires_grad=True)], lr=2e-3)
        assert type(optimizer) is type(expected)
        assert optimizer.defaults == expected.defaults
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in trained} == {id(p) for p in model.module.parameters()}
        rate = optimizer.alphas()[0] if hasattr(optimizer, "alphas") else optimizer.param_groups[0]["lr"]
        assert model.steps_["rate"].iloc[-1] == pytest.approx(float(rate))

    def test_any_callable(self, make_model, train):
        given = []

        def make(parameters):
            given.append(torch.optim.RMSprop(list(parameters), lr=1e-3))
            return given[0]

        used = []
        train(
            make_model(),
            1,
            optimizer=make,
            callbacks=[Spy(on_train_start=lambda t, _: used.extend(t.optimizers))],
        )
        assert used[0] is given[0]

    def test_arguments_reach_the_optimizer_and_rates_are_recorded(self, make_model, train):
        kwargs = {"alpha_min": 1e-4, "alpha_max": 1e-2, "switch_interval": 2, "warmup_steps": 0}
        model = train(make_model(), 4, optimizer="asgdadam", lr=1e-3, optimizer_kwargs=kwargs)
        rates = model.steps_["rate"]
        assert rates.iloc[0] == pytest.approx(1e-3)
        assert rates.nunique() > 1
        assert rates.between(1e-4 * (1 - 1e-6), 1e-2 * (1 + 1e-6)).all()

    def test_unknown_name(self, make_model, train):
        with pytest.raises(
            ValueError, match=r"'adamm'.*adam, adamw, amsgrad, asgdadam, asgdamsgrad, padam, sgd"
        ):
            train(make_model(), optimizer="adamm")

    @pytest.mark.parametrize(
        ("name", "kwargs", "message"),
        [
            ("asgdadam", {"optimizer_kwargs": {"alpha_min": 1.0, "alpha_max": 0.1}}, "alpha_max.*alpha_min"),
            ("asgdadam", {"lr": -1e-3}, "lr"),
            ("asgdamsgrad", {"optimizer_kwargs": {"betas": (0.9, 1.5)}}, "betas"),
            ("padam", {"lr": float("nan")}, "lr"),
            ("adam", {"lr": -1.0}, "learning rate"),
        ],
    )
    def test_arguments_out_of_range_leave_the_model_as_it_was(self, make_model, train, name, kwargs, message):
        model = train(make_model(), 1)
        before = model.get_latent_representation()
        with pytest.raises(ValueError, match=message):
            train(model, 1, optimizer=name, **kwargs)
        np.testing.assert_array_equal(model.get_latent_representation(), before)

    def test_unknown_argument(self, make_model, train):
        with pytest.raises(TypeError, match="momentum"):
            train(make_model(), optimizer="asgdadam", optimizer_kwargs={"momentum": 0.9})


class TestRefusals:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"train_size": 0.0}, "train_size"),
            ({"train_size": 1.5}, "train_size"),
            ({"batch_size": 0}, "batch_size"),
            ({"max_epochs": 0}, "max_epochs"),
            ({"held_out": range(80)}, "no cell is left"),
            ({"held_out": [80]}, "held_out"),
            ({"held_out": [-1]}, "held_out"),
            ({"held_out": [1.5]}, "held_out"),
            ({"early_stopping_patience": 0}, "early_stopping_patience"),
            ({"early_stopping_patience": -2}, "early_stopping_patience"),
            ({"random_state": -1}, "random_state must be an integer of at least 0"),
            ({"random_state": 0.5}, "random_state must be an integer of at least 0"),
        ],
        ids=str,
    )
    def test_arguments_out_of_range(self, make_model, train, kwargs, message):
        model = make_model()
        with pytest.raises(ValueError, match=message):
            train(model, **kwargs)
        assert not model.module.training

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"max_epochs": "5"}, TypeError, "max_epochs='5': a whole number is needed"),
            ({"max_epochs": 2.5}, TypeError, "max_epochs=2.5: a whole number is needed"),
            ({"batch_size": "a"}, TypeError, "batch_size='a': a whole number is needed"),
            ({"batch_size": None}, TypeError, "batch_size=None: a whole number is needed"),
            ({"train_size": "0.9"}, ValueError, "train_size must lie in"),
            ({"random_state": None}, ValueError, "random_state must be an integer"),
            ({"optimizer": None}, TypeError, "optimizer=None: a name of"),
            ({"optimizer_kwargs": "x"}, TypeError, "optimizer_kwargs='x': a mapping"),
            ({"plan_kwargs": [1]}, TypeError, r"plan_kwargs=\[1\]: a mapping"),
            ({"accelerator": "tpu"}, ValueError, "accelerator='tpu'"),
            ({"accelerator": "abacus"}, ValueError, "accelerator='abacus'"),
            ({"accelerator": "cpu", "devices": "x"}, ValueError, "accelerator='cpu', devices='x'"),
        ],
        ids=str,
    )
    def test_what_is_no_such_argument_at_all(self, make_model, train, kwargs, error, message):
        model = make_model()
        with pytest.raises(error, match=message):
            train(model, **kwargs)
        assert not model.is_trained

    def test_a_device_that_is_not_there(self, make_model, train, tmp_path):
        from mmopt.models import TriVI

        model = make_model()
        # no machine has so many
        with pytest.raises(ValueError, match=r"accelerator='cuda', devices=\[999\]"):
            train(model, accelerator="cuda", devices=[999])
        model.save(tmp_path / "model")
        with pytest.raises(ValueError, match="accelerator='tpu'"):
            TriVI.load(tmp_path / "model", accelerator="tpu")

    def test_whole_numbers_may_be_written_as_floats(self, make_model, train):
        model = train(make_model(), 2.0, batch_size=32.0, early_stopping_patience=10.0)
        assert len(model.history["train_loss"]) == 2

    def test_held_out_as_a_mask(self, make_model, train):
        mask = np.arange(80) % 10 == 0
        model = train(make_model(), 1, held_out=mask)
        assert model.validation_indices.tolist() == np.flatnonzero(mask).tolist()

    def test_holding_nothing_out(self, make_model, train):
        model = train(make_model(), 1, held_out=[])
        assert len(model.train_indices) == 80

    def test_the_list_of_callbacks_is_the_users(self, make_model, train):
        callbacks = [Spy()]
        train(make_model(), 1, callbacks=callbacks)
        assert len(callbacks) == 1

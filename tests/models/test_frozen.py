import numpy as np
import pytest
import torch

from mmopt.models import TriVI
from mmopt.models.frozen import draw_cells, filter_axes, frozen_loss

ALL = ("rna", "atac", "prot")


@pytest.fixture(scope="module")
def frozen(fitted):
    return frozen_loss(fitted, indices=np.arange(30))


def test_repeats_bit_for_bit(fitted, frozen):
    parameters, loss = frozen
    first = {k: v.item() for k, v in loss(parameters).items()}
    assert first == {k: v.item() for k, v in loss(parameters).items()}
    again = frozen_loss(fitted, indices=np.arange(30))
    assert first == {k: v.item() for k, v in again[1](again[0]).items()}
    other = frozen_loss(fitted, indices=np.arange(30), random_state=1)
    assert first["loss"] != other[1](other[0])["loss"].item()


def test_an_integer_of_numpy_is_a_seed_like_another(fitted):
    first, same = (frozen_loss(fitted, indices=np.arange(30), random_state=seed) for seed in (1, np.int64(1)))
    assert first[1](first[0])["loss"].item() == same[1](same[0])["loss"].item()


def test_parts_sum_to_the_loss(frozen):
    parameters, loss = frozen
    found = loss(parameters)
    assert set(found) == {"loss", "kl", *ALL}
    assert all(v.shape == () for v in found.values())
    torch.testing.assert_close(sum(v for k, v in found.items() if k != "loss"), found["loss"])


def test_equals_the_modules_own_loss_on_the_same_cells_and_noise(fitted, frozen):
    parameters, loss = frozen
    (batch,) = fitted._make_data_loader(fitted.adata, indices=np.arange(30))
    noise = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        *_, out = fitted.module(batch, inference_kwargs={"noise": noise})
    found = loss(parameters)
    torch.testing.assert_close(found["loss"], out.loss)
    for m in ALL:
        torch.testing.assert_close(found[m], out.reconstruction_loss[f"nll_{m}"].mean())
    torch.testing.assert_close(found["kl"], out.kl_local["kl"].mean())


def test_many_passes_weigh_every_cell_alike(make_model, train, make_mosaic):
    """More cells than fit one pass, and passes of unequal size: still the mean over cells."""
    model = train(make_model(make_mosaic(n=513)), 1, batch_size=300)
    parameters, loss = frozen_loss(model, indices=np.arange(513))
    generator = torch.Generator().manual_seed(0)
    each = []
    for batch in model._make_data_loader(model.adata, batch_size=512):
        noise = torch.randn(len(batch["batch"]), 4, generator=generator)
        with torch.no_grad():
            *_, out = model.module(batch, inference_kwargs={"noise": noise})
        each.append(sum(out.reconstruction_loss.values()) + out.kl_local["kl"])
    assert len(each) == 2
    assert loss(parameters)["loss"].item() == pytest.approx(torch.cat(each).double().mean().item(), rel=2e-6)


def test_follows_the_parameters(frozen):
    parameters, loss = frozen
    moved = {
        k: v + 0.05 * torch.randn(v.shape, generator=torch.Generator().manual_seed(1))
        for k, v in parameters.items()
    }
    assert loss(moved)["loss"] > loss(parameters)["loss"]


def test_the_model_stays_as_it_is(make_model, train):
    model = train(make_model(), 1)
    model.module.train()
    model.module.requires_grad_(False)
    state = {k: v.clone() for k, v in model.module.state_dict().items()}
    rng = torch.get_rng_state()
    parameters, loss = frozen_loss(model, n_cells=20)
    parameters = {k: v.requires_grad_() for k, v in parameters.items()}
    loss(parameters)["loss"].backward()
    assert model.module.training
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
    with torch.no_grad():
        next(iter(parameters.values())).zero_()
    assert all(torch.equal(v, state[k]) for k, v in model.module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_later_training_does_not_reach_it(make_model, train):
    model = train(make_model(), 1)
    parameters, loss = frozen_loss(model, n_cells=20)
    before = loss(parameters)["loss"].item()
    train(model, 1, lr=1e-2)
    assert loss(parameters)["loss"].item() == before


def test_training_mode_of_the_model_does_not_matter(make_model, train):
    model = train(make_model(), 1)
    values = []
    for training in (True, False):
        model.module.train(training)
        parameters, loss = frozen_loss(model, n_cells=20)
        values.append(loss(parameters)["loss"].item())
    assert values[0] == values[1]


def as_new_batch(mdata):
    mdata = mdata.copy()
    mdata.obs["donor"] = "new"
    return mdata


def test_of_a_query_only_what_was_fitted_moves(fitted, train):
    query = TriVI.load_query_data(as_new_batch(fitted.adata), fitted, accelerator="cpu")
    fit = {n: p for n, p in query.module.named_parameters() if p.requires_grad}
    parameters, loss = frozen_loss(query, n_cells=20)
    assert set(parameters) == set(fit) < set(dict(query.module.named_parameters()))
    assert loss(parameters)["loss"] < loss({n: p + 1 for n, p in parameters.items()})["loss"]
    known = TriVI.load_query_data(fitted.adata.copy(), fitted, accelerator="cpu")  # nothing to fit
    assert set(frozen_loss(known, n_cells=20)[0]) == set(dict(known.module.named_parameters()))


def test_tables_and_transposed_weights_are_known_as_such(fitted, make_model):
    """Every other parameter of two dimensions is a weight with one row for each of its outputs."""
    query = TriVI.load_query_data(as_new_batch(fitted.adata), fitted, accelerator="cpu", unfrozen=True)
    matrices = {n for n, p in query.module.named_parameters() if p.ndim > 1}
    known = filter_axes(matrices)
    assert {axis for name, axis in known.items() if "prot" in name} == {1, None}
    modules = dict(query.module.named_modules())
    for name in matrices - set(known):
        owner, _, last = name.rpartition(".")
        assert last == "weight" and isinstance(modules[owner], torch.nn.Linear), name
    pair = make_model(n_networks=2)
    assert (
        filter_axes(dict(pair.module.named_parameters())).items()
        >= {
            "networks.1.encoders.atac.weight": 1,
            "networks.1.decoders.prot.log_theta": None,
        }.items()
    )


class TestDerivatives:
    def test_gradient_is_that_of_finite_differences(self, frozen):
        """Along every tensor's own gradient, where a wrong one falls short and single precision can tell."""
        parameters, loss = frozen
        values = {k: v.clone().requires_grad_() for k, v in parameters.items()}
        gradient = torch.autograd.grad(loss(values)["loss"], list(values.values()))
        direction = {k: g / g.norm() for k, g in zip(values, gradient, strict=True)}
        slope = sum(g.norm() for g in gradient)
        step = 3e-3
        ends = [
            loss({k: v + s * step * direction[k] for k, v in parameters.items()})["loss"].item()
            for s in (1, -1)
        ]
        assert slope.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.01)

    @pytest.mark.parametrize("part", ["loss", *ALL, "kl"])
    def test_second_derivatives_are_finite_and_not_zero(self, frozen, part):
        parameters, loss = frozen
        names = list(parameters)
        values = [parameters[k].clone().requires_grad_() for k in names]
        first = torch.autograd.grad(
            loss(dict(zip(names, values, strict=True)))[part], values, create_graph=True, allow_unused=True
        )
        first = [g for g in first if g is not None]
        generator = torch.Generator().manual_seed(0)
        product = sum((g * torch.randn(g.shape, generator=generator)).sum() for g in first)
        second = [g for g in torch.autograd.grad(product, values, allow_unused=True) if g is not None]
        assert all(torch.isfinite(g).all() for g in second)
        if part in ALL:
            reached = {
                n
                for n, g in zip(
                    names,
                    torch.autograd.grad(
                        loss(dict(zip(names, values, strict=True)))[part], values, allow_unused=True
                    ),
                    strict=True,
                )
                if g is not None and g.any()
            }
            assert any(n.startswith(f"encoders.{part}.") for n in reached)
            assert any(n.startswith(f"decoders.{part}.") for n in reached)
        assert any(g.any() for g in second)

    def test_hessian_is_symmetric(self, frozen):
        parameters, loss = frozen
        generator = torch.Generator().manual_seed(3)
        u, v = (
            {k: torch.randn(p.shape, generator=generator) for k, p in parameters.items()} for _ in range(2)
        )

        def times(direction):
            values = {k: p.clone().requires_grad_() for k, p in parameters.items()}
            first = torch.autograd.grad(loss(values)["loss"], list(values.values()), create_graph=True)
            inner = sum((g * direction[k]).sum() for k, g in zip(values, first, strict=True))
            return dict(zip(values, torch.autograd.grad(inner, list(values.values())), strict=True))

        one = sum((times(u)[k] * v[k]).sum() for k in v)
        other = sum((times(v)[k] * u[k]).sum() for k in u)
        assert one.item() == pytest.approx(other.item(), rel=1e-3)


class TestCells:
    def test_held_out_cells_come_first(self, make_model, train):
        model = train(make_model(), 1, held_out=[5, 8, 13])
        for n_cells, expected in ((3, [5, 8, 13]), (2, None)):
            parameters, loss = frozen_loss(model, n_cells=n_cells)
            if expected:
                _, same = frozen_loss(model, indices=expected)
                assert loss(parameters)["loss"].item() == same(parameters)["loss"].item()
        everything, loss = frozen_loss(model, n_cells=10_000)
        _, same = frozen_loss(model, indices=np.arange(80))
        assert loss(everything)["loss"].item() == same(everything)["loss"].item()

    def test_in_another_order_no_cell_is_known_to_be_held_out(self, make_model, train, tmp_path):
        model = train(make_model(), 1, held_out=[5, 8, 13])
        mdata = model.adata
        model.save(tmp_path / "model")
        turned = mdata[mdata.obs_names[::-1]].copy()
        for one in (model, TriVI.load(tmp_path / "model", mdata, accelerator="cpu")):
            cells, n_held_out = draw_cells(one, mdata, 3, 0)
            assert (cells.tolist(), n_held_out) == ([5, 8, 13], 3)
            assert draw_cells(one, turned, 3, 0)[1] == 0

    def test_a_mask(self, fitted, frozen):
        parameters, loss = frozen
        _, masked = frozen_loss(fitted, indices=np.arange(80) < 30)
        assert masked(parameters)["loss"].item() == loss(parameters)["loss"].item()

    def test_other_data(self, fitted, make_mosaic):
        parameters, loss = frozen_loss(fitted, make_mosaic(modalities=("rna",)), n_cells=40)
        found = loss(parameters)
        assert found["rna"] > 0
        assert found["prot"] == found["atac"] == 0

    def test_a_model_without_data_says_so(self, fitted, tmp_path):
        fitted.save(tmp_path / "model")
        with pytest.raises(ValueError, match="no data"):
            frozen_loss(TriVI.load(tmp_path / "model", accelerator="cpu"))

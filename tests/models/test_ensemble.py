"""Several networks in one model: each is fitted as it would be alone, and together they say the mean."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from mmopt.models import TriVI
from mmopt.models.likelihoods import expected_log1p
from mmopt.models.readout import Readouts, any_of

NO_NOISE = {"inference_kwargs": {"noise": torch.zeros(1)}}
ASK = {"rna": {"library_size": 1}, "atac": {"library_size": 1}, "prot": {}}


@pytest.fixture(scope="module")
def pair(make_model, train):
    return train(make_model(n_latent=5, n_networks=2), 3)


@pytest.fixture(scope="module")
def alone(make_model, pair):
    """Each network of the pair as a model of its own."""
    models = []
    for network in pair.networks:
        model = make_model(n_latent=network.n_latent)
        model.module.load_state_dict(network.state_dict())
        model.is_trained_ = True
        models.append(model)
    return models


def test_the_first_is_fitted_as_it_would_be_alone_and_the_second_is_another(make_model, train, pair):
    first, second = pair.networks
    single = train(make_model(n_latent=3), 3)
    assert (first.n_latent, second.n_latent) == (3, 2)
    assert all(torch.equal(v, single.module.state_dict()[k]) for k, v in first.state_dict().items())
    np.testing.assert_array_equal(pair.validation_indices, single.validation_indices)
    bounds = pd.concat([pair.history["elbo_validation"], pair.history["network"]], axis=1)
    assert bounds["network"].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(
        bounds["elbo_validation"][:3], single.history["elbo_validation"]["elbo_validation"]
    )
    assert not (bounds["elbo_validation"][:3] == bounds["elbo_validation"][3:]).any()
    assert pair.steps_["network"].value_counts().tolist() == [len(single.steps_)] * 2


@pytest.mark.parametrize("given", [None, "rna", ("prot", "atac")])
def test_the_embedding_is_theirs_side_by_side(pair, alone, given):
    with warnings.catch_warnings():  # of cells without RNA
        warnings.simplefilter("ignore", UserWarning)
        found = pair.get_latent_representation(given=given, return_dist=True)
        each = [model.get_latent_representation(given=given, return_dist=True) for model in alone]
    for whole, parts in zip(found, zip(*each, strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts, 1))


def test_weights_of_modalities_are_averaged_over_all_dimensions(pair, alone):
    parts = sum(n * m.get_modality_weights() for n, m in zip((3, 2), alone, strict=True))
    pd.testing.assert_frame_equal(pair.get_modality_weights(), parts / 5, rtol=1e-5)


def test_the_bound_is_the_mean_of_theirs(pair, alone):
    (tensors,) = pair._make_data_loader(pair.adata, batch_size=512)
    whole, *each = (model.module(tensors, **NO_NOISE)[2] for model in (pair, *alone))
    torch.testing.assert_close(whole.loss, sum(out.loss for out in each) / 2)
    for name, value in whole.reconstruction_loss.items():
        torch.testing.assert_close(value, sum(out.reconstruction_loss[name] for out in each) / 2)
    noise = torch.randn(len(tensors["batch"]), 5, generator=torch.Generator().manual_seed(0))
    z = pair.module.inference(tensors, noise=noise)["z"]
    own = alone[1].module.inference(tensors, noise=noise[:, 3:])["z"]
    torch.testing.assert_close(z[:, 3:], own)


@pytest.mark.parametrize("modality", ["rna", "atac", "prot"])
def test_levels_are_the_mean_of_theirs(pair, alone, modality):
    whole, *each = (model.get_normalized(modality, **ASK[modality]) for model in (pair, *alone))
    if modality == "prot":  # whose levels are read on the logarithmic scale
        whole, each = np.log1p(whole), np.log1p(each)
    np.testing.assert_allclose(whole, np.mean(each, 0), rtol=1e-4, atol=1e-6)


def test_a_draw_is_of_one_of_them_and_intervals_hold_both(make_model, train):
    """Two networks that disagree: their posteriors are narrow, and what they say lies far apart."""
    model = train(make_model(n_networks=2), 1)
    with torch.no_grad():
        for i, network in enumerate(model.networks):
            head, decoder = network.encoders["prot"].trunk.head, network.decoders["prot"]
            head.weight.zero_()
            head.bias[2:] = -8
            decoder.log_background.fill_(1.0 + 2 * i)
            decoder.log_theta.fill_(0.0)
            decoder.increment.weight.zero_()
            decoder.increment.bias.fill_(-20.0)
    cells = model.adata.obs_names.get_indexer(model.adata["prot"].obs_names)[:5]
    low, high = expected_log1p(torch.tensor([1.0, 3.0]), torch.zeros(2)).expm1().numpy()
    ask = {"given": "prot", "indices": cells}
    draws = model.get_normalized("prot", n_samples=20, return_samples=True, **ask)
    is_high = np.isclose(draws, high, rtol=1e-3)
    assert (is_high | np.isclose(draws, low, rtol=1e-3)).all()
    assert (is_high == is_high[..., :1]).all()  # one network speaks for all proteins of a cell
    assert is_high.mean() == 0.5

    def of_one(draw):
        here = np.isclose(draw, high, rtol=1e-3)
        assert here.all() or not here.any()
        return bool(here.all())

    firsts = [
        of_one(model.get_normalized("prot", n_samples=2, return_samples=True, random_state=s, **ask)[0])
        for s in range(20)
    ]
    assert 0 < sum(firsts) < 20  # not always the first
    for size in (1, 2):  # a draw is of one network for all cells, however many pass at a time
        draws = model.get_normalized("prot", n_samples=3, return_samples=True, batch_size=size, **ask)
        assert len({of_one(draw) for draw in draws}) == 2
    interval = model.get_normalized("prot", interval=0.9, **ask)
    np.testing.assert_allclose(interval.lower, low, rtol=1e-3)
    np.testing.assert_allclose(interval.upper, high, rtol=1e-3)
    middle = np.expm1((np.log1p(low) + np.log1p(high)) / 2)
    for n_samples in (1, 3):
        np.testing.assert_allclose(
            model.get_normalized("prot", n_samples=n_samples, **ask), middle, rtol=1e-3
        )
    alone = model.get_normalized("prot", n_samples=1, return_samples=True, **ask)
    np.testing.assert_allclose(alone[0], middle, rtol=1e-3)  # at the posterior means, of which it is the mean
    counts = model.get_predictive_interval("prot", level=0.8, n_samples=400, **ask)
    assert (counts.upper > high).all() and (counts.lower < high / 2).all()


def test_the_networks_take_turns():
    each = list("abc")
    generator = torch.Generator().manual_seed(0)
    firsts = [any_of(3, generator) for _ in range(20)]
    turns = ["".join(Readouts(each, first)._in_turn(7)) for first in firsts]
    assert set(turns) == {"abcabca", "bcabcab", "cabcabc"}


def test_files_and_queries_have_as_many(make_model, make_mosaic, pair, tmp_path):
    pair.save(tmp_path / "model")
    again = TriVI.load(tmp_path / "model", pair.adata, accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_representation(), pair.get_latent_representation())
    pd.testing.assert_frame_equal(again.steps_, pair.steps_, check_dtype=False)
    assert again.history["network"]["network"].tolist() == [0, 0, 0, 1, 1, 1]
    mdata = make_mosaic()
    mdata.obs["donor"] = "new"
    query = TriVI.load_query_data(mdata, pair, accelerator="cpu")
    np.testing.assert_allclose(
        query.get_latent_representation(), pair.get_latent_representation(), rtol=1e-5, atol=1e-6
    )
    before = query.get_normalized("prot")
    query.train(2, accelerator="cpu", progress_bar=False)
    assert not np.isclose(query.get_normalized("prot"), before).all()
    assert all(  # nothing of the reference was touched
        torch.equal(v, own.state_dict()[k])
        for learned, own in zip(pair.networks, query.networks, strict=True)
        for k, v in learned.named_parameters()
    )


def test_refused(make_model):
    for asked in (0, -1, 2.0, "two"):
        with pytest.raises(ValueError, match="n_networks must be a positive integer"):
            make_model(n_networks=asked)
    with pytest.raises(ValueError, match="5 networks cannot share n_latent=4 dimensions"):
        make_model(n_networks=5)

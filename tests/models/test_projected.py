"""A model whose encoder sees components of the peaks."""

import mudata
import numpy as np
import pytest
import torch

from mmopt.models import TriVI, module
from mmopt.models.data import CellBatches, MosaicSplitter
from mmopt.models.encoders import ProjectedAtacEncoder
from mmopt.models.mosaic import read_mosaic


@pytest.fixture(autouse=True)
def few_peaks_are_many(monkeypatch):
    monkeypatch.setattr(module, "PROJECTED_ABOVE", 20)
    monkeypatch.setattr(module, "COMPONENTS", 6)


def encoder_of(model):
    return model.module.encoders["atac"]


def test_components_come_from_the_data_and_are_part_of_the_model(make_model, train, tmp_path):
    model = make_model()
    assert isinstance(encoder_of(model), ProjectedAtacEncoder)
    before = encoder_of(model).components.clone()
    assert before.any(0).all()
    train(model)
    assert torch.equal(encoder_of(model).components, before)
    model.save(tmp_path / "model")
    again = TriVI.load(tmp_path / "model", model.adata)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_nothing_is_kept_after_training_also_where_it_failed(make_model, train):
    model = train(make_model())
    assert encoder_of(model)._kept is None

    def fail(*_, **__):
        raise RuntimeError("the power went")

    model.module.loss = fail
    with pytest.raises(RuntimeError, match="power"):
        train(model)
    assert encoder_of(model)._kept is None


def test_keeping_projections_changes_nothing(make_model, train, monkeypatch):
    kept = train(make_model())
    monkeypatch.setattr(module.TriModule, "keep_projections", lambda *_: None)
    computed = train(make_model())
    np.testing.assert_allclose(
        kept.get_latent_representation(), computed.get_latent_representation(), atol=1e-5
    )


@pytest.mark.parametrize("backed", [False, True])
def test_training_batches_say_which_rows_their_peaks_are(
    make_mosaic, make_model, tmp_path, monkeypatch, backed
):
    monkeypatch.setattr(CellBatches, "PIECE", 8)
    monkeypatch.setattr(CellBatches, "BUFFER", 48)
    mdata = make_mosaic(n=150)
    mdata.write_h5mu(tmp_path / "mosaic.h5mu")
    data = mudata.read_h5mu(tmp_path / "mosaic.h5mu", backed=True) if backed else mdata
    manager = make_model(data).adata_manager
    whole = mdata["atac"].X.toarray()
    splitter = MosaicSplitter(manager, batch_size=16)
    seen = []
    for loader in (splitter.train_dataloader(), splitter.val_dataloader()):
        for batch in loader:
            np.testing.assert_array_equal(batch["atac"].dense(whole.shape[1]), whole[batch["atac_at"]])
            seen.append(batch["atac_at"])
    assert sorted(torch.cat(seen).tolist()) == list(range(splitter.n_atac)) == list(range(len(whole)))
    other = next(iter(make_model(data)._make_data_loader(adata=data, batch_size=16)))
    assert "atac_at" not in other  # its rows may be those of other data
    assert read_mosaic(manager).on_disk == backed


def test_a_mosaic_without_peaks_in_the_second_data_set_is_embedded(make_mosaic, make_model, train):
    model = train(make_model(make_mosaic(lacking=False)))
    rna_only = make_mosaic(modalities=("rna",), seed=1, lacking=False)
    embedding = model.get_latent_representation(rna_only)
    assert embedding.shape == (80, 4) and np.isfinite(embedding).all()

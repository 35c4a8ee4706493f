"""Data that stay on disk give what they would give in memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import mudata
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmopt.models import stored
from mmopt.models.data import CellBatches, MosaicDataset, MosaicLoader, MosaicSplitter
from mmopt.models.mosaic import Mosaic, read_mosaic

ROWS = np.array([7, 3, 4, 4, 60, 0])


@pytest.fixture
def on_disk(make_mosaic, tmp_path):
    """The same mosaic in memory and backed, of several buffers and blocks."""
    mdata = make_mosaic(n=150)
    mdata["prot"].X = mdata["prot"].X.toarray()  # dense, as proteins often are
    mdata.write_h5mu(tmp_path / "mosaic.h5mu")
    return mdata, mudata.read_h5mu(tmp_path / "mosaic.h5mu", backed=True)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(stored, "BLOCK", 500)
    monkeypatch.setattr(stored, "GAP", 2)
    monkeypatch.setattr(CellBatches, "PIECE", 8)
    monkeypatch.setattr(CellBatches, "BUFFER", 48)


class TestStoredRows:
    @pytest.mark.parametrize("modality", ["rna", "prot"])
    @pytest.mark.parametrize("columns", [None, np.array([5, 0, 2])])
    def test_rows_and_blocks(self, on_disk, modality, columns):
        in_memory, backed = (m[modality].X for m in on_disk)
        expected = sp.csr_matrix(in_memory)[:, slice(None) if columns is None else columns].toarray()
        rows = stored.StoredRows(backed, columns)
        assert rows.shape == expected.shape
        for wanted in (ROWS, np.arange(9), np.array([], int)):
            np.testing.assert_array_equal(rows[wanted].toarray(), expected[wanted])
            assert rows[wanted].has_sorted_indices
        found = [b.toarray() for b in rows.blocks()]
        assert len(found) > 1
        np.testing.assert_array_equal(np.concatenate(found), expected)

    def test_stored_zeros_and_repeated_entries(self, tmp_path):
        """Files hold what other programs wrote."""
        from anndata import AnnData, read_h5ad

        x = sp.csr_matrix((np.array([1, 0, 2, 3.0]), [1, 0, 2, 2], [0, 2, 4]), (2, 3))
        AnnData(x).write_h5ad(tmp_path / "x.h5ad")
        found = stored.StoredRows(read_h5ad(tmp_path / "x.h5ad", backed="r").X)[np.arange(2)]
        assert found.nnz == 2
        np.testing.assert_array_equal(found.toarray(), [[0, 1, 0], [0, 0, 5]])

    @pytest.mark.parametrize(
        ("value", "message"),
        [(-1.0, "negative"), (np.nan, "NaN"), (0.5, "raw counts"), (0.0, "nothing but zeros")],
    )
    def test_what_is_no_counts_is_refused(self, make_mosaic, tmp_path, value, message):
        from mmopt.models import TriVI

        mdata = make_mosaic()
        if value:
            mdata["atac"].X.data[-1] = value
        else:
            mdata["atac"].X.data[:] = value
        mdata.write_h5mu(tmp_path / "bad.h5mu")
        with pytest.raises(ValueError, match=rf"modality 'atac', X.*{message}"):
            TriVI.setup_mudata(mudata.read_h5mu(tmp_path / "bad.h5mu", backed=True))


class TestOrder:
    def epoch(self, n=150, seed=0, epoch=0, size=16):
        batches = CellBatches(np.arange(n), size, True, seed, on_disk=True)
        batches.set_epoch(epoch)
        return batches, list(batches)

    def test_every_cell_once_in_buffers_of_pieces(self):
        batches, groups = self.epoch()
        assert len(groups) == len(batches)
        np.testing.assert_array_equal(
            np.sort(np.concatenate([held[chosen] for held, chosen in groups])), np.arange(150)
        )
        assert all(len(chosen) <= 16 for _, chosen in groups)
        buffers = {id(held): held for held, _ in groups}
        assert len(buffers) == 4
        for held in buffers.values():  # few pieces, in order
            assert len(held) <= 48
            assert (np.diff(held) > 0).all()
            assert (np.diff(held) > 1).sum() <= len(held) / 4

    def test_depends_on_seed_and_epoch_alone(self):
        order = [
            np.concatenate([h[c] for h, c in self.epoch(**k)[1]]) for k in ({}, {}, {"epoch": 1}, {"seed": 1})
        ]
        np.testing.assert_array_equal(order[0], order[1])
        assert (order[0] != order[2]).any()
        assert (order[0] != order[3]).any()

    def test_a_buffer_is_read_once(self, on_disk, monkeypatch):
        from mmopt.models import TriVI

        TriVI.setup_mudata(on_disk[1], batch_key="donor")
        mosaic = read_mosaic(TriVI._setup_adata_manager_store[on_disk[1].uns["_scvi_uuid"]])
        assert mosaic.on_disk
        reads = []
        subset = type(mosaic).subset
        monkeypatch.setattr(
            type(mosaic), "subset", lambda m, cells: reads.append(len(cells)) or subset(m, cells)
        )
        dataset = MosaicDataset(mosaic)
        for held, chosen in self.epoch()[1]:
            whole, part = dataset[held[chosen]], dataset[held, chosen]
            for m in mosaic.counts:
                for one, other in zip(whole[m], part[m], strict=True):
                    assert one.equal(other)
                assert whole[f"{m}_rows"].equal(part[f"{m}_rows"])
        assert sum(reads) == 150


class TestHeldOutCells:
    @pytest.fixture
    def splitters(self, on_disk, make_model):
        """Of the same cells in memory and on disk, in groups of 16."""
        return [MosaicSplitter(make_model(m).adata_manager, train_size=0.5, batch_size=8) for m in on_disk]

    @pytest.fixture
    def reads(self, monkeypatch):
        """Number of cells of each reading."""
        reads, subset = [], Mosaic.subset
        monkeypatch.setattr(Mosaic, "subset", lambda m, cells: reads.append(len(cells)) or subset(m, cells))
        return reads

    def test_are_read_once_and_are_those_of_memory(self, splitters, reads):
        in_memory, stored = (s.val_dataloader() for s in splitters)
        for _ in range(2):
            for one, other in zip(in_memory, stored, strict=True):
                flat = [torch.utils._pytree.tree_leaves(b) for b in (one, other)]
                assert all(a.equal(b) for a, b in zip(*flat, strict=True))
        assert len(reads) == len(stored) > 3
        assert sum(reads) == splitters[1].n_val

    def test_stay_in_memory_as_far_as_there_is_room(self, splitters, reads, monkeypatch):
        stored = splitters[1].val_dataloader()
        sizes = [stored.dataset.mosaic.subset(g).nbytes for g in stored.sampler]
        monkeypatch.setattr("mmopt.models.data.KEPT", sizes[0] + sizes[1])
        reads.clear()
        for n in (len(stored), len(stored) - 2):
            assert len(list(stored)) == len(stored)
            assert len(reads) == n
            reads.clear()
        assert sum(g.nbytes for g in stored.dataset.kept.values()) <= sizes[0] + sizes[1]

    def test_leave_it_after_training(self, on_disk, make_model, train):
        model = train(make_model(on_disk[1]), 1)
        loader = model.trainer.val_dataloaders
        assert loader.dataset.mosaic.on_disk
        assert loader.dataset.kept is None
        assert len(next(iter(loader))["batch"])


def test_a_minibatch_does_not_copy_all_indices(make_mosaic):
    """Files often have 64-bit row pointers and 32-bit indices; scipy copies one of them whenever rows are taken."""
    mdata = make_mosaic()
    x = mdata["atac"].X
    x.indptr = x.indptr.astype(np.int64)
    x.indices = x.indices.astype(np.int32)
    taken = stored.counts(mdata["atac"], "atac", None, np.arange(40))
    assert taken.indptr.dtype == taken.indices.dtype == np.int32
    assert np.shares_memory(taken.indices, x.indices)
    assert x.indptr.dtype == np.int64
    np.testing.assert_array_equal(taken.toarray(), x.toarray())


def test_the_model_is_the_same(on_disk, make_model, train, tmp_path):
    """Statistics, likelihood and embedding; training, in another order of cells, and going on from a checkpoint."""
    import mmopt

    models = [make_model(m) for m in on_disk]
    state = [m.module.state_dict() for m in models]
    assert all(v.equal(state[1][k]) for k, v in state[0].items())
    models[0].is_trained_ = models[1].is_trained_ = True
    errors = [m.get_reconstruction_error() for m in models]
    for name, value in errors[0].items():
        assert float(value) == pytest.approx(float(errors[1][name]), rel=1e-6)
    np.testing.assert_array_equal(*(m.get_latent_representation() for m in models))

    options = {
        "accelerator": "cpu",
        "progress_bar": False,
        "batch_size": 16,
        "checkpoint": tmp_path / "run.ckpt",
    }
    small = {
        "n_latent": 4,
        "model_kwargs": {"n_hidden": 16},
        "batch_key": "donor",
        "max_epochs": 25,
        "n_networks": 1,
    }
    fitted = [
        mmopt.tl.integrate(m, **small, **options | ({} if i else {"checkpoint": None}))
        for i, m in enumerate(on_disk)
    ]
    ends = [f.history["elbo_validation"].to_numpy().min() for f in fitted]
    begins = [f.history["elbo_validation"].to_numpy()[0].item() for f in fitted]
    assert ends[1] == pytest.approx(ends[0], abs=0.15 * (begins[0] - ends[0]))
    again = mmopt.tl.integrate(on_disk[1], **small, **options)  # complete: nothing is left to do
    np.testing.assert_array_equal(again.get_latent_representation(), on_disk[1].obsm["X_mmopt"])


def test_a_zarr_store_is_read_as_a_file_is(on_disk, make_model, train, tmp_path):
    """mudata reads a store into memory; the matrices in it can be put in the place of those that were read."""
    import zarr
    from anndata.io import sparse_dataset

    on_disk[0].write_zarr(tmp_path / "mosaic.zarr")
    mdata, store = mudata.read_zarr(tmp_path / "mosaic.zarr"), zarr.open(tmp_path / "mosaic.zarr", mode="r")
    for m, adata in mdata.mod.items():
        x = store["mod"][m]["X"]
        adata.X = x if m == "prot" else sparse_dataset(x)  # protein is dense there
    models = [train(make_model(data), 2) for data in (on_disk[1], mdata)]
    counts = read_mosaic(models[1].adata_manager).counts
    assert all(isinstance(x, stored.StoredRows) for x in counts.values())
    np.testing.assert_array_equal(*(model.get_latent_representation() for model in models))


def test_a_file_without_x_and_a_comparison_on_disk(make_mosaic, tmp_path):
    import mmopt as mm

    mdata = make_mosaic(("rna", "prot"), n=60, lacking=False)
    mdata.write_h5mu(tmp_path / "x.h5mu")
    tables = [
        mm.tl.compare_optimizers(
            m, ("adam",), lr_grid=(1e-3,), seeds=(0,), max_epochs=1, accelerator="cpu", progress_bar=False
        )
        for m in (mdata, mudata.read_h5mu(tmp_path / "x.h5mu", backed=True))
    ]
    columns = [c for c in tables[0] if c.startswith("baseline_")]
    np.testing.assert_allclose(tables[1][columns], tables[0][columns], rtol=1e-5)
    del mdata["rna"].X
    mdata.write_h5mu(tmp_path / "none.h5mu")
    with pytest.raises(ValueError, match="modality 'rna', X is empty; name the layer with the counts"):
        mm.tl.integrate(mudata.read_h5mu(tmp_path / "none.h5mu", backed=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("where", [0, 1], ids=["in memory", "on disk"])
def test_forked_workers_and_threads_read_the_same(on_disk, make_model, train, where):
    """A file that is open when a process forks is shared with the child; minibatches must not be."""
    mdata = on_disk[where]
    model = make_model(mdata)

    def batches(**kwargs):
        loader = MosaicLoader(model.adata_manager, batch_size=16, shuffle=True, seed=3, **kwargs)
        return [b["rna"].counts.clone() for b in loader]

    expected = batches()
    # the parent reads while its children do
    found = batches(num_workers=2, multiprocessing_context="fork")
    assert len(found) == len(expected) > 5
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    train(model, 1)
    alone = model.get_latent_representation()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: model.get_latent_representation(batch_size=16), range(8)))
    for answer in answers:
        np.testing.assert_allclose(answer, alone, atol=1e-5)


class TestWhatIsReadOfAFileThatWasPrepared:
    @pytest.fixture
    def registered(self):
        """Register data as the model does, and read them."""
        from mmopt.models import TriVI

        def registered(mdata):
            TriVI.setup_mudata(mdata, batch_key="donor")
            return read_mosaic(TriVI._setup_adata_manager_store[mdata.uns["_scvi_uuid"]])

        return registered

    def test_counts_stay_on_disk_when_features_are_marked(self, on_disk, registered):
        import mmopt as mm

        for mdata in on_disk:
            mm.pp.prepare(mdata, n_top_genes=10, n_top_peaks=10)
        for m, adata in on_disk[1].mod.items():
            assert "counts" not in adata.layers
            assert adata.var["highly_variable"].equals(on_disk[0][m].var["highly_variable"])
        assert all(isinstance(x, stored.StoredRows) for x in registered(on_disk[1]).counts.values())

    def test_a_layer_that_repeats_x_is_not_read(self, on_disk, registered, tmp_path, caplog):
        import mmopt as mm

        mm.pp.prepare(on_disk[0])
        on_disk[0].write_h5mu(tmp_path / "prepared.h5mu")
        mdata = mudata.read_h5mu(tmp_path / "prepared.h5mu", backed=True)
        assert all(isinstance(x, stored.StoredRows) for x in registered(mdata).counts.values())
        assert not caplog.text

    def test_one_that_differs_is_read_and_said_to_be_in_memory(self, on_disk, registered, tmp_path, caplog):
        mdata = on_disk[0]
        mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
        mdata["rna"].X = mdata["rna"].X / 3
        expected = registered(mdata).counts["rna"]
        mdata.write_h5mu(tmp_path / "normalised.h5mu")
        backed = mudata.read_h5mu(tmp_path / "normalised.h5mu", backed=True)
        found = registered(backed).counts
        assert (found["rna"] != expected).nnz == 0
        assert isinstance(found["atac"], stored.StoredRows)
        assert caplog.text.count("modality 'rna': X on disk differs from layers[\"counts\"]") == 1


def test_a_model_answers_after_its_file_was_written(on_disk, make_model, train):
    """Which opens the file anew; the handles of before are closed."""
    mdata = on_disk[1]
    model = train(make_model(mdata), 1)
    before = model.get_latent_representation()
    mdata.obsm["X_mmopt"] = before
    mdata.write()
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    train(model, 1)

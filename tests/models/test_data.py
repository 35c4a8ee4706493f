import logging
import random

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmopt.models.data import CellBatches, MosaicDataset, MosaicLoader, MosaicSplitter, held_out_cells
from mmopt.models.mosaic import Mosaic, read_mosaic


def setup(mdata, **kwargs):
    """Register the data as the model does, and read them."""
    from mmopt.models import TriVI

    TriVI.setup_mudata(mdata, **({"batch_key": "donor"} | kwargs))
    manager = TriVI._setup_adata_manager_store[mdata.uns["_scvi_uuid"]]
    manager.held = mdata  # which is the user's part, or the model's
    return manager


def frame(mosaic, modality):
    """Rows of a modality in the order of the cells, NaN where absent."""
    rows = mosaic.place[modality]
    out = np.full((len(rows), mosaic.counts[modality].shape[1]), np.nan)
    out[rows >= 0] = mosaic.counts[modality].toarray()[rows[rows >= 0]]
    return out


class TestRead:
    def test_rows_belong_to_the_cells_of_their_name(self, make_mosaic, dense):
        mdata = make_mosaic()
        assert list(mdata["atac"].obs_names) != [
            n for n in mdata.obs_names if n in set(mdata["atac"].obs_names)
        ]
        mosaic = read_mosaic(setup(mdata))
        for m in mdata.mod:
            np.testing.assert_array_equal(frame(mosaic, m), dense(mdata, m))
        np.testing.assert_array_equal(mosaic.batch, (mdata.obs["donor"] == "b").to_numpy().astype(int))
        expected = np.column_stack([mdata.obs_names.isin(mdata[m].obs_names) for m in mdata.mod])
        np.testing.assert_array_equal(mosaic.present, expected)

    def test_absent_is_not_zero(self, make_mosaic):
        """A cell measured without any count is present; a cell without the measurement is not."""
        mdata = make_mosaic()
        empty = mdata["prot"].obs_names[0]
        x = mdata["prot"].X.toarray()
        x[0] = 0
        mdata["prot"].X = sp.csr_matrix(x)
        mosaic = read_mosaic(setup(mdata))
        here = mdata.obs_names.get_loc(empty)
        gone = np.flatnonzero(~mdata.obs_names.isin(mdata["prot"].obs_names))[0]
        batch = MosaicDataset(mosaic)[np.array([here, gone])]
        assert batch["prot_rows"].tolist() == [0]
        assert batch["prot"].lengths.tolist() == [0]

    @pytest.mark.parametrize("form", ["dense", "csr", "csc", "int", "bool_like", "explicit_zeros", "coo"])
    def test_every_form_of_the_counts_reads_the_same(self, make_mosaic, form):
        mdata, expected = make_mosaic(), read_mosaic(setup(make_mosaic()))
        for m in mdata.mod:
            x = mdata[m].X.toarray()
            zeros = sp.csr_matrix(np.ones_like(x))
            zeros.data[:] = x.ravel()
            mdata[m].X = {
                "dense": lambda x=x: np.asfortranarray(x),
                "csr": lambda x=x: sp.csr_matrix(x.astype(np.float64)),
                "csc": lambda x=x: sp.csc_matrix(x),
                "int": lambda x=x: sp.csr_matrix(x.astype(np.int64)),
                "bool_like": lambda x=x: x.astype(np.uint16),
                "explicit_zeros": lambda zeros=zeros: zeros,
                "coo": lambda x=x: sp.csr_array(x),
            }[form]()
        found = read_mosaic(setup(mdata))
        for m in mdata.mod:
            assert found.counts[m].dtype == np.float32
            assert (found.counts[m] != expected.counts[m]).nnz == 0
            assert found.counts[m].nnz == expected.counts[m].nnz

    def test_unsorted_and_repeated_indices(self, make_mosaic):
        mdata = make_mosaic(modalities=("rna",))
        x = sp.csr_matrix((np.array([2.0, 1, 3]), np.array([5, 1, 5]), np.array([0, 3] + [3] * 63)), (64, 30))
        mdata["rna"].X = x.astype(np.float32)
        kept = mdata["rna"].X.copy()
        row = mdata.obs_names.get_loc(mdata["rna"].obs_names[0])
        counts = MosaicDataset(read_mosaic(setup(mdata)))[np.array([row])]["rna"]
        assert counts.indices.tolist() == [1, 5]
        assert counts.counts.tolist() == [1, 5]
        for name in ("data", "indices", "indptr"):  # the user's matrix is left as it was
            np.testing.assert_array_equal(getattr(mdata["rna"].X, name), getattr(kept, name))

    def test_counts_layer_comes_before_x_and_layer_before_both(self, make_mosaic, dense):
        mdata = make_mosaic()
        raw = {m: dense(mdata, m).to_numpy() for m in mdata.mod}
        for m in mdata.mod:
            mdata[m].layers["counts"] = mdata[m].X * 2
            mdata[m].layers["other"] = mdata[m].X * 3
        for layer, factor in ((None, 2), ("other", 3), ("X", 1), ("counts", 2)):
            mosaic = read_mosaic(setup(mdata, layer=layer))
            for m in mdata.mod:
                np.testing.assert_array_equal(frame(mosaic, m), factor * raw[m])

    def test_highly_variable_features(self, make_mosaic, dense):
        mdata = make_mosaic()
        marks = np.arange(30) % 3 == 0
        mdata["rna"].var["highly_variable"] = marks
        full = {m: dense(mdata, m).to_numpy() for m in mdata.mod}
        np.testing.assert_array_equal(frame(read_mosaic(setup(mdata)), "rna"), full["rna"][:, marks])
        np.testing.assert_array_equal(frame(read_mosaic(setup(mdata)), "atac"), full["atac"])
        mosaic = read_mosaic(setup(mdata, use_highly_variable=False))
        np.testing.assert_array_equal(frame(mosaic, "rna"), full["rna"])
        with pytest.raises(
            KeyError, match=r"modality 'atac' has no var\['highly_variable'\].*mm\.pp\.prepare"
        ):
            setup(mdata, use_highly_variable=True)
        mdata["atac"].var["highly_variable"] = pd.Series(
            True, mdata["atac"].var_names[:5]
        )  # NaN for the others
        with pytest.raises(TypeError, match=r"modality 'atac'.*must hold True or False"):
            setup(mdata)
        mdata["atac"].var["highly_variable"] = False
        with pytest.raises(
            ValueError, match=r"modality 'atac'.*selects no feature.*use_highly_variable=False"
        ):
            setup(mdata)

    def test_counts_of_an_unused_modality_and_its_columns_do_not_matter(self, make_mosaic, dense):
        """A fourth modality may say something else about the batches; it is not one of the model's."""
        from anndata import AnnData

        mdata = make_mosaic()
        del mdata.obs["donor"]
        names = mdata["rna"].obs_names
        other = AnnData(np.full((len(names), 2), 0.5, np.float32), obs={"sample": ["other"] * len(names)})
        other.obs_names = names
        mdata.mod["hto"] = other
        mosaic = read_mosaic(setup(mdata, batch_key="sample"))
        known = mdata["rna"].obs["sample"].reindex(mdata.obs_names)
        known = known.fillna(mdata["atac"].obs["sample"].reindex(mdata.obs_names))
        np.testing.assert_array_equal(mosaic.batch, (known == "b").to_numpy().astype(int))

    def test_cells_removed_in_place_are_noticed(self, make_mosaic, dense):
        """muon filters in place; what was read before must not be taken for what is there now."""
        mdata = make_mosaic()
        manager = setup(mdata)
        read_mosaic(manager)
        keep = mdata.obs_names[5:60]
        for m in list(mdata.mod):
            mdata.mod[m] = mdata[m][mdata[m].obs_names.isin(keep)].copy()
        mdata.update()
        mosaic = read_mosaic(manager)
        assert len(mosaic.batch) == mdata.n_obs == 55
        for m in mdata.mod:
            np.testing.assert_array_equal(frame(mosaic, m), dense(mdata, m))

    def test_seen_names_the_batches_that_have_a_modality(self, make_mosaic):
        mosaic = read_mosaic(setup(make_mosaic(absent_in={"prot": "b"})))
        assert mosaic.seen(2)["prot"].tolist() == [True, False]
        assert mosaic.seen(2)["rna"].tolist() == [True, True]


def small_mosaic(n=30, seed=0):
    rng = np.random.default_rng(seed)
    counts = {m: sp.csr_matrix(rng.poisson(1.0, (n, 4)).astype(np.float32)) for m in ("rna", "atac")}
    rows = {"rna": rng.permutation(n), "atac": np.where(np.arange(n) % 3 == 0, -1, np.arange(n))}
    return Mosaic(counts, rows, rng.integers(0, 2, n))


class TestDataset:
    @settings(deadline=None, max_examples=40)
    @given(cells=st.lists(st.integers(0, 29), max_size=12))
    def test_a_minibatch_holds_the_measured_rows_and_their_places(self, cells):
        mosaic = small_mosaic()
        cells = np.array(cells, dtype=int)
        batch = MosaicDataset(mosaic)[cells]
        assert batch["batch"].tolist() == mosaic.batch[cells].tolist()
        for m in mosaic.place:
            expected = frame(mosaic, m)[cells]
            found = np.full_like(expected, np.nan)
            found[batch[f"{m}_rows"].numpy()] = batch[m].dense(4).numpy()
            np.testing.assert_array_equal(found, expected)

    def test_tensors_do_not_share_memory_with_the_counts(self):
        mosaic = small_mosaic()
        before = mosaic.counts["rna"].copy()
        MosaicDataset(mosaic)[np.arange(30)]["rna"].counts.zero_()
        assert (mosaic.counts["rna"] != before).nnz == 0


class TestBatches:
    @settings(deadline=None, max_examples=60)
    @given(n=st.integers(0, 300), batch_size=st.integers(1, 70), shuffle=st.booleans())
    def test_sizes_are_nearly_equal_and_every_cell_comes_once(self, n, batch_size, shuffle):
        cells = np.arange(n) * 7
        batches = CellBatches(cells, batch_size, shuffle, 0)
        parts = list(batches)
        assert len(parts) == len(batches) == -(-n // batch_size)
        sizes = [len(part) for part in parts] or [0]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        found = np.concatenate([cells[:0], *parts])
        np.testing.assert_array_equal(np.sort(found) if shuffle else found, cells)

    def order(self, seed, epoch):
        batches = CellBatches(np.arange(50), 16, True, seed)
        batches.set_epoch(epoch)
        return np.concatenate(list(batches)).tolist()

    def test_order_depends_on_seed_and_epoch_alone(self):
        first = self.order(0, 3)
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        used = CellBatches(np.arange(50), 16, True, 0)
        for epoch in (0, 1, 3):
            used.set_epoch(epoch)
            again = np.concatenate(list(used)).tolist()
        assert again == first == self.order(0, 3)
        assert len({tuple(self.order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9

    def test_epoch_may_be_set_between_the_iterator_and_its_first_batch(self):
        """Lightning makes the iterator of a resumed run before it sets the epoch."""
        batches = CellBatches(np.arange(50), 16, True, 0)
        iterator = iter(batches)
        batches.set_epoch(3)
        assert np.concatenate(list(iterator)).tolist() == self.order(0, 3)


class TestDataThatChange:
    """After they were registered."""

    @pytest.fixture
    def mdata(self, make_mosaic):
        return make_mosaic()

    @pytest.fixture
    def manager(self, mdata):
        manager = setup(mdata)
        read_mosaic(manager)
        return manager

    def test_are_not_read_again_for_nothing(self, mdata, manager):
        known = read_mosaic(manager)
        mdata.obs["new"] = 1
        mdata["rna"].obsm["X_pca"] = np.zeros((mdata["rna"].n_obs, 2))
        assert read_mosaic(manager) is known

    def test_other_counts(self, mdata, manager, dense):
        mdata["rna"].X = mdata["rna"].X[::-1].copy()
        np.testing.assert_array_equal(frame(read_mosaic(manager), "rna"), dense(mdata, "rna"))
        mdata["atac"].X = mdata["atac"].X.toarray()
        mdata["atac"].X *= 2
        np.testing.assert_array_equal(frame(read_mosaic(manager), "atac"), dense(mdata, "atac"))

    def test_cells_taken_from_a_modality(self, mdata, manager, dense):
        gone = mdata["atac"].obs_names[:10]
        mdata.mod["atac"] = mdata["atac"][10:].copy()
        for _ in range(2):  # with `update`, which leaves out the cells of no modality, and without
            assert not read_mosaic(manager).present[mdata.obs_names.isin(gone), 1].any()
            np.testing.assert_array_equal(frame(read_mosaic(manager), "atac"), dense(mdata, "atac"))
            mdata.update()
        del mdata.mod["prot"]
        assert not read_mosaic(manager).present[:, 2].any()

    def test_batches(self, mdata, manager):
        before = read_mosaic(manager).batch
        mdata.obs.loc[mdata.obs_names[:5], "donor"] = "a"
        assert (read_mosaic(manager).batch[:5] == 0).all()
        assert (read_mosaic(manager).batch[5:] == before[5:]).all()

    def test_to_what_is_no_counts_are_refused_where_the_counts_are_lost(self, mdata, manager):
        mdata["rna"].X = sp.csr_matrix(
            mdata["rna"].X, dtype=np.float32
        )  # as it is, this is what the model reads
        read_mosaic(manager)
        sc.pp.log1p(mdata["rna"])
        with pytest.raises(ValueError, match="have changed since the model read them: modality 'rna', X"):
            read_mosaic(manager)

    @pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, sp.csr_matrix.toarray])
    def test_to_normalised_values_leave_the_counts_that_were_read(self, mdata, manager, form, caplog):
        mdata["rna"].X = form(mdata["rna"].X)
        before = read_mosaic(manager)
        was = before.counts["rna"].copy()
        sc.pp.normalize_total(mdata["rna"])
        sc.pp.log1p(mdata["rna"])
        with caplog.at_level(logging.WARNING, "mmopt"):
            assert read_mosaic(manager) is read_mosaic(manager) is before
        assert caplog.text.count("goes on with the counts that it has read") == 1
        assert (before.counts["rna"] != was).nnz == 0

    def test_to_what_no_longer_fits_are_refused(self, mdata, manager):
        mdata.obs["donor"] = "c"
        with pytest.raises(ValueError, match="batches the model was not trained on"):
            read_mosaic(manager)
        del mdata.obs["donor"]
        with pytest.raises(KeyError, match="no column 'donor'"):
            read_mosaic(manager)

    def test_features_that_are_gone_are_named(self, mdata, manager):
        mdata.mod["rna"] = mdata["rna"][:, :20].copy()
        with pytest.raises(ValueError, match="'rna' lacks 10 of the model's 30 features"):
            read_mosaic(manager)

    def test_a_model_answers_for_what_they_are(self, make_model, mdata, train):
        model = train(make_model(mdata), 1)
        mdata["rna"].X = mdata["rna"].X[::-1].copy()
        expected = model.get_latent_representation(mdata.copy())
        np.testing.assert_array_equal(model.get_latent_representation(), expected)


class TestLoader:
    def test_cells_come_in_the_order_asked_for(self, make_mosaic):
        manager = setup(make_mosaic())
        mosaic = read_mosaic(manager)
        cells = np.array([17, 3, 3, 60])
        (batch,) = MosaicLoader(manager, cells)
        assert batch["batch"].tolist() == mosaic.batch[cells].tolist()
        mask = np.zeros(len(mosaic.batch), dtype=bool)
        mask[[3, 17]] = True
        assert MosaicLoader(manager, mask).indices.tolist() == [3, 17]
        assert len(MosaicLoader(manager).indices) == len(mosaic.batch)

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_iterating_draws_nothing_from_global_generators(self, make_mosaic, shuffle):
        loader = MosaicLoader(setup(make_mosaic()), batch_size=16, shuffle=shuffle)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        list(loader)
        assert before == (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )


class TestSplit:
    @settings(deadline=None, max_examples=60)
    @given(
        present=hnp.arrays(bool, st.tuples(st.integers(1, 200), st.integers(1, 3))),
        train_size=st.floats(0.05, 1),
        seed=st.integers(0, 99),
    )
    def test_every_pattern_gives_its_share(self, present, train_size, seed):
        held_out = held_out_cells(present, train_size, np.random.default_rng(seed))
        assert len(np.unique(held_out)) == len(held_out)
        patterns, of_cell = np.unique(present, axis=0, return_inverse=True)
        for p in range(len(patterns)):
            cells = np.flatnonzero(of_cell.ravel() == p)
            assert np.isin(cells, held_out).sum() == round((1 - train_size) * len(cells))

    def test_train_and_validation_share_no_cell_and_miss_none(self, make_mosaic):
        splitter = MosaicSplitter(setup(make_mosaic()), train_size=0.75, seed=1)
        together = np.sort(np.concatenate([splitter.train_idx, splitter.val_idx]))
        np.testing.assert_array_equal(together, np.arange(80))
        assert (
            (splitter.n_train, splitter.n_val) == (len(splitter.train_idx), len(splitter.val_idx)) == (60, 20)
        )
        again = MosaicSplitter(setup(make_mosaic()), train_size=0.75, seed=1)
        np.testing.assert_array_equal(again.val_idx, splitter.val_idx)
        other = MosaicSplitter(setup(make_mosaic()), train_size=0.75, seed=2)
        assert not np.array_equal(other.val_idx, splitter.val_idx)

    def test_held_out_cells_are_those_given(self, make_mosaic):
        splitter = MosaicSplitter(setup(make_mosaic()), held_out=np.array([9, 2, 2]), batch_size=20)
        assert splitter.val_idx.tolist() == [2, 9]
        assert len(splitter.train_idx) == 78
        (batch,) = splitter.val_dataloader()
        assert len(batch["batch"]) == 2
        assert [len(b["batch"]) for b in splitter.train_dataloader()] == [20, 20, 19, 19]

    def test_training_on_all_cells_leaves_no_validation(self, make_mosaic):
        splitter = MosaicSplitter(setup(make_mosaic()), train_size=1.0)
        assert splitter.n_val == 0
        assert not splitter.val_dataloader()

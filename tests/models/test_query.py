"""A query mapped onto a reference: the reference stays, only what belongs to the query's new batches is learned."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from mudata import MuData

from mmopt._compat import override_pull_on_update
from mmopt.models import TriVI


def as_query(mdata, new="c", modalities=("rna", "atac", "prot"), seed=0):
    """The cells of batch b as a new batch, in other orders of features, with other names."""
    rng = np.random.default_rng(seed)
    cells = mdata.obs_names[mdata.obs["donor"] == "b"]
    mods = {}
    for m in modalities:
        adata = mdata[m][mdata[m].obs_names.isin(cells)]
        adata = adata[:, rng.permutation(adata.n_vars)].copy()
        adata.obs_names = [f"query_{n}" for n in adata.obs_names]
        mods[m] = adata
    with override_pull_on_update():
        out = MuData(mods)
    out.obs["donor"] = new
    return out


@pytest.fixture(scope="module")
def reference(make_model, train, make_mosaic):
    """A reference that knows batch a."""
    mdata = make_mosaic(n=160)
    return train(make_model(mdata[mdata.obs["donor"] == "a"].copy()), 3)


@pytest.fixture
def query_data(make_mosaic):
    return as_query(make_mosaic(n=160))


def load(mdata, reference, **kwargs):
    return TriVI.load_query_data(mdata, reference, **({"accelerator": "cpu"} | kwargs))


def state(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


class TestReference:
    def test_stays_as_it_is_bit_for_bit(self, reference, query_data, train, make_mosaic):
        before, z = state(reference), reference.get_latent_representation()
        expected = {m: reference.get_normalized(m) for m in reference.modalities}
        query = train(load(query_data, reference), 3, optimizer="adam", lr=0.05)
        assert all(torch.equal(v, before[k]) for k, v in reference.module.state_dict().items())
        mdata = make_mosaic(n=160)
        mdata = mdata[mdata.obs["donor"] == "a"].copy()
        np.testing.assert_array_equal(query.get_latent_representation(mdata), z)
        for m in reference.modalities:  # what is decoded in the reference's batch as well
            np.testing.assert_allclose(query.get_normalized(m, mdata=mdata), expected[m], rtol=1e-5)

    def test_only_what_belongs_to_the_new_batch_is_trained(self, reference, query_data, train):
        query = load(query_data, reference)
        before = state(query)
        train(query, 3, optimizer="adamw", lr=0.05, optimizer_kwargs={"weight_decay": 0.1})
        changed = {k for k, v in query.module.state_dict().items() if not torch.equal(v, before[k])}
        parameters = {k for k in changed if "added" in k}
        assert parameters == {
            "decoders.rna.body.0.added",
            "decoders.atac.body.0.added",
            "decoders.prot.body.0.added",
            "decoders.prot.added_background",
            "decoders.prot.added_theta",
        }
        assert changed - parameters <= {"depths.rna.weight", "depths.atac.weight"}
        for m in ("rna", "atac"):  # and of these, what belongs to the new batch
            k = f"depths.{m}.weight"
            assert torch.equal(query.module.state_dict()[k][:, :-1], before[k][:, :-1])

    def test_may_be_a_file(self, reference, query_data, tmp_path):
        reference.save(tmp_path / "model")
        from_file = load(query_data, tmp_path / "model").get_latent_representation()
        np.testing.assert_array_equal(from_file, load(query_data, reference).get_latent_representation())


class TestQuery:
    def test_is_embedded_by_the_references_encoders_before_and_after_training(
        self, reference, query_data, train
    ):
        query = load(query_data, reference)
        z = query.get_latent_representation()
        known = query_data.copy()
        known.obs["donor"] = "a"  # the embedding does not depend on the batch
        np.testing.assert_allclose(z, reference.get_latent_representation(known), atol=1e-6)
        np.testing.assert_array_equal(train(query, 2).get_latent_representation(), z)

    def test_starts_between_the_references_batches_and_learns_its_own(self, make_model, train, make_mosaic):
        """The foreground of the query's proteins is three times as bright."""
        reference = train(make_model(make_mosaic(n=200), n_hidden=64), 25, lr=3e-3)
        mdata = as_query(make_mosaic(n=200))
        mdata = mdata[
            mdata.obs_names.isin(mdata["rna"].obs_names) & mdata.obs_names.isin(mdata["prot"].obs_names)
        ]
        mdata = mdata.copy()
        mdata["prot"].X = mdata["prot"].X * 3
        query = load(mdata, reference)
        first, *shares = (
            query.get_normalized("rna", library_size=1, transform_batch=b) for b in ("c", "a", "b")
        )
        assert np.abs(first - np.mean(shares, 0)).mean() < 0.5 * np.abs(shares[0] - shares[1]).mean()
        cells = mdata.obs_names.get_indexer(mdata["prot"].obs_names)
        truth = np.log1p(mdata["prot"][:, [f"prot{i}" for i in range(8)]].X.toarray())

        def error(batch):
            found = query.get_normalized("prot", given="rna", transform_batch=batch)
            return np.abs(np.log1p(found[cells]) - truth).mean()

        unadapted = error("a")
        train(query, 60, lr=0.01)
        assert error("c") < 0.7 * unadapted
        assert error("a") == pytest.approx(unadapted, rel=1e-4)

    def test_the_background_of_sorted_cells_is_that_of_the_reference_times_one_factor(
        self, reference, query_data
    ):
        """Where all cells have a protein, no quantile of their counts is background."""
        of_one_state = [int(n.removeprefix("query_cell")) % 3 == 0 for n in query_data.obs_names]
        dark = query_data[of_one_state].copy()
        bright = dark.copy()
        bright["prot"].X = bright["prot"].X * 4
        before = reference.module.decoders["prot"].log_background.mean(0)
        shifts = [
            load(mdata, reference).module.decoders["prot"].added_background[0] - before
            for mdata in (dark, bright)
        ]
        for shift in shifts:
            assert shift.std() < 1e-6
        assert (shifts[1] - shifts[0]).mean().item() == pytest.approx(np.log(4), abs=0.2)

    @pytest.mark.parametrize("modalities", [("rna",), ("prot",), ("atac", "rna")], ids="+".join)
    def test_may_lack_modalities(self, reference, make_mosaic, train, modalities):
        mdata = as_query(make_mosaic(n=160), modalities=modalities)
        query = train(load(mdata, reference), 2)
        assert query.modalities == ("rna", "atac", "prot")
        for m in query.modalities:
            found = query.get_normalized(m)
            assert found.shape == (mdata.n_obs, reference.adata[m].n_vars)
            assert np.isfinite(found).all()
        if modalities == ("rna",):  # in a batch without protein, as in the one that has it
            np.testing.assert_allclose(
                query.get_normalized("prot"), query.get_normalized("prot", transform_batch="a"), rtol=1e-4
            )

    def test_depths_are_learned_where_they_are_measured(self, reference, make_mosaic, train):
        mdata = as_query(make_mosaic(n=160))
        mdata["atac"].X = mdata["atac"].X * 30
        query = train(load(mdata, reference), 2)
        cells = np.flatnonzero(mdata.obs_names.isin(mdata["rna"].obs_names))
        as_new = query.get_normalized("atac", given="rna", indices=cells)
        other = mdata.copy()
        other.obs["donor"] = "a"
        as_known = query.get_normalized("atac", given="rna", mdata=other, indices=cells)
        assert as_new.sum(1).mean() > 5 * as_known.sum(1).mean()

    @pytest.mark.filterwarnings("ignore:.*rows are NaN")
    def test_is_saved_loaded_and_a_reference_itself(self, reference, query_data, train, tmp_path):
        query = train(load(query_data, reference), 1)
        query.save(tmp_path / "query")
        again = TriVI.load(tmp_path / "query", query_data, accelerator="cpu")
        for m in query.modalities:
            np.testing.assert_array_equal(again.get_normalized(m), query.get_normalized(m))
        assert sum(p.requires_grad for p in again.module.parameters()) == 5
        third = query_data.copy()
        third.obs["donor"] = np.where(np.arange(third.n_obs) % 2, "d", "c")
        second = load(third, again)
        np.testing.assert_array_equal(second.get_latent_representation(), query.get_latent_representation())
        for m in (
            query.modalities
        ):  # at own depth; predicted ones differ, as half of the cells are of another batch
            np.testing.assert_allclose(
                second.get_normalized(m, transform_batch="c", given=m),
                query.get_normalized(m, transform_batch="c", given=m),
                rtol=1e-4,
            )
        train(second, 1)

    @pytest.mark.parametrize("unfrozen", [False, True])
    def test_depths_are_those_of_a_new_fit_where_all_is_trained(
        self, reference, query_data, train, make_model, unfrozen
    ):
        query_data["atac"].X = query_data["atac"].X * 30
        query = train(load(query_data, reference, unfrozen=unfrozen), 1)
        before, now = reference.module.depths["atac"], query.module.depths["atac"]
        assert torch.equal(now.weight[:, :-1], before.weight) != unfrozen
        reset = make_model(query_data).module.depths["atac"].intercept[0]  # what nothing was learned of
        assert now.intercept[0] == (reset if unfrozen else before.intercept[0])
        n_cells = query_data.n_obs if unfrozen else reference.adata.n_obs
        assert query.module.n_cells == n_cells

    @pytest.mark.parametrize("donor", ["a", "c"])
    @pytest.mark.parametrize("unfrozen", [False, True])
    def test_a_file_keeps_what_is_trained(self, reference, query_data, train, tmp_path, donor, unfrozen):
        query_data.obs["donor"] = donor
        query = load(query_data, reference, unfrozen=unfrozen)
        query.save(tmp_path / "query")
        again = TriVI.load(tmp_path / "query", query_data, accelerator="cpu")
        of_both = [[p.requires_grad for p in model.module.parameters()] for model in (query, again)]
        assert of_both[0] == of_both[1]
        if donor == "a" and not unfrozen:  # all of it is the reference's
            with pytest.raises(ValueError, match="nothing to train"):
                train(again, 1)

    def test_without_a_new_batch_there_is_nothing_to_train(self, reference, query_data, train):
        query_data.obs["donor"] = "a"
        query = load(query_data, reference)
        assert np.isfinite(query.get_normalized("prot")).all()
        with pytest.raises(ValueError, match=r"no batch that its reference does not know.*unfrozen=True"):
            train(query, 1)
        unfrozen = load(query_data, reference, unfrozen=True)
        before = state(unfrozen)
        train(unfrozen, 1)
        assert not torch.equal(
            unfrozen.module.encoders["rna"].first.weight, before["encoders.rna.first.weight"]
        )

    def test_proteins_that_the_query_lacks_are_absent_not_zero(self, reference, query_data, train):
        lacking = ["prot1", "prot6"]
        mdata = query_data.copy()
        mdata.mod["prot"] = mdata["prot"][:, ~mdata["prot"].var_names.isin(lacking)].copy()
        mdata.update()
        with pytest.raises(
            ValueError, match=r"modality 'prot' lacks 2 of the model's 8.*prepare_query_mudata"
        ):
            load(mdata, reference)
        filled = TriVI.prepare_query_mudata(mdata, reference)
        query = load(filled, reference)
        assert query.module.measured_prot[1].tolist() == [i not in (1, 6) for i in range(8)]
        z = query.get_latent_representation()
        loud = filled.copy()  # what stands in their place does not matter
        x = loud["prot"].X.toarray()
        x[:, [1, 6]] = 7
        loud["prot"].X = x
        np.testing.assert_allclose(query.get_latent_representation(loud), z, atol=1e-6)
        found = train(query, 2).get_normalized("prot")
        as_reference = query.get_normalized("prot", transform_batch="a")
        np.testing.assert_allclose(found[:, [1, 6]], as_reference[:, [1, 6]], rtol=1e-4)


class TestPrepare:
    def test_order_and_missing_features(self, reference, query_data, caplog):
        mdata = query_data.copy()
        mdata.mod["rna"] = mdata["rna"][:, mdata["rna"].var_names != "rna4"].copy()
        mdata.mod["other"] = AnnData(np.ones((3, 2), np.float32))
        mdata.update()
        with caplog.at_level("WARNING"):
            found = TriVI.prepare_query_mudata(mdata, reference)
        assert "'rna': 1 of the reference's 30 features are missing" in caplog.text
        assert list(found.mod) == ["rna", "atac", "prot"]
        for m in found.mod:
            names = list(reference.adata[m].var_names)
            assert list(found[m].var_names) == names
            assert list(found[m].obs_names) == list(mdata[m].obs_names)
            there = [n for n in names if n in mdata[m].var_names]
            np.testing.assert_array_equal(found[m][:, there].X.toarray(), mdata[m][:, there].X.toarray())
        assert found["rna"][:, "rna4"].X.sum() == 0
        assert found.obs["donor"].notna().all()
        load(found, reference)

    @pytest.mark.parametrize("modalities", [("prot", "rna"), ("prot", "atac", "rna")])
    def test_cells_stay_in_their_order(self, reference, make_mosaic, modalities):
        """Whatever the order of the modalities, and the cells of each."""
        mdata = as_query(make_mosaic(n=60), modalities=modalities)
        rng = np.random.default_rng(0)
        mdata = mdata[rng.permutation(mdata.n_obs)].copy()
        mdata.mod["other"] = AnnData(np.ones((2, 2), np.float32))
        mdata.update()
        mdata.obs["donor"] = "c"
        found = TriVI.prepare_query_mudata(mdata, reference)
        assert list(found.obs_names) == [n for n in mdata.obs_names if n in set(found.obs_names)]
        for m in modalities:
            names = list(mdata[m].var_names)
            there = mdata[m][found[m].obs_names]
            np.testing.assert_array_equal(found[m][:, names].X.toarray(), there.X.toarray())
        load(found, reference)

    def test_too_few_features(self, reference, query_data):
        mdata = query_data.copy()
        mdata["rna"].var_names = [f"ENSG{i}" for i in range(30)]
        with pytest.raises(ValueError, match=r"'rna' has 0 % of the reference's 30 features.*80 %.*'ENSG0'"):
            TriVI.prepare_query_mudata(mdata, reference)

    def test_no_modality(self, reference, query_data):
        for m in list(query_data.mod):
            query_data.mod[f"my {m}"] = query_data.mod.pop(m)
        with pytest.raises(ValueError, match="none of the reference's modalities 'rna', 'atac', 'prot'"):
            TriVI.prepare_query_mudata(query_data, reference)


class TestRefusals:
    def test_no_modality(self, reference, query_data):
        for m in list(query_data.mod):
            query_data.mod[f"my {m}"] = query_data.mod.pop(m)
        with pytest.raises(ValueError, match="none of the model's modalities 'rna', 'atac', 'prot'"):
            load(query_data, reference)

    def test_no_batch_column(self, reference, query_data):
        del query_data.obs["donor"]
        for m in query_data.mod.values():
            m.obs = m.obs[[]]
        with pytest.raises(KeyError, match="no column 'donor'"):
            load(query_data, reference)

    def test_no_model_no_training_no_file(self, reference, query_data, make_model, tmp_path):
        with pytest.raises(TypeError, match="must be a TriVI or the file of one, not dict"):
            load(query_data, {})
        with pytest.raises(ValueError, match=r"the reference is not trained; call its `train\(\)` first"):
            load(query_data, make_model())
        with pytest.raises(FileNotFoundError):
            load(query_data, tmp_path / "nowhere")
        with pytest.raises(TypeError, match="MuData is needed"):
            load(query_data["rna"], reference)

    def test_repeated_names_and_no_mudata(self, reference, query_data):
        query_data["rna"].var_names = [*query_data["rna"].var_names[:-1], query_data["rna"].var_names[0]]
        with pytest.raises(ValueError, match="'rna': 1 of the var names repeat"):
            TriVI.prepare_query_mudata(query_data, reference)
        with pytest.raises(TypeError, match="a MuData is needed, not AnnData"):
            TriVI.prepare_query_mudata(query_data["rna"], reference)

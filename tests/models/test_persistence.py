"""Model files: what was saved comes back bit for bit, and nothing else comes back at all."""

import json
import os
import pickle
import struct
import sys
import zipfile
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as as_bytes

from mmopt.models import TriVI, persistence


def load(path, *args):
    return TriVI.load(path, *args, accelerator="cpu")


@pytest.fixture(scope="module")
def content(fitted, tmp_path_factory):
    """The bytes of an intact file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    fitted.save(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


def split(content):
    """Length of the header, the header, and the tensors of a safetensors file."""
    (n,) = struct.unpack("<Q", content[:8])
    return n, json.loads(content[8 : 8 + n]), content[8 + n :]


def rewrite(path, content, change_header=None, change_tensors=None):
    """Write the file again as someone would who knows the format, after changing its parts."""
    _, outer, _ = split(content)
    header, tensors = json.loads(outer["__metadata__"]["header"]), read_tensors(content)
    header = change_header(header) or header if change_header else header
    if change_tensors:
        change_tensors(tensors)
    persistence.write(path, tensors, header)


class TestRoundTrip:
    def test_answers_are_the_same_bit_for_bit(self, fitted, path, make_mosaic):
        model = load(path, make_mosaic())
        assert all(
            torch.equal(v, fitted.module.state_dict()[k]) for k, v in model.module.state_dict().items()
        )
        np.testing.assert_array_equal(model.get_latent_representation(), fitted.get_latent_representation())
        for m in model.modalities:
            found = model.get_normalized(m, n_samples=2, transform_batch="b")
            np.testing.assert_array_equal(found, fitted.get_normalized(m, n_samples=2, transform_batch="b"))
        pd.testing.assert_frame_equal(model.get_modality_weights(), fitted.get_modality_weights())

    def test_so_are_history_and_split(self, fitted, path):
        model = load(path)
        assert set(model.history) == set(fitted.history)
        for name, column in fitted.history.items():
            pd.testing.assert_frame_equal(model.history[name], column, check_exact=True)
        pd.testing.assert_frame_equal(model.steps_, fitted.steps_, check_exact=True, check_dtype=False)
        for name in ("train_indices", "validation_indices", "test_indices"):
            np.testing.assert_array_equal(getattr(model, name), getattr(fitted, name))
        assert model.is_trained
        assert model.summary_string == fitted.summary_string

    def test_saved_again_the_file_is_the_same(self, path, content, tmp_path, make_mosaic):
        model = load(path, make_mosaic())
        model.get_latent_representation()
        model.save(tmp_path / "again")
        first, again = split(content), split((tmp_path / "again").read_bytes())
        assert first[2] == again[2]
        headers = [json.loads(s[1]["__metadata__"]["header"]) for s in (first, again)]
        assert headers[0] == headers[1]

    def test_data_can_be_given_later(self, fitted, path, make_mosaic):
        model = load(path)
        assert model.adata is None
        with pytest.raises(ValueError, match="no data"):
            model.get_latent_representation()
        with pytest.raises(ValueError, match="no data"):
            model.train()
        found = model.get_latent_representation(make_mosaic())
        np.testing.assert_array_equal(found, fitted.get_latent_representation())

    def test_a_modality_may_be_missing_from_the_first_data_given(self, fitted, path, make_mosaic):
        model = load(path, make_mosaic(modalities=("rna",)))
        expected = fitted.get_latent_representation(make_mosaic(modalities=("rna",)))
        np.testing.assert_array_equal(model.get_latent_representation(), expected)
        assert model.modalities == ("rna", "atac", "prot")

    def test_training_goes_on(self, path, make_mosaic, train):
        model = train(load(path, make_mosaic()), 1)
        assert len(model.history["train_loss"]) == 1

    @pytest.mark.parametrize("modalities", [("rna",), ("atac", "prot")], ids="+".join)
    def test_fewer_modalities_and_other_arguments(self, make_model, train, make_mosaic, tmp_path, modalities):
        mdata = make_mosaic(modalities)
        model = make_model(mdata, n_latent=np.int64(3), atac_rank=7, alignment=0.1, batch_key=None)
        train(model, 1).save(tmp_path / "model")
        again = load(tmp_path / "model", mdata)
        np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())
        assert again.module.alignment == 0.1

    def test_an_untrained_model_stays_untrained(self, make_model, tmp_path):
        make_model().save(tmp_path / "model")
        model = load(tmp_path / "model")
        assert not model.is_trained
        assert model.history is None

    def test_layer_and_highly_variable_features_are_remembered(
        self, make_model, train, make_mosaic, tmp_path
    ):
        mdata = make_mosaic()
        for m in mdata.mod:
            mdata[m].layers["raw"] = mdata[m].X.copy()
            mdata[m].X = np.log1p(mdata[m].X.toarray())
        mdata["rna"].var["highly_variable"] = np.arange(30) < 11
        model = train(make_model(mdata, setup={"layer": "raw"}), 1)
        model.save(tmp_path / "model")
        other = mdata.copy()
        del other["rna"].var["highly_variable"]
        again = load(tmp_path / "model", other)
        np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())

    def test_data_without_the_features_are_refused(self, path, make_mosaic):
        mdata = make_mosaic()
        mdata.mod["prot"] = mdata["prot"][:, 1:].copy()
        with pytest.raises(ValueError, match="modality 'prot' lacks 1 of the model's 8 features"):
            load(path, mdata)


class TestWriting:
    def test_nothing_is_overwritten_unasked(self, fitted, path, content):
        with pytest.raises(FileExistsError, match=r"model\.safetensors exists; pass `overwrite=True`"):
            fitted.save(path)
        assert path.read_bytes() == content
        path.write_bytes(b"something else")
        fitted.save(path, overwrite=True)
        assert split(path.read_bytes())[2] == split(content)[2]

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, fitted, path, content, monkeypatch):
        monkeypatch.setattr(
            os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(OSError, match="No space"):
            fitted.save(path, overwrite=True)
        assert [p.name for p in path.parent.iterdir()] == [path.name]
        assert path.read_bytes() == content

    def test_a_folder_that_is_not_there(self, fitted, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder"):
            fitted.save(tmp_path / "none" / "model")
        with pytest.raises((FileExistsError, IsADirectoryError)):
            fitted.save(tmp_path)

    def test_the_file_holds_tensors_and_text_alone(self, content, path):
        assert not zipfile.is_zipfile(path)
        _, outer, tensors = split(content)
        metadata = outer.pop("__metadata__")
        assert set(metadata) >= {"format", "header"}
        assert all(isinstance(v, str) for v in metadata.values())
        json.loads(metadata["header"])
        assert all(set(entry) == {"dtype", "shape", "data_offsets"} for entry in outer.values())
        assert len(tensors) == max(entry["data_offsets"][1] for entry in outer.values())

    def test_no_count_and_no_cell_name_is_in_the_file(self, content):
        assert b"cell1" not in content


def expect_refusal(path, match=None):
    with pytest.raises(ValueError, match=match or path.name):
        load(path)


class TestDamage:
    def test_no_file(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"no model file .*nothing; `model\.save\(path\)` writes one"
        ):
            load(tmp_path / "nothing")
        with pytest.raises(FileNotFoundError, match="no model file"):
            load(tmp_path)

    def test_truncated_anywhere(self, path, content):
        n, *_ = split(content)
        inside = {0, 1, 7, 8, 9, n // 2, n + 7, n + 8, n + 9, len(content) - 1}
        for length in inside | set(np.linspace(0, len(content) - 1, 35).astype(int).tolist()):
            path.write_bytes(content[:length])
            expect_refusal(path)

    def test_lengthened(self, path, content):
        path.write_bytes(content + b"\0")
        expect_refusal(path)

    def test_a_byte_changed_anywhere(self, path, content):
        """In the header it would rename a feature, in the tensors change a weight: neither may pass in silence."""
        n, *_ = split(content)
        rng = np.random.default_rng(0)
        places = np.concatenate(
            [np.arange(8), rng.integers(8, 8 + n, 60), rng.integers(8 + n, len(content), 30)]
        )
        for place in places.tolist():
            changed = bytearray(content)
            changed[place] ^= int(rng.integers(1, 256))
            path.write_bytes(changed)
            expect_refusal(path)

    def test_noise(self, path):
        rng = np.random.default_rng(0)
        for n in (1, 8, 9, 100, 10_000):
            path.write_bytes(rng.bytes(n))
            expect_refusal(path)
            path.write_bytes(struct.pack("<Q", n) + rng.bytes(n))
            expect_refusal(path)

    def test_a_huge_or_deep_header(self, path):
        deep = b'{"__metadata__":{"format":"mmopt.TriVI","header":"' + b"[" * 100_000 + b'"}}'
        for text in (deep, b"[" * 100_000):
            path.write_bytes(struct.pack("<Q", len(text)) + text)
            expect_refusal(path)
        path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
        expect_refusal(path)


class TestForeign:
    def test_a_torch_file(self, path, fitted):
        torch.save(fitted.module.state_dict(), path)
        expect_refusal(path, "no intact model file")

    def test_a_safetensors_file_of_something_else(self, path):
        for metadata in (None, {"format": "pt"}, {"format": "mmopt.TriVI"}, {"header": "{}"}):
            path.write_bytes(as_bytes({"weight": torch.zeros(2)}, metadata=metadata))
            expect_refusal(path)

    def test_nothing_is_executed(self, tmp_path):
        class Attack:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path}/executed",)

        path = tmp_path / "model.pt"
        for write in (
            lambda: path.write_bytes(pickle.dumps(Attack())),
            lambda: torch.save(Attack(), path),
            lambda: torch.save({"model_state_dict": {}, "attr_dict": Attack(), "var_names": []}, path),
        ):
            write()
            expect_refusal(path, "no intact model file")
            # the doors scvi-tools has beside `load`
            for door in (TriVI.load_registry, lambda p: TriVI.convert_legacy_save(p, tmp_path / "out")):
                with pytest.raises((ValueError, OSError, NotImplementedError)):
                    door(path)
                with pytest.raises((ValueError, OSError, NotImplementedError)):
                    door(tmp_path)
        assert not (tmp_path / "executed").exists()


def set_(tensors, name, value):
    tensors[name] = value


class TestTampering:
    """Files in the right format, checksum and all, whose parts do not belong together."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.pop("log_profile_rna"),
            lambda t: t.pop("encoders.rna.first.weight"),
            lambda t: set_(t, "surplus", torch.zeros(2)),
            lambda t: set_(t, "encoders.rna.first.weight", torch.zeros(16, 29)),
            lambda t: set_(t, "encoders.rna.first.weight", torch.zeros(30, 16)),
            lambda t: set_(t, "n_cells", torch.zeros(2)),
            lambda t: t["encoders.rna.first.weight"].fill_(torch.nan),
            lambda t: set_(t, "encoders.rna.first.bias", torch.zeros(16, dtype=torch.int64)),
            lambda t: set_(t, "encoders.rna.first.bias", torch.zeros(16, dtype=torch.complex64)),
            lambda t: t.clear(),
        ],
        ids=[
            "buffer missing",
            "weight missing",
            "surplus",
            "too small",
            "transposed",
            "not a scalar",
            "not finite",
            "integers",
            "complex",
            "empty",
        ],
    )
    def test_tensors(self, path, content, change):
        rewrite(path, content, change_tensors=change)
        expect_refusal(path, "does not hold together|has been changed|no intact")

    @pytest.mark.parametrize(
        "name",
        ["format_version", "arguments", "registry", "split", "history", "steps", "trained", "versions"],
    )
    def test_a_part_of_the_header_removed(self, path, content, name):
        header = json.loads(split(content)[1]["__metadata__"]["header"])
        header.pop(name)
        raw_write(path, content, header)
        expect_refusal(path)

    def test_a_file_that_says_not_what_was_frozen(self, path, content):
        """As those that were written before this was kept."""
        rewrite(path, content, change_header=lambda header: header.pop("unfrozen") and None)
        assert all(p.requires_grad for p in load(path).module.parameters())

    @pytest.mark.parametrize("version", [0, 1, None, "2", 1.5])
    def test_another_version_of_the_format(self, path, content, version):
        header = json.loads(split(content)[1]["__metadata__"]["header"]) | {"format_version": version}
        raw_write(path, content, header)
        expect_refusal(
            path,
            f"has format {version!r}, this version of mmopt reads 2; read it with the version that wrote it",
        )

    @pytest.mark.parametrize("header", [[], "text", 3, None, {}], ids=str)
    def test_a_header_that_is_none(self, path, content, header):
        raw_write(path, content, header)
        expect_refusal(path)

    def test_nothing_but_refusals_whatever_is_removed_or_replaced(self, path, content, make_mosaic):
        """Places of the header, gone or holding something else: the model loads and takes data, or a ValueError."""
        intact = split(content)[1]["__metadata__"]["header"]
        mdata = make_mosaic()
        values = (..., None, "text", -1, 10**30, 1.5, [], {}, [[1]], {"a": {}})
        cases = [(where, value) for where in places(json.loads(intact)) for value in values]
        some = [cases[i] for i in np.random.default_rng(0).permutation(len(cases))[:100]]
        state = ("registry", "field_registries", "rna", "state_registry")
        some += [((*state, "modality"), []), ((*state, "features", 0), {}), (("split", "train"), 10**30)]
        some += [(("registry", "setup_args", "batch_key"), True), (("split", "validation", 0), 10**30)]
        n_refused = 0
        for (*above, last), value in some:
            header = parent = json.loads(intact)
            for key in above:
                parent = parent[key]
            if value is ...:
                del parent[last]
            else:
                parent[last] = value
            raw_write(path, content, header)
            # another setup may not fit the data, which is a KeyError that names what the data lack
            of_setup = "registry" in above
            accepted = (ValueError, KeyError) if of_setup else (ValueError,)
            try:
                load(path, mdata if of_setup else None)
            except Exception as error:  # noqa: BLE001  this is what the test looks for
                assert isinstance(error, accepted), f"{(*above, last)} = {value}: {error!r}"
                n_refused += 1
        assert 30 < n_refused < 105


def places(tree, above=(), depth=4):
    """Paths of all entries of nested dictionaries, and of the first entry of each list."""
    entries = (
        tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    )
    for key, value in entries:
        yield (*above, key)
        if depth:
            yield from places(value, (*above, key), depth - 1)


def raw_write(path, content, header):
    """Write a file in the right format, with any header."""
    with patch.object(json, "dumps", return_value=json.dumps(header)):
        persistence.write(path, read_tensors(content), {})


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes")
def test_a_disk_that_is_full_in_the_middle(fitted, make_model, train, path, content, tmp_path):
    """A real limit, met while writing: the old file stays as it was and nothing lies beside it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(act):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, hard))
        try:
            with pytest.raises((OSError, RuntimeError), match=r"[Tt]oo large|write|writing"):
                act()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    limited(lambda: fitted.save(path, overwrite=True))
    assert path.read_bytes() == content
    checkpoint = tmp_path / "run.ckpt"
    limited(lambda: train(make_model(), 2, checkpoint=checkpoint))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

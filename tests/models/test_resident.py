import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmopt.models import resident
from mmopt.models.data import MosaicSplitter
from mmopt.models.resident import ResidentRows
from mmopt.models.sparse import Csr


@pytest.mark.parametrize("rows", [[3, 0, 3, 7], [1], []])
def test_gives_the_rows_a_loader_would(rows):
    x = np.random.default_rng(0).poisson(0.7, (9, 6)).astype(np.float32)
    x[3] = 0
    x, rows = sp.csr_matrix(x), np.array(rows, int)
    for one, other in zip(ResidentRows(x, torch.device("cpu"))[rows], Csr.of(x[rows]), strict=True):
        assert one.equal(other)
        assert one.dtype == other.dtype


def test_minibatches_are_the_same(make_model, monkeypatch):
    splitter = MosaicSplitter(make_model().adata_manager, batch_size=16)
    expected = list(splitter.train_dataloader())
    splitter.reside(torch.device("cpu"))  # stays where it is: there is nothing to be saved
    assert splitter.train_dataloader().dataset.resident == {}
    monkeypatch.setattr("mmopt.models.data.fits", lambda *_: True)
    splitter.reside(torch.device("cpu"))
    for one, other in zip(splitter.train_dataloader(), expected, strict=True):
        flat = (torch.utils._pytree.tree_leaves(b) for b in (one, other))
        assert all(a.equal(b) for a, b in zip(*flat, strict=True))


def test_only_what_fits_goes_to_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    small, large = (sp.csr_matrix(np.ones((n, 5), np.float32)) for n in (2, 20))
    cuda = torch.device("cuda")
    assert resident.fits({"rna": small}, cuda)
    assert not resident.fits({"rna": small, "atac": large}, cuda)
    assert not resident.fits({"rna": small}, torch.device("cpu"))


def test_counts_leave_the_device_after_training(make_model, train, monkeypatch):
    """The trainer, which the model keeps, keeps its loaders, and a second network needs the room."""
    model, taken = make_model(n_networks=2), []
    model.trainer = None

    def fits(*_):
        loader = getattr(model.trainer, "train_dataloader", None)
        taken.append(0 if loader is None else len(loader.dataset.resident))
        return True

    monkeypatch.setattr("mmopt.models.data.fits", fits)
    train(model, 1)
    assert taken == [0, 0]
    loaders = model.trainer.train_dataloader, model.trainer.val_dataloaders
    assert [loader.dataset.resident for loader in loaders] == [{}, {}]
    assert len(next(iter(loaders[0]))["rna_rows"])

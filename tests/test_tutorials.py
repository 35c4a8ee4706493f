"""The tutorials run, in one kernel and with short training, and the notebooks beside them are theirs."""

import importlib
import os
import re
import sys
from pathlib import Path

import jupyter_client
import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "tutorials"
NAMES = sorted(page.stem for page in FOLDER.glob("*.md"))
each = pytest.mark.parametrize("name", NAMES)

# whatever trains does so for two epochs or twenty steps, the toy data are a third of themselves, and what is left at its
# default is small. numba compiles nothing of UMAP, which takes longer than these few cells: so UMAP has one epoch, and the
# neighbours that muon finds by a metric of its own are those of the plain distance
BRIEFLY = """
import importlib
import warnings
import lightning.pytorch
import matplotlib
import numba
import scanpy  # before what follows: it needs its compiled functions
import sklearn.neighbors
import mmopt as mm
numba.config.DISABLE_JIT = True
import muon._core.preproc
import umap.umap_
numba.config.DISABLE_JIT = False
warnings.filterwarnings("ignore")
def _exact(points, n_neighbors, metric_kwds, _index=sklearn.neighbors.NearestNeighbors, **_):
    points = metric_kwds.get("X", points)
    found = _index(n_neighbors=n_neighbors).fit(points).kneighbors(points)
    return found[1], found[0], None
muon._core.preproc.nearest_neighbors = _exact
def _one_epoch(*args, n_epochs=None, _whole=umap.umap_.simplicial_set_embedding, **kwargs):
    return _whole(*args, n_epochs=1, **kwargs)
umap.umap_.simplicial_set_embedding = _one_epoch
def _toy(_whole=mm.datasets.toy):
    mdata = _whole()
    return mdata[mdata.obs_names[::3]].copy()
mm.datasets.toy = _toy
mm.tl.regulons.__kwdefaults__["n_boot"] = 6
mm.tl.perturb.__kwdefaults__["n_null"] = 5
mm.tl.reprogram.__kwdefaults__ |= {"n_starts": 1, "n_evaluations": 4}
mm.tl.simulate.__kwdefaults__["n_cells"] = 30
mm.tl.landscape.__kwdefaults__ |= {"n_points": 5, "n_cells": 60}
def _brief(self, *args, max_epochs=None, _whole=lightning.pytorch.Trainer.__init__, **kwargs):
    _whole(self, *args, max_epochs=min(max_epochs, 2), **kwargs)
lightning.pytorch.Trainer.__init__ = _brief
import mmopt.models.fitting
mmopt.models.fitting.default_epochs = lambda *_: 2
for _name in ("_twin", "_evaluate_twin"):
    _module = importlib.import_module(f"mmopt.tl.{_name}")
    def _few(*args, n_steps, _whole=_module.fit_flow, **kwargs):
        return _whole(*args, n_steps=min(n_steps, 20), **kwargs)
    _module.fit_flow = _few
"""


@pytest.fixture(scope="module")
def execute():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("execute")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all: what costs most is the import of torch and scvi-tools."""
    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    first = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BRIEFLY)])
    nbclient.NotebookClient(first, km=manager, timeout=300).execute(cleanup_kc=False)
    yield manager
    manager.shutdown_kernel(now=True)


@each
def test_a_tutorial_runs(name, execute, kernel, tmp_path):
    notebook = execute.source(name)
    folder = nbformat.v4.new_code_cell(f"%reset -f\nimport os\nos.chdir({str(tmp_path)!r})")
    notebook.cells.insert(0, folder)
    nbclient.NotebookClient(notebook, km=kernel, timeout=300).execute(cleanup_kc=False)


@each
def test_the_notebook_is_that_of_the_text(name, execute):
    text, notebook = execute.source(name), nbformat.read(FOLDER / f"{name}.ipynb", 4)
    assert [(c.cell_type, c.source) for c in text.cells] == [(c.cell_type, c.source) for c in notebook.cells]
    kept = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in kept)
    assert not any(o.output_type == "error" for o in kept)
    stored = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(stored) < 900_000
    assert not re.search(r"/(home|root|tmp|Users|work)/", stored)


def test_every_tutorial_is_on_the_page():
    page = (FOLDER.parent / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert set(NAMES) == set(re.findall(r"^tutorials/(\w+)$", page, re.M))

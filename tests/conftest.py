import os
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("agg")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def toy_source():
    import mmopt as mm

    return mm.datasets.toy()


@pytest.fixture
def toy(toy_source):
    """Toy data of one's own."""
    return toy_source.copy()


@pytest.fixture(scope="session")
def fitted(toy_source):
    """Toy data after a short fit, and the model. Not to be changed."""
    import mmopt as mm

    mdata = toy_source.copy()
    model = mm.tl.integrate(mdata, batch_key="donor", max_epochs=4, accelerator="cpu", progress_bar=False)
    return mdata, model


@pytest.fixture(scope="session")
def real_data():
    """Folder of the real data sets, which are not part of the repository."""
    folder = Path(os.environ.get("MMOPT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set MMOPT_DATA to their folder ({folder} does not exist)")
    return folder

import logging
import subprocess
import sys
import warnings
from io import BytesIO

import anndata
import matplotlib
import mudata
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mmopt._compat import layer_names, override_pull_on_update, own_copy, rasterize, versions


def pull_on_update():
    if hasattr(mudata, "settings"):
        return mudata.settings.pull_on_update
    from mudata._core.config import OPTIONS

    return OPTIONS["pull_on_update"]


def modality(batch="a"):
    return anndata.AnnData(
        np.ones((2, 1), dtype=np.float32), obs=pd.DataFrame({"batch": [batch, batch]}, index=["c0", "c1"])
    )


def test_nothing_is_pulled_into_obs_and_the_setting_comes_back():
    before, handlers = pull_on_update(), list(logging.getLogger().handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # what mudata 0.3 says where it pulls
        with override_pull_on_update():
            mdata = mudata.MuData({"rna": modality()})
    assert list(mdata.obs.columns) == []
    assert pull_on_update() == before
    assert logging.getLogger().handlers == handlers


def test_the_setting_comes_back_after_an_error():
    before = pull_on_update()
    with pytest.raises(RuntimeError, match="inside"), override_pull_on_update():
        assert pull_on_update() is False
        raise RuntimeError("inside")
    assert pull_on_update() == before


def test_layer_names_leave_x_out():
    adata = modality()
    adata.layers["counts"] = adata.X
    assert layer_names(adata) == ["counts"]


def test_what_can_be_rasterized_is_and_contours_never_warn():
    figure = Figure()
    ax = figure.add_subplot()
    points, bands = ax.scatter([0, 1], [0, 1]), ax.contourf([[0, 1], [1, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rasterize(points)
        rasterize(bands)
        figure.savefig(BytesIO(), format="svg")
    new_enough = tuple(map(int, matplotlib.__version__.split(".")[:2])) >= (3, 11)
    assert (points.get_rasterized(), bool(bands.get_rasterized())) == (True, new_enough)


def test_versions_are_read_without_imports():
    script = (
        "import sys; from mmopt._compat import versions; found = versions(); "
        "assert not {'torch', 'scvi', 'scanpy', 'mudata', 'anndata'} & set(sys.modules); print(sorted(found))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(sorted(versions()))
    assert versions()["numpy"] == np.__version__
    assert {"mudata", "anndata", "torch", "pandas"} <= set(versions())


def test_backed_data_are_not_copied_in_silence(tmp_path):
    with override_pull_on_update():
        mudata.MuData({"rna": modality()}).write_h5mu(tmp_path / "x.h5mu")
        backed = mudata.read_h5mu(tmp_path / "x.h5mu", backed=True)
        with pytest.raises(ValueError, match=r"backed by a file: read it into memory .*copy=False"):
            own_copy(backed)
        assert own_copy(mudata.read_h5mu(tmp_path / "x.h5mu")).n_obs == 2

import matplotlib
import numpy as np
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from mudata import MuData

import mmopt as mm
from mmopt._compat import override_pull_on_update

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def mdata():
    """Cells on a square whose embedding is the place itself; the perturbation moves all to the right, chance nobody."""
    rng = np.random.default_rng(0)
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(np.ones((2000, 1), np.float32))})
    place = rng.uniform(0, 10, (2000, 2))
    mdata.obsm["X_umap"] = place
    mdata.obsm["X_mmopt"] = np.hstack([place, np.zeros((2000, 1))])
    moved = mdata.obsm["X_mmopt"] + [1.0, 0, 0]
    moved[:10] = np.nan  # not asked for
    mdata.obsm["X_mmopt_A_knockout"] = moved
    mdata.obsm["X_mmopt_A_knockout_null"] = mdata.obsm["X_mmopt"].copy()
    mdata.uns["perturb"] = {"A_knockout": {"effects": 0}}
    return mdata


def test_a_basis_is_named_as_in_scanpy(mdata):
    axes = mm.pl.perturbation_embedding(mdata, basis="umap", show=False)
    expected = mm.pl.perturbation_embedding(mdata, basis="X_umap", show=False)
    np.testing.assert_array_equal(axes[0].collections[1].U, expected[0].collections[1].U)


@pytest.mark.parametrize("width", [3.5, 7])
def test_arrows_point_where_cells_go_and_the_null_stands_beside(mdata, width):
    axes = mm.pl.perturbation_embedding(mdata, width=width, show=False)
    assert [ax.get_title() for ax in axes] == ["A knockout", "shuffled targets"]
    real, null = (ax.collections[1] for ax in axes)
    inner = (real.X > 1) & (real.X < 8)
    assert (real.U[inner] > 0.3).all()
    assert np.abs(real.V[inner]).max() < 0.3 * real.U[inner].mean()
    assert np.hypot(null.U, null.V).max() < 1e-9
    # one scale: the longest arrow of both is one square and a half of the grid
    assert np.hypot(real.U, real.V).max() == pytest.approx(
        1.5 * np.ptp(mdata.obsm["X_umap"], axis=0).max() / 18
    )


def test_refusals(mdata):
    with pytest.raises(ValueError, match="n_grid must be at least 2"):
        mm.pl.perturbation_embedding(mdata, n_grid=1)
    with pytest.raises(ValueError, match="basis='X_mmopt' has shape"):
        mm.pl.perturbation_embedding(mdata, basis="X_mmopt")
    with pytest.raises(KeyError, match="no result 'B_knockout'"):
        mm.pl.perturbation_embedding(mdata, "B_knockout")
    del mdata.obsm["X_mmopt_A_knockout_null"]
    with pytest.raises(
        KeyError, match=r"X_mmopt_A_knockout_null.*call `mm.tl.perturb\(mdata, ..., model=model\)`"
    ):
        mm.pl.perturbation_embedding(mdata)
    del mdata.obsm["X_umap"]
    with pytest.raises(KeyError, match=r"sc\.tl\.umap"):
        mm.pl.perturbation_embedding(mdata)
    with pytest.raises(KeyError, match=r"call `mm.tl.perturb\(mdata, ...\)` first"):
        mm.pl.perturbation_embedding(MuData({"rna": mdata["rna"]}))


def test_the_embedding_of_the_model_may_have_another_name(mdata):
    mdata.obsm["X_mine"] = mdata.obsm.pop("X_mmopt")
    axes = mm.pl.perturbation_embedding(mdata, "A_knockout", use_rep="X_mine", show=False)
    assert len(axes) == 2

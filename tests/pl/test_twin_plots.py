import numpy as np
import pytest
from matplotlib import pyplot as plt

import mmopt as mm

CALLS = {"trajectories": (), "fates": (), "dynamics": (["GATA1", "KLF1"],), "quasi_potential": ()}
each_plot = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@each_plot
def test_draws_and_leaves_the_data_alone(twinned, name):
    before = set(twinned.uns)
    fig = getattr(mm.pl, name)(twinned, *CALLS[name], return_fig=True)
    fig.canvas.draw()
    assert set(twinned.uns) == before
    assert len(fig.axes) >= 1


@each_plot
def test_without_the_slot(twinned, name):
    mdata = twinned.copy()
    del mdata.uns["twin"], mdata.uns["simulate"]
    with pytest.raises(KeyError, match=r"call `mm.tl.(twin|simulate)"):
        getattr(mm.pl, name)(mdata, *CALLS[name])


def test_fates_show_both_arms_and_the_window(twinned):
    axes = mm.pl.fates(twinned, show=False, labels=["erythrocyte", "monocyte"])
    assert [ax.get_title() for ax in axes] == ["erythrocyte", "monocyte"]
    table = twinned.uns["simulate"]["fate_time"]
    for ax in axes:
        drawn = [line.get_ydata() for line in ax.lines]
        rows = table[table["label"] == ax.get_title()]
        np.testing.assert_allclose(drawn[0], rows[rows["arm"] == "wild_type"]["p"])
        np.testing.assert_allclose(drawn[1], rows[rows["arm"] == "perturbed"]["p"])
    with pytest.raises(KeyError, match="labels: no 'HSC'"):
        mm.pl.fates(twinned, labels=["HSC"])


def test_dynamics_of_features(twinned):
    axes = mm.pl.dynamics(twinned, ["rna:GATA1", "KLF1"], show=False)
    assert axes[0].get_title() == "GATA1 (RNA)"
    with pytest.raises(KeyError, match="was not read out"):
        mm.pl.dynamics(twinned, ["NOGENE"])
    with pytest.raises(ValueError, match="a list of names"):
        mm.pl.dynamics(twinned, [])
    assert mm.pl.dynamics(twinned, "GATA1", show=False)[0].get_title() == "GATA1 (RNA)"


def test_valleys_of_the_landscape_lie_where_the_cells_are(twinned):
    from mmopt.pl._plane import Plane, times_of
    from mmopt.pl._quasi_potential import _surface

    plane = Plane(twinned, "X_pca")
    time, times, _ = times_of(twinned.uns["twin"])
    edges, height, _ = _surface(plane.cells, time, times, 0.0)
    i, j = (np.clip(np.searchsorted(e, c) - 1, 0, 89) for e, c in zip(edges, plane.cells.T, strict=True))
    assert np.median(height[i, j]) < np.median(height) - 0.5
    tilted = _surface(plane.cells, time, times, 3.0)[1] - height
    assert tilted[i, j][time == 8].mean() < tilted[i, j][time == 0].mean() - 0.7

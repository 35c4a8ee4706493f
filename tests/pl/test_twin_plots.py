import numpy as np
import pytest
from matplotlib import pyplot as plt

import mmopt as mm
from mmopt._compat import override_pull_on_update

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


def test_a_single_label_and_none(twinned):
    (ax,) = mm.pl.fates(twinned, show=False, labels="monocyte")
    assert ax.get_title() == "monocyte"
    plt.close("all")
    with pytest.raises(ValueError, match="labels: an empty list; name one or more of '"):
        mm.pl.fates(twinned, labels=[])
    assert not plt.get_fignums()


def with_interventions(mdata, n, name="GENE{}"):
    """The data, as if ``n`` interventions had been simulated."""
    mdata = mdata.copy()
    names = {"features": [name.format(i) for i in range(n)], "modes": ["overexpress"] * n}
    simulation = mdata.uns["simulate"]
    mdata.uns["simulate"] = {**simulation, "params": {**simulation["params"], **names}}
    return mdata


def lies_inside(legend, fig):
    fig.canvas.draw()
    box, page = legend.get_window_extent(), fig.bbox
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1


@pytest.mark.parametrize("width", [3.5, 7])
@pytest.mark.parametrize("n", [1, 2, 6, 20])
def test_legends_stay_on_the_page(twinned, width, n):
    mdata = with_interventions(twinned, n)
    for fig in (
        mm.pl.fates(mdata, width=width, return_fig=True),
        mm.pl.dynamics(mdata, ["GATA1"], width=width, return_fig=True),
    ):
        (legend,) = fig.legends
        assert lies_inside(legend, fig)
        text = legend.get_texts()[1].get_text().replace("\n", " ")
        assert text.startswith("GENE0 overexpress") and text.endswith(", 90 % interval")
        assert ("15 more" in text) is (n == 20)


@pytest.mark.parametrize("name", ["GENE{}", "atac:chr{}-100000000-100000900-of-a-long-name"])
@pytest.mark.parametrize("n", [1, 2, 6, 20])
def test_the_legend_of_paths_stays_on_the_page_too(twinned, n, name):
    mdata = with_interventions(twinned, n, name)
    ax = mm.pl.trajectories(mdata, show=False)
    assert lies_inside(ax.get_legend(), ax.figure)
    fig, (_, ax) = plt.subplots(1, 2)
    mm.pl.trajectories(with_interventions(twinned, n), ax=ax)
    assert lies_inside(ax.get_legend(), fig)


@pytest.mark.parametrize("width", [3.5, 7])
def test_the_last_panel_of_each_column_has_its_times(twinned, width):
    labels = list(dict.fromkeys(twinned.uns["simulate"]["fate_time"]["label"]))[:5]
    axes = mm.pl.fates(twinned, labels=labels, width=width, show=False)
    columns = [ax.get_subplotspec().colspan.start for ax in axes]
    last = [column not in columns[i + 1 :] for i, column in enumerate(columns)]
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in axes] == last


def test_dynamics_of_features(twinned):
    axes = mm.pl.dynamics(twinned, ["rna:GATA1", "KLF1"], show=False)
    assert axes[0].get_title() == "GATA1 (RNA)"
    with pytest.raises(KeyError, match="was not read out"):
        mm.pl.dynamics(twinned, ["NOGENE"])
    with pytest.raises(ValueError, match="a list of names"):
        mm.pl.dynamics(twinned, [])
    assert mm.pl.dynamics(twinned, "GATA1", show=False)[0].get_title() == "GATA1 (RNA)"


def test_paths_are_those_of_the_twin_that_is_drawn(twinned):
    mdata = twinned.copy()
    mdata.obsm["X_short"] = mdata.obsm["X_pca"][:, :3]
    twin = mdata.uns["twin"]
    mdata.uns["second"] = {**twin, "params": {**twin["params"], "use_rep": "X_short"}}
    n_lines = [len(mm.pl.quasi_potential(mdata, key=key, show=False).lines) for key in ("twin", "second")]
    assert n_lines == [12, 0]
    plt.close("all")
    with pytest.raises(
        ValueError, match="simulation='simulate' is of the twin 'twin'; draw it with `key='twin'`"
    ):
        mm.pl.quasi_potential(mdata, key="second", simulation="simulate")
    with pytest.raises(KeyError, match="no 'other'"):
        mm.pl.quasi_potential(mdata, simulation="other")
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", ["trajectories", "quasi_potential"])
def test_other_cells_than_those_of_the_twin_are_refused(twinned, name):
    with override_pull_on_update():
        part = twinned[twinned.obs_names[:450]].copy()
        turned = twinned[twinned.obs_names[::-1]].copy()
    moved = twinned.copy()
    moved.obsm["X_pca"] = 1 - moved.obsm["X_pca"]
    for mdata, message in (
        (part, r"fitted to \d+ cells, there are 450"),
        (turned, "in another order"),
        (moved, "is not the embedding"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*call `mm.tl.twin` again"):
            getattr(mm.pl, name)(mdata)
    assert not plt.get_fignums()


def test_valleys_of_the_landscape_lie_where_the_cells_are(twinned):
    from mmopt.pl._plane import Plane, times_of
    from mmopt.pl._quasi_potential import _surface

    plane = Plane(twinned, "X_pca")
    time, times, _ = times_of(twinned, twinned.uns["twin"])
    edges, height, _ = _surface(plane.cells, time, times, 0.0)
    i, j = (np.clip(np.searchsorted(e, c) - 1, 0, 89) for e, c in zip(edges, plane.cells.T, strict=True))
    assert np.median(height[i, j]) < np.median(height) - 0.5
    tilted = _surface(plane.cells, time, times, 3.0)[1] - height
    assert tilted[i, j][time == 8].mean() < tilted[i, j][time == 0].mean() - 0.7

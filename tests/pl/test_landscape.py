import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.text import Text
from mudata import MuData, read_h5mu

from mmopt.pl import landscape

X, Y = np.linspace(-1, 1, 9), np.linspace(-2, 2, 7)
BOWL = 300 + X**2 + 3 * Y[:, None] ** 2


@pytest.fixture(autouse=True)
def _no_windows():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def with_uns(uns):
    mdata = MuData({"rna": AnnData(np.ones((2, 2), dtype=np.float32))})
    mdata.uns.update(uns)
    return mdata


def data(**slot):
    return with_uns({"landscape": {"directions": "random"} | slot})


def plane(**more):
    return data(x=X, y=Y, loss=BOWL, loss_rna=0.5 * BOWL, loss_steep=np.exp(8 * (BOWL - 300)), **more)


def lines(**more):
    draws = np.stack([300 + a * X**2 for a in (1.0, 2.0, 4.0)])
    return data(x=X, loss=draws, loss_rna=draws / 2, **more)


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_contours_mark_the_fit_and_rise_from_the_lowest_point():
    ax = landscape(plane(), show=False)
    assert ax.get_title() == "Loss"
    (star,) = ax.lines
    assert star.get_xydata().tolist() == [[0, 0]]
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 1), (-2, 2))
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == "Loss above lowest (nats per cell)"
    assert tick_labels(bar.yaxis) == ["0", "0.1", "0.2", "0.5", "1", "2", "5", "10"]


def test_contour_lines_lie_at_their_value():
    ax = landscape(plane(), show=False)
    lines = next(c for c in ax.collections if len(c.get_paths()) == len(c.levels) and c.levels[-1] == 10)
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        if len(path.vertices):
            x, y = path.vertices.T
            np.testing.assert_allclose(x**2 + 3 * y**2, level, atol=0.01)


def test_a_huge_range_is_logarithmic_and_a_non_finite_corner_is_left_out():
    mdata = plane()
    ax = landscape(mdata, modality="steep", show=False)
    assert ax.get_title() == "steep"
    ticks = [float(t) for t in tick_labels(ax.figure.axes[1].yaxis)]
    assert ticks[0] == 0
    np.testing.assert_allclose(np.diff(np.log10(ticks[1:])), 1)
    assert len(ticks) == 7
    mdata.uns["landscape"]["loss"] = np.where(X + Y[:, None] > 2, np.inf, BOWL)
    for kind in ("contour", "surface"):
        landscape(mdata, kind=kind, show=False).figure.canvas.draw()


def test_a_flat_loss_can_be_drawn():
    for kind in ("contour", "surface"):
        landscape(data(x=X, y=Y, loss=np.full((7, 9), 3.0)), kind=kind, show=False).figure.canvas.draw()


def test_the_trajectory_and_its_null_are_shown():
    path = np.array([[0.9, 1.5], [0.4, -1.0], [0.0, 0.0]])
    variance = {"explained_variance": np.array([0.9, 0.06]), "null_explained_variance": np.array([0.8, 0.1])}
    mdata = plane(trajectory=path, **variance)
    ax = landscape(mdata, show=False)
    # the run, and dotted from its last iterate to the fit
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), path[:-1])
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), path[-2:])
    assert (ax.lines[0].get_linestyle(), ax.lines[1].get_linestyle()) == ("-", ":")
    assert ax.get_xlabel() == "PC 1: 90% (random walk 80%)"
    assert ax.get_ylabel() == "PC 2: 6% (random walk 10%)"
    surface = landscape(mdata, kind="surface", show=False)
    x, y, z = surface.lines[0].get_data_3d()
    np.testing.assert_array_equal(np.stack([x, y], 1), path[:-1])
    assert z[0] > z[1] > 0
    assert [ends[-1] for ends in surface.lines[2].get_data_3d()] == [0, 0, 0]


def test_hessian_directions_are_named_by_their_eigenvalues():
    ax = landscape(plane(hessian_eigenvalues=np.array([1408.19, 3.5])), show=False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Eigenvector 1 (λ = 1408)", "Eigenvector 2 (λ = 3.5)")


def test_random_directions_have_no_other_name():
    ax = landscape(plane(), show=False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Random direction 1", "Random direction 2")
    assert landscape(lines(), show=False).get_xlabel() == "Random direction"


def test_given_labels_are_used():
    ax = landscape(plane(x_label="away from Adam", y_label="across"), show=False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("away from Adam", "across")


def test_a_surface_puts_the_fit_at_its_height():
    ax = landscape(plane(), kind="surface", modality="rna", show=False)
    assert ax.name == "3d" and ax.get_title() == "RNA loss"
    floor, fit = (line.get_data_3d()[2][0] for line in ax.lines)
    assert floor < 0 and fit == 0


def test_lines_show_the_median_and_the_range_of_the_draws():
    ax = landscape(lines(), show=False)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([X, 300 + 2 * X**2], 1))
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (300, 304)
    assert ax.get_title() == "Median and range of 3 directions"


def test_the_fit_is_marked_on_a_line():
    line = data(
        x=X,
        loss=300 + (X - 0.5) ** 2,
        explained_variance=np.array([0.9]),
        null_explained_variance=np.array([0.8]),
    )
    ax = landscape(line, show=False)
    assert ax.lines[1].get_xydata().tolist() == [[0, 300.25]]
    assert ax.get_xlabel() == "PC 1: 90% (random walk 80%)"


def test_several_parts_are_compared_from_the_fit():
    ax = landscape(lines(), modality=["loss", "rna"], show=False)
    np.testing.assert_allclose([line.get_ydata() for line in ax.lines], [2 * X**2, X**2], atol=1e-12)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["Loss", "RNA loss"]
    assert ax.get_ylabel() == "Loss above the fit\n(nats per cell)"


def test_lines_of_a_plane_are_its_cross_sections():
    ax = landscape(plane(), kind="line", show=False)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([X, 300 + X**2], 1))
    np.testing.assert_allclose(ax.lines[1].get_xydata(), np.stack([Y, 300 + 3 * Y**2], 1))


def test_a_path_shows_its_barrier():
    x = np.linspace(0, 1, 11)
    path = data(directions="path", x=x, loss=np.sin(np.pi * x) + x, barrier={"loss": 0.437})
    ax = landscape(path, show=False)
    assert ax.get_title() == "Barrier: 0.437"
    assert ax.get_xlabel() == "Position between the two fits"
    path.uns["landscape"]["loss_rna"] = 7 + x
    ax = landscape(path, modality=["loss", "rna"], show=False)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), x)
    assert ax.get_ylabel() == "Loss above the first fit\n(nats per cell)"


@pytest.mark.parametrize(
    "variance", [{}, {"explained_variance": [0.9, 0.06], "null_explained_variance": [0.8, 0.1]}]
)
def test_no_label_of_a_surface_leaves_the_figure(variance):
    fig = landscape(plane(**variance), kind="surface", return_fig=True)
    fig.canvas.draw()
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text():
            box = text.get_window_extent()
            assert fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1, text
            assert fig.bbox.y0 <= box.y0 and box.y1 <= fig.bbox.y1, text


def test_given_axes_are_used_and_nothing_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    fig, ax = plt.subplots(figsize=(12, 9))
    assert landscape(lines(), ax=ax) is ax
    assert landscape(lines(), ax=ax, return_fig=True) is fig
    assert ax.xaxis.label.get_size() > 12  # grows with the panel
    assert not shown
    assert landscape(lines(), ax=ax, show=True) is None
    assert landscape(lines(), show=True) is None
    assert len(shown) == 2


def test_the_users_style_is_left_alone():
    before = dict(plt.rcParams)
    landscape(plane(), show=False)
    assert dict(plt.rcParams) == before


def test_the_slot_survives_a_file(tmp_path):
    mdata = MuData({"rna": AnnData(np.ones((3, 2), dtype=np.float32))})
    mdata.uns["landscape"] = plane(trajectory=np.zeros((2, 2)), params={"n_points": 9}).uns["landscape"]
    mdata.write_h5mu(tmp_path / "fit.h5mu")
    drawn = [landscape(m, show=False) for m in (mdata, read_h5mu(tmp_path / "fit.h5mu"))]
    first, second = (np.concatenate([c.get_paths()[0].vertices for c in ax.collections]) for ax in drawn)
    np.testing.assert_array_equal(first, second)


def test_torch_is_not_needed():
    code = "import sys; from mmopt.pl import landscape; assert callable(landscape); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_refusals():
    with pytest.raises(KeyError, match=r"no 'landscape' .*call `mm.tl.landscape\(mdata, model\)` first"):
        landscape(with_uns({}))
    with pytest.raises(KeyError, match=r"no loss 'atac'; choose from \['loss', 'rna', 'steep'\]"):
        landscape(plane(), modality="atac")
    with pytest.raises(
        ValueError, match=r"modality: an empty list; name one or more of \['loss', 'rna', 'steep'\]"
    ):
        landscape(plane(), modality=[], kind="line")
    with pytest.raises(ValueError, match="kind='heatmap' is not known"):
        landscape(plane(), kind="heatmap")
    with pytest.raises(ValueError, match="holds lines, not a plane; plot it with `kind='line'`"):
        landscape(lines(), kind="surface")
    with pytest.raises(
        ValueError, match=r"a contour shows one part of the loss; plot \['loss', 'rna'\] one at a time"
    ):
        landscape(plane(), modality=["loss", "rna"])
    with pytest.raises(ValueError, match="a surface needs 3-D axes, these are 'rectilinear'"):
        landscape(plane(), kind="surface", ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="a contour needs flat axes, these are '3d'"):
        landscape(plane(), ax=plt.subplots(subplot_kw={"projection": "3d"})[1])
    with pytest.raises(ValueError, match=r"'loss' in mdata.uns.* is nowhere finite"):
        landscape(data(x=X, loss=np.full(9, np.nan)))

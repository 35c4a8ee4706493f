import matplotlib
import numpy as np
import pandas as pd
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
    """30 cells each with three modalities, RNA and ATAC, RNA and protein, RNA alone; four are in no group."""
    rng = np.random.default_rng(0)
    measured = np.repeat([[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]], 30, axis=0)
    weights = rng.gamma(5, size=measured.shape) * measured
    weights /= weights.sum(axis=1, keepdims=True)
    cells = [f"cell{i}" for i in range(120)]
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(np.ones((120, 2), np.float32), obs=pd.DataFrame(index=cells))})
    for name, column in zip(("rna", "atac", "prot"), weights.T, strict=True):
        mdata.obs[f"mmopt_weight_{name}"] = column
    group = np.array(["a", "b"] * 60, dtype=object)
    group[:4] = None
    mdata.mod["rna"].obs["group"] = pd.Categorical(group, categories=["b", "a", "unused"])
    return mdata


def drawn(ax):
    """Bars of an axes as {row: [(left, width), …]}."""
    rows = {}
    for bar in ax.patches:
        rows.setdefault(round(bar.get_y() + bar.get_height() / 2), []).append((bar.get_x(), bar.get_width()))
    return {row: np.array(bars) for row, bars in rows.items()}


@pytest.mark.parametrize("width", [3.5, 7])
def test_bars_are_means_over_cells_with_the_same_modalities(mdata, width):
    axes = mm.pl.modality_weights(mdata, "group", width=width, show=False)
    titles = ["RNA + ATAC + Protein\n30 cells", "RNA + ATAC\n30 cells", "RNA + Protein\n30 cells"]
    assert [ax.get_title() for ax in axes] == titles
    group = mdata["rna"].obs["group"].astype(object).where(lambda g: g.notna(), "no value").to_numpy()
    weights = mdata.obs.filter(like="weight")
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["b", "a", "no value"]
    for i, (ax, columns) in enumerate(zip(axes, ([0, 1, 2], [0, 1], [0, 2]), strict=True)):
        here = slice(30 * i, 30 * i + 30)
        bars, counts = drawn(ax), [text.get_text() for text in ax.texts]
        for row, name in enumerate(("b", "a", "no value")):
            cells = weights[here][group[here] == name].iloc[:, columns]
            assert counts[row] == str(len(cells))
            if len(cells):
                np.testing.assert_allclose(bars[row][:, 1], cells.mean())
                np.testing.assert_allclose(bars[row][:, 0], np.r_[0, cells.mean().cumsum()[:-1]], atol=1e-12)
                np.testing.assert_allclose(bars[row].sum(axis=0)[1], 1)
            else:
                assert row not in bars
    assert axes[0].figure.get_supxlabel().endswith("(30 cells with one modality are not shown)")


def test_all_cells_are_one_group_by_default(mdata):
    axes = mm.pl.modality_weights(mdata, show=False)
    expected = mdata.obs["mmopt_weight_atac"][30:60].mean()
    assert drawn(axes[1])[0][1, 1] == pytest.approx(expected)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["All cells"]


def test_complete_data_has_one_panel_and_no_note(mdata):
    (ax,) = mm.pl.modality_weights(mdata[:30], show=False)
    assert ax.figure.get_supxlabel() == "Mean share of the posterior precision"


def test_one_modality_says_so(mdata):
    (ax,) = mm.pl.modality_weights(mdata[90:], "group", show=False)
    assert [text.get_text() for text in ax.texts] == ["No cell has two modalities\n(30 have one)"]
    assert not ax.patches


def test_names_too_long_for_the_page_are_shortened(mdata):
    mdata.obs["type"] = "CD16-positive, CD56-dim natural killer cell, human, of peripheral blood"
    axes = mm.pl.modality_weights(mdata, "type", width=3.5, show=False)
    axes[0].figure.draw_without_rendering()
    assert all(ax.get_window_extent().width / ax.figure.dpi > 0.7 for ax in axes)
    (label,) = axes[0].get_yticklabels()
    assert label.get_text().startswith("CD16-positive, CD56-dim") and label.get_text().endswith("…")
    assert label.get_window_extent().x0 >= 0
    (label,) = mm.pl.modality_weights(mdata, "type", width=7, show=False)[0].get_yticklabels()
    assert label.get_text() == mdata.obs["type"].iloc[0]


@pytest.mark.parametrize("width", [3.5, 7])
def test_long_names_leave_room_for_the_bars(mdata, width):
    mdata.obs["type"] = "CD8-positive, alpha-beta memory T cell"
    axes = mm.pl.modality_weights(mdata, "type", width=width, show=False)
    axes[0].figure.draw_without_rendering()
    assert all(ax.get_window_extent().width / ax.figure.dpi > 0.7 for ax in axes)
    last_in_column = {ax.get_subplotspec().colspan.start: ax for ax in axes}
    assert all(ax.xaxis.get_tick_params()["labelbottom"] for ax in last_in_column.values())


def test_another_embedding(mdata):
    for name in ("rna", "atac", "prot"):
        mdata.obs[f"second_weight_{name}"] = mdata.obs.pop(f"mmopt_weight_{name}")
    assert len(mm.pl.modality_weights(mdata, key="X_second", show=False)) == 3


def test_refusals_leave_no_figure(mdata):
    with pytest.raises(KeyError, match=r"no column 'groop'.*'group'"):
        mm.pl.modality_weights(mdata, "groop")
    with pytest.raises(TypeError, match="a MuData is needed, not AnnData"):
        mm.pl.modality_weights(mdata["rna"])
    mdata.obs["depth"] = np.arange(120.0)
    with pytest.raises(
        ValueError, match="groupby='depth' has 120 values; choose a column with 100 groups or fewer"
    ):
        mm.pl.modality_weights(mdata, "depth")
    mdata.obs = mdata.obs.filter(like="depth")
    with pytest.raises(KeyError, match=r"no 'mmopt_weight_rna'.*call `mm.tl.integrate\(mdata\)` first"):
        mm.pl.modality_weights(mdata)
    assert not plt.get_fignums()

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


def effects(groups=("all", "HSC"), n=30):
    rng = np.random.default_rng(0)
    frames = []
    for group in groups:
        for modality in ("rna", "atac", "adt"):
            delta = rng.standard_normal(n)
            frames.append(
                pd.DataFrame(
                    {
                        "modality": modality,
                        "feature": [f"{modality}{i}" for i in range(n)],
                        "group": group,
                        "delta": delta,
                        "sd": 0.5,
                        "q05": delta - 0.8,
                        "q95": delta + 0.8,
                        "prob_up": 0.5,
                        "null_p": 0.5,
                        "null95": 0.7,
                        "padj": 0.5,
                        "direct": [i == 0 for i in range(n)],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def mdata():
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(np.ones((3, 2), np.float32))})
    groups = pd.DataFrame({"group": ["all", "HSC"], "n_cells": [1000, 40]})
    mdata.uns["perturb"] = {"GATA1_knockout": {"effects": effects(), "groups": groups}}
    names = [f"G{i}_knockout" for i in range(6)]
    screen = pd.concat(
        [effects().assign(perturbation=n, delta=lambda d, k=i: d["delta"] * k) for i, n in enumerate(names)]
    )
    ranking = pd.DataFrame({"group": "all", "perturbation": names[::-1], "shift_norm": range(6, 0, -1)})
    mdata.uns["screen"] = {"effects": screen, "ranking": ranking}
    return mdata


def test_a_modality_of_any_name_is_shown_as_what_it_is(mdata):
    slot = mdata.uns["perturb"]["GATA1_knockout"]
    names = {"rna": "expr", "atac": "peaks", "prot": "surface"}
    slot["effects"] = slot["effects"].replace(
        {"modality": {"rna": "expr", "atac": "peaks", "adt": "surface"}}
    )
    slot["params"] = {"modalities": names}
    axes = mm.pl.perturbation(mdata, show=False)
    assert [ax.get_title() for ax in axes] == ["RNA", "ATAC", "Protein"]
    assert [ax.get_xlabel() for ax in axes] == ["Change of log1p CP10k"] * 2 + ["Change of the CLR"]


def test_forest_shows_the_largest_with_intervals_and_what_chance_gives(mdata):
    axes = mm.pl.perturbation(mdata, group="HSC", n_top=5, show=False)
    assert [ax.get_title() for ax in axes] == ["RNA", "ATAC", "Protein"]
    table = mdata.uns["perturb"]["GATA1_knockout"]["effects"]
    for ax, modality in zip(axes, ("rna", "atac", "adt"), strict=True):
        here = table[(table["group"] == "HSC") & (table["modality"] == modality) & ~table["direct"]]
        largest = here.loc[here["delta"].abs().nlargest(5).index].sort_values("delta")
        assert [t.get_text() for t in ax.get_yticklabels()] == largest["feature"].tolist()
        points, lines = ax.collections[1], ax.collections[0]
        np.testing.assert_allclose(points.get_offsets()[:, 0], largest["delta"])
        ends = np.array([s[:, 0] for s in lines.get_segments()])
        np.testing.assert_allclose(ends, largest[["q05", "q95"]])
        assert {round(b.get_width(), 6) for b in ax.patches} == {1.4}
        filled = np.all(points.get_facecolors()[:, :3] < 0.99, axis=1) | (
            points.get_facecolors()[:, :3].min(1) < 0.9
        )
        np.testing.assert_array_equal(filled, largest["delta"].abs() > 0.7)
    assert "HSC (40 cells)" in axes[0].figure._suptitle.get_text()


def test_heat_map_shows_the_strongest_perturbations_and_marks_what_is_sure(mdata):
    (ax,) = mm.pl.screen(mdata, n_perturbations=4, n_features=8, show=False)
    shown = {t.get_text() for t in ax.get_yticklabels()}
    assert shown == {f"G{i}_knockout" for i in (5, 4, 3, 2)}
    image = ax.images[0].get_array()
    assert image.shape == (4, 8)
    table = mdata.uns["screen"]["effects"]
    rows, columns = (
        [t.get_text() for t in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels())
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            here = table[
                (table["perturbation"] == row) & (table["feature"] == column) & (table["group"] == "all")
            ]
            if not here["direct"].item():
                assert image[i, j] == pytest.approx(here["delta"].item())
    limit = ax.images[0].get_clim()
    assert limit[0] == -limit[1]
    assert len(ax.collections[0].get_offsets())


def test_heat_map_tells_what_was_set_from_what_was_not_kept(mdata):
    def drawn():
        fig = mm.pl.screen(mdata, return_fig=True)
        effect, own = (np.ma.getmaskarray(np.ma.masked_invalid(i.get_array())) for i in fig.axes[0].images)
        return effect, ~own, [text.get_text() for text in fig.legends[0].get_texts()]

    slot, whole = mdata.uns["screen"], mdata.uns["screen"]["effects"]
    empty, own, notes = drawn()
    np.testing.assert_array_equal(empty, own)
    assert own.any() and notes == ["set by the perturbation"]
    lost = (whole["perturbation"] == "G5_knockout") & ~whole["direct"] & (whole["delta"].abs() < 1)
    mdata.uns["screen"] = {**slot, "effects": whole[~lost]}
    empty, own, notes = drawn()
    assert (empty & ~own).any() and not (own & ~empty).any()
    assert notes == ["set by the perturbation", "not kept (n_top)"]


def test_what_is_not_there(mdata):
    with pytest.raises(KeyError, match=r"no result 'GATA2_knockout'.*nearest: 'GATA1_knockout'"):
        mm.pl.perturbation(mdata, "GATA2_knockout")
    with pytest.raises(KeyError, match="group='0': 'GATA1_knockout' has the groups"):
        mm.pl.perturbation(mdata, group=0)
    with pytest.raises(KeyError, match="group='B': 'GATA1_knockout' has the groups 'all', 'HSC'"):
        mm.pl.perturbation(mdata, group="B")
    with pytest.raises(ValueError, match="n_top must be at least 1"):
        mm.pl.perturbation(mdata, n_top=0)
    with pytest.raises(KeyError, match="modality='prot': the screen has 'rna'"):
        mm.pl.screen(mdata, modality="prot")
    with pytest.raises(KeyError, match="group='B'"):
        mm.pl.screen(mdata, group="B")
    with pytest.raises(ValueError, match="at least one perturbation"):
        mm.pl.screen(mdata, n_features=0)
    mdata.uns["perturb"]["other"] = mdata.uns["perturb"]["GATA1_knockout"]
    with pytest.raises(KeyError, match="several results"):
        mm.pl.perturbation(mdata)
    del mdata.uns["perturb"], mdata.uns["screen"]
    with pytest.raises(KeyError, match=r"call `mm\.tl\.perturb"):
        mm.pl.perturbation(mdata)
    with pytest.raises(KeyError, match=r"call `mm\.tl\.screen"):
        mm.pl.screen(mdata)


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        ({}, r"uns\['perturb'\] is empty; call `mm.tl.perturb"),
        ("text", r"holds no results, so `mm.tl.perturb\(mdata, ...\)` did not write it"),
        ({"a": {"effects": 1}}, r"uns\['perturb'\]\['a'\] has no 'groups', so"),
        ({"a": "text"}, r"uns\['perturb'\]\['a'\] holds no results"),
    ],
    ids=str,
)
def test_slots_of_something_else(mdata, slot, message):
    mdata.uns["perturb"] = slot
    with pytest.raises(KeyError, match=message):
        mm.pl.perturbation(mdata, show=False)

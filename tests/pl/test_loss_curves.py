import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from mudata import MuData

import mmopt as mm

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def fit(modalities=("rna", "atac", "prot"), n_epochs=6, validation=True, **params):
    """What `mm.tl.integrate` writes to `uns`."""
    rng = np.random.default_rng(0)
    columns = ["elbo", "kl_local", *(f"nll_{m}" for m in modalities)]
    stages = ("train", "validation") if validation else ("train",)
    history = {"epoch": np.arange(n_epochs)}
    history |= {f"{c}_{s}": np.sort(rng.uniform(100, 110, n_epochs))[::-1] for s in stages for c in columns}
    steps = {"step": np.arange(30), "loss": rng.uniform(100, 110, 30), "rate": rng.uniform(2e-4, 5e-3, 30)}
    params = {"optimizer": "asgdadam", **params}
    return {"params": params, "history": pd.DataFrame(history), "steps": pd.DataFrame(steps)}


def with_fit(slot, key="mmopt"):
    mdata = MuData({})
    mdata.uns[key] = slot
    return mdata


@pytest.mark.parametrize("modalities", [("rna",), ("rna", "prot"), ("rna", "atac", "prot")])
@pytest.mark.parametrize("width", [3.5, 7])
def test_the_curves_are_the_history(modalities, width):
    slot = fit(modalities)
    axes = mm.pl.loss_curves(with_fit(slot), width=width, show=False)
    names = {"rna": "RNA", "atac": "ATAC", "prot": "Protein"}
    columns = ["elbo", *(f"nll_{m}" for m in modalities), "kl_local"]
    titles = ["Negative bound", *(names[m] for m in modalities), "KL divergence", "asgdadam"]
    assert [ax.get_title() for ax in axes] == titles
    for ax, column in zip(axes, columns, strict=False):
        train, held_out = ax.lines
        for line, stage in ((train, "train"), (held_out, "validation")):
            np.testing.assert_array_equal(line.get_xdata(), slot["history"]["epoch"])
            np.testing.assert_array_equal(line.get_ydata(), slot["history"][f"{column}_{stage}"])
        assert train.get_color() == held_out.get_color()
        assert train.get_linestyle() != held_out.get_linestyle()
    np.testing.assert_array_equal(axes[-1].lines[0].get_xdata(), slot["steps"]["step"])
    np.testing.assert_array_equal(axes[-1].lines[0].get_ydata(), slot["steps"]["rate"])
    assert axes[-1].get_yscale() == "log"
    assert axes[-1].get_ylabel() == "Learning rate"  # warm-up included, which the base rate is not
    assert axes[0].figure.get_figwidth() == width


def test_the_bounds_of_the_rate_are_drawn_where_they_are_known():
    (rate,) = mm.pl.loss_curves(with_fit(fit()), show=False)[-1].lines
    assert rate.get_xdata().size == 30
    slot = fit(optimizer_alpha_min=1e-4, optimizer_alpha_max=1e-2)
    ax = mm.pl.loss_curves(with_fit(slot), show=False)[-1]
    assert [line.get_ydata()[0] for line in ax.lines[1:]] == [1e-4, 1e-2]
    assert [text.get_text() for text in ax.texts] == ["lower bound", "upper bound"]
    low, high = ax.get_ylim()
    assert low < 1e-4 < 1e-2 < high


def test_early_epochs_do_not_flatten_the_rest():
    slot = fit(n_epochs=40)
    slot["history"].loc[0, "nll_rna_train"] = 1e5
    axes = mm.pl.loss_curves(with_fit(slot), modalities="rna", show=False)
    assert axes[1].get_ylim()[1] < 120
    assert axes[1].lines[0].get_ydata()[0] == 1e5
    # nothing is cut where nothing sticks out
    shown = slot["history"][["elbo_train", "elbo_validation"]].to_numpy()
    assert axes[0].get_ylim()[1] > shown.max()
    assert axes[0].get_ylim()[0] < shown.min()


def test_one_epoch_and_no_held_out_cells():
    axes = mm.pl.loss_curves(with_fit(fit(n_epochs=1, validation=False)), show=False)
    (point,) = axes[0].lines
    assert point.get_marker() == "o"
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Training"]


def test_a_modality_without_held_out_cells_still_has_its_training_curve():
    slot = fit()
    slot["history"]["nll_prot_validation"] = np.nan
    ax = mm.pl.loss_curves(with_fit(slot), show=False)[3]
    assert ax.get_title() == "Protein"
    low, high = ax.get_ylim()
    assert low < slot["history"]["nll_prot_train"].min() < slot["history"]["nll_prot_train"].max() < high


def test_chosen_modalities_and_keys():
    mdata = with_fit(fit(), key="other")
    for key in ("X_other", "other"):
        axes = mm.pl.loss_curves(mdata, key=key, modalities=["prot", "rna"], show=False)
        assert [ax.get_title() for ax in axes[1:3]] == ["Protein", "RNA"]
    with pytest.raises(ValueError, match="modalities='adt': the fit has 'rna', 'atac', 'prot'"):
        mm.pl.loss_curves(mdata, key="other", modalities=["rna", "adt"])


def test_refusals_leave_no_figure():
    with pytest.raises(
        KeyError, match=r"no 'mmopt' \(it has nothing\); call `mm.tl.integrate\(mdata\)` first"
    ):
        mm.pl.loss_curves(MuData({}))
    with pytest.raises(
        KeyError, match=r"uns\['mmopt'\] has no 'steps', so `mm.tl.integrate\(mdata\)` did not"
    ):
        mm.pl.loss_curves(with_fit({"history": pd.DataFrame(), "params": {}}))
    with pytest.raises(TypeError, match="a MuData is needed, not NoneType"):
        mm.pl.loss_curves(None)
    assert not plt.get_fignums()

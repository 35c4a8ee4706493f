from itertools import product

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from mudata import MuData

import mmopt as mm

matplotlib.use("agg")
SIX = ("adam", "amsgrad", "padam", "sgd", "asgdadam", "asgdamsgrad")
RATES = (1e-4, 1e-3, 1e-2)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def compared(optimizers=SIX, rates=RATES, seeds=(0, 1, 2), n_epochs=5, diverged=(), verdict="tie"):
    """MuData with what `mm.tl.compare_optimizers` writes; every optimizer is best at the middle rate."""
    rng = np.random.default_rng(0)
    best = rates[len(rates) // 2]
    rows, curves = [], []
    for seed, lr, name in product(seeds, rates, optimizers):
        row = {"optimizer": name, "lr": lr, "seed": seed, "status": "diverged", "elbo": np.nan}
        if (name, lr, seed) not in diverged:
            held_out = np.sort(rng.uniform(900, 910, n_epochs))[::-1] + 10 * (lr != best)
            row |= {"status": "ok", "elbo": held_out[-1]}
            curve = {"epoch": np.arange(n_epochs), "elbo_train": held_out + 5, "elbo_validation": held_out}
            curves.append(pd.DataFrame(curve).assign(optimizer=name, lr=lr, seed=seed))
        rows.append(row)
    runs = pd.DataFrame(rows)
    elbo = (
        runs["elbo"]
        .fillna(np.inf)[runs["lr"] == best]
        .groupby(runs["optimizer"])
        .mean()[list(optimizers)]
        .tolist()
    )
    summary = {"optimizer": list(optimizers), "lr": best, "n_seeds": len(seeds), "elbo": elbo}
    summary |= {
        "difference": [value - elbo[0] for value in elbo],
        "difference_se": np.linspace(0.5, 2, len(optimizers)) if len(seeds) > 1 else np.nan,
        "verdict": ["reference", *[verdict] * (len(optimizers) - 1)],
    }
    mdata = MuData({})
    mdata.uns["optimizer_comparison"] = {
        "runs": runs,
        "curves": pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        "summary": pd.DataFrame(summary),
    }
    return mdata


def lines(ax, color):
    return [line for line in ax.lines if to_hex(line.get_color()) == to_hex(color)]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def colors(axes):
    """Colour of each optimizer, from the legend."""
    (legend,) = axes[0].figure.legends
    names = [text.get_text().split(" (")[0] for text in legend.get_texts()]
    return {n: line.get_color() for n, line in zip(names, legend.get_lines(), strict=True)}


@pytest.mark.parametrize("width", [3.5, 7])
def test_the_curves_are_those_of_the_best_rates(width):
    mdata = compared()
    slot = mdata.uns["optimizer_comparison"]
    axes = mm.pl.optimizer_comparison(mdata, width=width, show=False)
    assert axes.shape == (3,)
    of = colors(axes)
    assert list(of) == list(SIX)
    assert len(set(of.values())) == 6
    for name in SIX:
        *seeds, mean = lines(axes[0], of[name])
        chosen = slot["curves"].query("optimizer == @name and lr == 0.001")
        expected = [one["elbo_validation"].to_numpy() for _, one in chosen.groupby("seed")]
        np.testing.assert_array_equal([line.get_ydata() for line in seeds], expected)
        np.testing.assert_allclose(mean.get_ydata(), np.mean(expected, axis=0))
        np.testing.assert_array_equal(mean.get_xdata(), np.arange(5))
        assert mean.get_linewidth() > seeds[0].get_linewidth()


def test_the_sweep_shows_every_run_and_the_means():
    mdata = compared()
    runs = mdata.uns["optimizer_comparison"]["runs"]
    axes = mm.pl.optimizer_comparison(mdata, show=False)
    for name, color in colors(axes).items():
        dots, mean, crosses, triangles = lines(axes[1], color)
        mine = runs[runs["optimizer"] == name]
        np.testing.assert_array_equal(dots.get_xydata(), mine[["lr", "elbo"]])
        np.testing.assert_allclose(mean.get_xydata(), mine.groupby("lr")["elbo"].mean().reset_index())
        assert not crosses.get_xdata().size
        assert not triangles.get_xdata().size
    assert axes[1].get_xscale() == "log"


def test_diverged_and_far_off_runs_are_marked():
    mdata = compared(diverged=[("sgd", 1e-2, 1)])
    runs = mdata.uns["optimizer_comparison"]["runs"]
    runs.loc[(runs["optimizer"] == "padam") & (runs["lr"] == 1e-4), "elbo"] = 1e6
    axes = mm.pl.optimizer_comparison(mdata, show=False)
    of = colors(axes)
    dots, mean, crosses, _ = lines(axes[1], of["sgd"])
    assert crosses.get_marker() == "x"
    np.testing.assert_array_equal(crosses.get_xdata(), [1e-2])
    # the seeds that went well are shown, but a mean over them would flatter
    assert np.isfinite(dots.get_ydata()).sum() == 8
    np.testing.assert_array_equal(np.isnan(mean.get_ydata()), [False, False, True])
    triangles = lines(axes[1], of["padam"])[-1]
    assert triangles.get_marker() == "^"
    np.testing.assert_array_equal(triangles.get_xdata(), [1e-4])
    assert axes[1].get_ylim()[1] < 1000
    assert [text.get_text() for text in axes[0].figure.legends[0].get_texts()][-1] == "a run diverged"


def test_the_differences_are_those_of_the_summary():
    mdata = compared()
    summary = mdata.uns["optimizer_comparison"]["summary"].set_index("optimizer")
    axes = mm.pl.optimizer_comparison(mdata, show=False)
    of = colors(axes)
    assert [label.get_text() for label in axes[2].get_yticklabels()] == list(SIX[1:])
    for row, name in enumerate(SIX[1:]):
        point, bar = lines(axes[2], of[name])
        d, se = summary.loc[name, ["difference", "difference_se"]]
        np.testing.assert_array_equal(point.get_xydata(), [[d, row]])
        margin = 4.3027 * se  # three seeds
        np.testing.assert_allclose(bar.get_xdata(), [d - margin, d + margin], rtol=1e-4)
        assert texts(axes[2])[row] == f"tie\n{d:+.3g} ± {margin:.2g}"
    assert axes[2].get_xlabel().startswith("Difference to adam")


def test_one_of_everything_says_what_is_missing():
    axes = mm.pl.optimizer_comparison(compared(("padam",), (1e-3,), (0,)), show=False)
    assert len(axes[0].lines) == 2
    assert texts(axes[1]) == ["One learning rate only\n(1e-3)"]
    assert texts(axes[2]) == ["One optimizer only:\nnothing to compare"]
    assert not axes[1].lines
    assert not axes[2].lines


def test_one_seed_has_no_error_bar():
    axes = mm.pl.optimizer_comparison(
        compared(SIX[:2], seeds=(0,), n_epochs=1, verdict="one seed"), show=False
    )
    (point,) = lines(axes[2], colors(axes)["amsgrad"])
    assert texts(axes[2]) == [f"one seed\n{point.get_xdata()[0]:+.3g}"]
    assert {line.get_marker() for line in axes[0].lines} == {"o"}


def test_an_optimizer_that_always_diverges():
    mdata = compared(SIX[:3], diverged=list(product(["padam"], RATES, range(3))))
    axes = mm.pl.optimizer_comparison(mdata, show=False)
    labels = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert labels == ["adam (1e-3)", "amsgrad (1e-3)", "padam (diverged)", "a run diverged"]
    assert texts(axes[2])[1] == "diverged"
    np.testing.assert_array_equal(lines(axes[1], colors(axes)["padam"])[2].get_xdata(), RATES)


def test_nothing_but_diverged_runs():
    mdata = compared(SIX[:2], diverged=list(product(SIX[:2], RATES, range(3))))
    # what `mm.tl.compare_optimizers` leaves where no run has a score
    del mdata.uns["optimizer_comparison"]["runs"]["elbo"]
    axes = mm.pl.optimizer_comparison(mdata, show=False)
    expected = ["Every run diverged", "Every run diverged", "Too many runs diverged\nto compare"]
    assert [texts(ax) for ax in axes] == [[text] for text in expected]


def test_many_optimizers_are_told_apart():
    mdata = compared(tuple(f"optimizer{i}" for i in range(15)), RATES[:2], (0,))
    axes = mm.pl.optimizer_comparison(mdata, show=False)
    looks = {(line.get_color(), line.get_linestyle()) for line in axes[0].figure.legends[0].get_lines()}
    assert len(looks) == 15


def test_refusals_leave_no_figure():
    mdata = MuData({})
    mdata.uns["landscape"] = {}
    with pytest.raises(
        KeyError,
        match=r"no 'optimizer_comparison' \(it has 'landscape'\); call `mm.tl.compare_optimizers\(mdata\)`",
    ):
        mm.pl.optimizer_comparison(mdata)
    with pytest.raises(KeyError, match="has no 'runs', 'curves', 'summary'"):
        mm.pl.optimizer_comparison(mdata, key="landscape")
    assert not plt.get_fignums()

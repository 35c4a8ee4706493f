import mudata
import numpy as np
import pandas as pd
import pytest

import mmopt as mm
from mmopt.tl._scene import set_stage
from mmopt.tl._schedule import Planned, parse_schedule, read_schedule, schedule_grid


@pytest.fixture
def _quiet(recwarn):
    yield


def held(times, start, stop, n=9):
    """Times of the grid at which an intervention holds, as shares of the span, and how many times there are."""
    times = np.asarray(times).astype(float)
    begin, end = times[0], times[-1]
    planned = Planned(None, start, stop)
    grid = schedule_grid(times, begin, end, [planned], n)
    now = [planned.active(float(t), float(grid[0]), float(grid[-1])) for t in grid]
    return ((grid[now] - begin) / (end - begin)).tolist(), len(grid)


def test_what_lasts_is_held_to_the_end_whatever_the_digits():
    for times in (
        [0, 1, 2],
        [1 / 3, 2 / 3, 4 / 3],
        np.array([0.3, 2.3, 6.3], "float32"),
        [0.0, 2e-5, 7 / 9e4],
    ):
        times = np.asarray(times)
        at, n = held(times, float(times[0]), float(times[-1]))
        assert len(at) == n, times


@pytest.mark.parametrize("unit", [1.0, 1 / 3, np.float32(0.1), 24.0])
def test_a_window_holds_on_the_same_part_of_the_grid_in_any_unit(unit):
    times = np.array([0.0, 1, 2, 3]) * unit
    for window in ((1, 2), (0, 1), (2, 3), (1, 1.05)):
        at, n = held(times, window[0] * float(unit), window[1] * float(unit), n=4)
        last = 3 if window[1] == 3 else -1
        expected = [t / 3 for t in sorted({0, 1, 2, 3, *window}) if window[0] <= t < window[1] or t == last]
        np.testing.assert_allclose(at, expected, atol=1e-5)
        assert n == 4 + (window[1] == 1.05)


def test_days_that_were_meant_are_those_that_were_measured_as_float32():
    times = np.array([0.3, 2.3, 4.3, 6.3], dtype="float32")
    at, n = held(times, 2.3, 4.3, n=4)
    assert n == 4, "2.3 is one time of the grid"
    np.testing.assert_allclose(at, [1 / 3], atol=1e-5)


def test_a_pulse_between_thirds_is_felt(twinned):
    mdata = twinned.copy()
    mdata.uns["twin"]["times"] = np.array([0, 1, 2, 3, 4]) / 3
    common = {
        "start": {"time": 0},
        "features": ["GATA1"],
        "n_cells": 20,
        "progress_bar": False,
        "key_added": "s",
    }
    mm.tl.simulate(mdata, interventions=[("GATA1", "knockout", 1 / 3, 2 / 3)], **common)
    found = mdata.uns["s"]["features"].pivot_table("mean", "time", "arm", observed=True)
    gone = found.index[found["perturbed"] < 1e-6]
    np.testing.assert_allclose(gone, [1 / 3, 0.5], atol=1e-6)
    # windows that touch are not two at once, and one too short for the grid is refused rather than ignored
    touching = [("GATA1", "knockout", 0, 1 / 3), ("GATA1", "overexpress", 1 / 3 - 1e-8, 1)]
    mm.tl.simulate(mdata, interventions=touching, **common)
    with pytest.raises(ValueError, match="start must be before stop"):
        mm.tl.simulate(mdata, interventions=[("GATA1", "knockout", 0.5, 0.5 + 1e-9)], **common)


QUICK = {"start": {"time": 0}, "n_cells": 20, "n_times": 2, "progress_bar": False, "key_added": "s"}


def test_every_way_to_write_a_schedule(twinned):
    features = set_stage(twinned, regulons="regulons", groupby=None).features
    for written, meant in [
        (
            {"GATA1": "overexpress", "SPI1": "1.5x"},
            ["GATA1 overexpress 0-8", "SPI1 overexpress (level 1.5) 0-8"],
        ),
        ({"GATA1": 0.0}, ["GATA1 knockout 0-8"]),
        ("GATA1", ["GATA1 knockout 0-8"]),
        (("GATA1", "overexpress", 2), ["GATA1 overexpress 2-8"]),
        ([("GATA1", "knockdown", None, 4), "SPI1"], ["GATA1 knockdown 0-4", "SPI1 knockout 0-8"]),
        ([["GATA1", "overexpress", 2, None, 1.5]], ["GATA1 overexpress (level 1.5) 2-8"]),
    ]:
        planned = parse_schedule(read_schedule(written), features, twinned, 0.0, 8.0)
        assert [str(p) for p in planned] == meant


@pytest.mark.usefixtures("_quiet")
def test_the_level_of_a_schedule_is_that_of_perturb(twinned, tmp_path):
    mdata = twinned.copy()

    def held(*schedule):
        mm.tl.simulate(mdata, interventions=list(schedule), features=["GATA1"], **QUICK)
        table = mdata.uns["s"]["features"]
        return table[table["arm"] == "perturbed"].set_index("time")["mean"]

    usual, twice, half = (held(("GATA1", "overexpress", 0, 8, level)) for level in (None, 2, 0.5))
    pd.testing.assert_series_equal(usual, twice)
    assert (np.expm1(half) < 0.6 * np.expm1(usual)).all()
    # of what the other genes come to, which are counted in their new totals
    fixed = held(("GATA1", "set", 2, None, 12.0)).loc[2:]
    np.testing.assert_allclose(fixed, np.log1p(12), atol=0.15)
    mdata.write_h5mu(tmp_path / "s.h5mu")
    again = mudata.read_h5mu(tmp_path / "s.h5mu").uns["s"]["params"]
    assert (again["levels"], again["windows"].tolist()) == (12, [[2, 8]])


@pytest.mark.parametrize(
    "written",
    [
        5,
        pd.DataFrame([("GATA1", "overexpress", 2, 4)]),
        [("GATA1", "overexpress", 2, "x")],
        [("GATA1", "overexpress", {}, 4)],
        [("GATA1", "overexpress", 2, 4, "1.5x")],
        [("GATA1", "overexpress", 2, 4, 1.5, 0)],
        [{"GATA1": "overexpress"}],
        [()],
    ],
)
def test_what_is_no_schedule_is_told_how_to_write_one(twinned, written):
    with pytest.raises(TypeError, match=r"interventions: a list of .* is needed.* not "):
        mm.tl.simulate(twinned, interventions=written, **QUICK)


def test_levels_that_have_no_answer(twinned):
    with pytest.raises(ValueError, match=r"mode='set' needs a level: \('GATA1', 'set', start, stop, level\)"):
        read_schedule([("GATA1", "set", 3, 4)])
    with pytest.raises(ValueError, match="mode='knockout' takes no level"):
        mm.tl.simulate(twinned, interventions=[("GATA1", "knockout", 3, 4, 1)], **QUICK)
    with pytest.raises(ValueError, match=r"3 times its 99\.9 % quantile is beyond twice"):
        mm.tl.simulate(twinned, interventions=[("GATA1", "overexpress", 3, 4, 3)], **QUICK)

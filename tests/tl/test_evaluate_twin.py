import numpy as np
import pytest

import mmopt as mm

QUICK = {"time_key": "day", "use_rep": "X_pca", "n_members": 1, "n_steps": 300, "progress_bar": False}


def test_between_two_points_it_beats_both(course):
    mdata = course(n=120)
    table = mm.tl.evaluate_twin(mdata, **QUICK)
    here = table[table["space"] == "embedding"].set_index("prediction")
    assert set(here.index) == {
        "twin",
        "linear_interpolation",
        "previous_time",
        "next_time",
        "split_half_floor",
    }
    for score in ("w1", "w2", "mmd", "energy"):
        assert here.loc["twin", score] < 0.7 * here.loc["previous_time", score]
        assert here.loc["twin", score] < 0.7 * here.loc["next_time", score]
    assert here.loc["split_half_floor", "energy"] < 0.1
    assert here["n_cells"].nunique() == 1, "every prediction is compared with as many cells"
    assert set(table["space"]) == {"embedding", "genes"}
    assert mdata.uns["twin_evaluation"]["scores"].equals(table)


def test_a_course_that_jumps_is_not_predicted(course):
    """The held-out point lies nowhere between its neighbours, so the score has to say so."""
    mdata = course(n=120)
    inner = (mdata.obs["day"] == 1).to_numpy()
    mdata.obsm["X_pca"][inner, 1] += 12
    table = mm.tl.evaluate_twin(mdata, genes=False, **QUICK).set_index("prediction")
    assert table.loc["twin", "w1"] > 3 * table.loc["split_half_floor", "w1"]


def test_refusals(course):
    with pytest.raises(ValueError, match="to leave one out between two others takes three"):
        mm.tl.evaluate_twin(course(times=(0, 1)), **QUICK)
    with pytest.raises(ValueError, match="0 is none of the inner time points 1"):
        mm.tl.evaluate_twin(course(), hold_out=0, **QUICK)
    with pytest.raises(ValueError, match="n_members must be at least 1"):
        mm.tl.evaluate_twin(course(), **(QUICK | {"n_members": 0}))


def test_one_time_is_as_in_all(course):
    mdata = course(n=60, times=(0, 1, 2, 3))
    quick = QUICK | {"n_steps": 20, "genes": False}
    every = mm.tl.evaluate_twin(mdata, **quick)
    one = mm.tl.evaluate_twin(mdata, hold_out=2, **quick)
    np.testing.assert_allclose(every[every["time"] == 2]["w1"], one["w1"])

import numpy as np
import pytest

from mmopt.metrics import fate_scores


def test_against_a_loop():
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(3), 40) for _ in range(2))
    true, unit = rng.dirichlet(np.ones(3), 40), rng.integers(0, 12, 40)
    table = fate_scores({"p": p, "q": q}, true, unit, reference="q").set_index("prediction")
    accuracy = {n: np.mean([true[i, x[i].argmax()] for i in range(40)]) for n, x in (("p", p), ("q", q))}
    assert table.loc["p", "accuracy"] == pytest.approx(accuracy["p"])
    assert table.loc["p", "gain"] == pytest.approx(accuracy["p"] - accuracy["q"])
    assert table.loc["q", ["gain", "gain_lo", "gain_hi"]].tolist() == [0, 0, 0]
    assert table.loc["p", "brier"] == pytest.approx(np.mean([sum((p[i] - true[i]) ** 2) for i in range(40)]))
    for score in ("accuracy", "brier"):
        assert (table[f"{score}_lo"] < table[score]).all()
        assert (table[score] < table[f"{score}_hi"]).all()


def test_a_tie_is_shared_and_what_is_drawn_together_widens_the_interval():
    true = np.repeat(np.eye(2), 50, axis=0)
    even = np.full((100, 2), 0.5)
    guess = np.tile([0.9, 0.1], (100, 1))
    alone, together = (
        fate_scores({"even": even, "guess": guess}, true, unit, reference="even").set_index("prediction")
        for unit in (np.arange(100), np.arange(100) // 25)
    )
    assert alone.loc["even", ["accuracy", "accuracy_lo", "accuracy_hi"]].tolist() == [0.5, 0.5, 0.5]
    width = [t.loc["guess", "accuracy_hi"] - t.loc["guess", "accuracy_lo"] for t in (alone, together)]
    assert width[1] > 2 * width[0]


def test_refusals():
    true = np.eye(2)
    with pytest.raises(ValueError, match="reference='other' is none of the predictions p"):
        fate_scores({"p": true}, true, [0, 1], reference="other")
    with pytest.raises(ValueError, match="must be of the same cells and labels"):
        fate_scores({"p": true}, np.eye(3), [0, 1, 2], reference="p")
    with pytest.raises(ValueError, match="must be of the same cells and labels"):
        fate_scores({"p": true}, true, [0], reference="p")

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
    with override_pull_on_update():
        mdata = MuData({"rna": AnnData(np.ones((3, 1), np.float32))})
    n = 14
    progress = np.linspace(0.9, 0.1, n)
    ranking = pd.DataFrame(
        {
            "factors": [f"TF{i}" if i % 3 else f"TF{i}+A_VERY_LONG_NAME_OF_A_GENE" for i in range(n)],
            "modes": ["knockout" if i % 3 else "overexpress+knockout" for i in range(n)],
            "n_factors": [1 if i % 3 else 2 for i in range(n)],
            "progress": progress,
            "q05": progress - 0.1,
            "q95": progress + 0.1,
            "significant": progress > 0.3,
        }
    )
    columns = ["factors", "modes", "progress", "q05", "q95", "significant"]
    rows = [ranking.loc[i, columns].to_dict() for i in (1, 4, 0, 3)]
    pareto = pd.DataFrame(rows)
    pareto["n_factors"] = [1, 1, 2, 2]
    pareto["method"] = ["search", "marker difference"] * 2
    pareto["null95"] = [0.2, 0.2, 0.3, 0.3]
    nothing = {"n_factors": 0, "method": "nothing", "progress": 0, "q05": 0, "q95": 0, "null95": 0}
    pareto = pd.concat(
        [pd.DataFrame([{**nothing, "factors": "", "modes": "", "significant": False}]), pareto],
        ignore_index=True,
    )
    mdata.uns["reprogram"] = {
        "ranking": ranking,
        "pareto": pareto,
        "significant": True,
        "params": {"source": "HSC", "target": "Erythroid"},
    }
    return mdata


def test_the_front_and_the_ranking_show_the_table(mdata):
    front, ranking = mm.pl.reprogram(mdata, n_top=6, show=False)
    np.testing.assert_allclose(front.lines[-1].get_xdata(), [0, 1, 2])
    table = mdata.uns["reprogram"]["ranking"].head(6)
    np.testing.assert_allclose(front.lines[-1].get_ydata(), [0, *table["progress"].iloc[[1, 0]]])
    labels = [t.get_text() for t in ranking.get_yticklabels()]
    assert labels[-1].startswith("+TF0  −A_VERY_LONG")
    assert labels[0] == "−TF5"
    np.testing.assert_allclose(sorted(b.get_width() for b in ranking.patches), [0.2] * 4 + [0.3] * 2)
    # of the two sets the markers choose both are among the six
    assert [len(c.get_offsets()) for c in ranking.collections[1:]] == [4, 2]
    assert "HSC → Erythroid" in front.figure.get_suptitle()
    assert "not beyond" not in front.figure.get_suptitle()


def test_chance_is_named_in_the_title(mdata):
    mdata.uns["reprogram"]["significant"] = False
    mdata.uns["reprogram"]["ranking"]["significant"] = False
    fig = mm.pl.reprogram(mdata, width=3.5, return_fig=True)
    assert "not beyond chance" in fig.get_suptitle()


def test_names_with_a_plus(mdata):
    ranking = mdata.uns["reprogram"]["ranking"].replace(
        {"factors": {"TF1": "CD8+T", "TF0+A_VERY_LONG_NAME_OF_A_GENE": "CD8+T+X"}}
    )
    mdata.uns["reprogram"]["ranking"] = ranking
    labels = [t.get_text() for t in mm.pl.reprogram(mdata, n_top=14, show=False)[1].get_yticklabels()]
    assert labels[::-1][:3] == ["+− CD8+T+X", "−CD8+T", "−TF2"]


def test_refusals(mdata):
    with pytest.raises(ValueError, match="n_top must be at least 1"):
        mm.pl.reprogram(mdata, n_top=0)
    with pytest.raises(KeyError, match=r"call `mm.tl.reprogram\(mdata, source, target\)` first"):
        mm.pl.reprogram(mdata, key="other")

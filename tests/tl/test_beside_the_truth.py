"""What is predicted beside what the simulator does, and a null beside both."""

import warnings

import numpy as np

import mmopt as mm


def test_the_readout_against_the_truth(twinned):
    """In all modalities the simulator's effect in the cells of the end, nearer than no change, and intervals that hold it."""
    table = twinned.uns["simulate"]["features"]
    end = table[table["time"] == 8].set_index(["modality", "feature"])
    arms = {arm: part[["mean", "lo", "hi"]] for arm, part in end.groupby("arm", observed=True)}
    change = arms["perturbed"].sub(arms["wild_type"]["mean"], axis=0)
    late = twinned[twinned.obs["time"] == 8].copy()
    truth = mm.datasets.truth_effect(late, "GATA1", groupby=None).set_index(["modality", "feature"])["delta"]
    for modality, n in (("rna", 15), ("atac", 30), ("prot", 5)):
        true = truth[modality].drop("GATA1", errors="ignore")
        got, largest = change.loc[modality].loc[true.index], true.abs().nlargest(n).index
        assert np.corrcoef(got["mean"], true)[0, 1] > 0.7, modality
        assert (np.sign(got["mean"]) == np.sign(true))[largest].mean() > 0.75, modality
        error = (got["mean"] - true).abs()
        assert error.sum() < 0.7 * true.abs().sum(), modality
        assert error[largest].sum() < 0.5 * true[largest].abs().sum(), modality
        inside = true.between(got["lo"], got["hi"])
        assert inside[largest].mean() > 0.6, modality
        assert inside.mean() > 0.85, modality


def test_fates_are_nearer_to_the_truth_than_no_change_on_average(twinned):
    """Of every second regulator, held at nothing and in excess in turn; not each of them: see the documentation."""
    mdata, error, still = twinned.copy(), [], []
    for i, gene in enumerate(mm.datasets.krumsiek2011().regulators[::2]):
        asked = (gene, ("knockout", "overexpress")[i % 2])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            mm.tl.simulate(
                mdata,
                start={"time": 0},
                interventions=[asked],
                terminal_key="cell_type",
                features=["KLF1"],
                n_cells=20,
                n_times=2,
                progress_bar=False,
            )
        found = mdata.uns["simulate"]
        fate, truth = (
            found["fate"].set_index("label"),
            mm.datasets.truth_fates(mdata, asked).set_index("fate"),
        )
        named = truth.index.intersection(fate.index)
        moved, true = fate["p"] - fate["wild_type"], truth["perturbed"] - truth["wild_type"]
        error.append(0.5 * (moved - true)[named].abs().sum())
        still.append(0.5 * true[named].abs().sum())
    assert len(error) == 6
    assert np.mean(error) < 0.85 * np.mean(still)
    assert np.mean(error) < 0.2


def test_a_network_of_shuffled_targets_knows_nothing_of_the_truth(regulated):
    """The null: the same weights between the same regulators and genes drawn at random."""
    mdata, genes = regulated[0].copy(), ["GATA1", "SPI1"]
    members, n = mdata.uns["regulons"]["members"], mdata["rna"].n_vars
    fitted = np.asarray(members["target"])
    truth = {g: mm.datasets.truth_effect(mdata, g, regime="acute", groupby=None) for g in genes}
    truth = {g: t[t["modality"] == "rna"].set_index("feature")["delta"].drop(g) for g, t in truth.items()}

    def agreement(targets):
        members["target"] = targets
        found = []
        for gene, true in truth.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                mm.tl.perturb(mdata, gene, n_null=5, key_added="p")
            effects = mdata.uns["perturb"]["p"]["effects"]
            effects = effects[(effects["modality"] == "rna") & (effects["group"] == "all")]
            found.append(np.corrcoef(effects.set_index("feature")["delta"][true.index], true)[0, 1])
        return np.array(found)

    assert agreement(fitted).mean() > 0.7
    orders = [np.random.default_rng(seed).permutation(n) for seed in (0, 1)]
    shuffled = [agreement(np.where(fitted < n, o[np.minimum(fitted, n - 1)], fitted)) for o in orders]
    assert abs(np.mean(shuffled)) < 0.2
    assert np.abs(shuffled).max() < 0.5

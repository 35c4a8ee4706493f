"""What a network without the right edges predicts: ``python controls.py [e f ...]`` writes ``controls.csv``.

The cells, knock-outs, over-expressions and doubles of ``accuracy.py`` that last, on the networks of ``REPORT``, method ``"network"``.
Beside the network with its noisy prior: its targets shuffled within each modality, regulators among themselves (three times); a prior
whose targets are shuffled before the fit; no prior, but the regulators and decoys named; and no prior at all, so that any gene
may regulate.
"""

import sys
import warnings
from pathlib import Path

import networks
import numpy as np
import pandas as pd
from accuracy import ALL, KINDS, chosen, embedded, predicted, renew, scores, size, truth

import mmopt as mm

SHUFFLES = 3


def shuffle_targets(mdata, rng: np.random.Generator) -> None:
    """Give every target of the fitted network the regulators of another one of its modality and kind."""
    features, members = mdata.uns["regulons"]["features"], mdata.uns["regulons"]["members"]
    order = np.arange(len(features))
    acts = np.isin(order, members["regulators"])
    for modality in features["modality"].unique():
        here = (features["modality"] == modality).to_numpy()
        for columns in (order[here & acts], order[here & ~acts]):
            order[columns] = rng.permutation(columns)
    members["target"] = order[members["target"]].astype(members["target"].dtype)


def shuffled_prior(prior: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    shuffled = prior.assign(target=rng.permutation(prior["target"].to_numpy()))
    return shuffled.drop_duplicates(["source", "target"])


def fits(mdata, prior: pd.DataFrame, named: list[str], rng: np.random.Generator):
    """Fit one network after the other, and name it."""
    mm.tl.regulons(mdata, prior=prior, use_rep="X_pca")
    yield "prior"
    for _ in range(SHUFFLES):
        shuffle_targets(mdata, rng)
        yield "targets shuffled"
    mm.tl.regulons(mdata, prior=shuffled_prior(prior, rng), use_rep="X_pca")
    yield "prior shuffled"
    mm.tl.regulons(mdata, regulators=named, use_rep="X_pca")
    yield "no prior, regulators known"
    mm.tl.regulons(mdata, use_rep="X_pca")
    yield "no prior, any gene"


def run(name: str) -> pd.DataFrame:
    """One row per kind of perturbation and network, mean over shuffles."""
    setting, spec, how = ALL[name]
    mdata, prior, regulators, decoys = networks.data(spec, **how)
    embedded(mdata)
    perturbations = chosen(regulators, spec[-1])
    true = [truth(mdata, *p, "chronic") for p in perturbations]
    rows = []
    for fit in fits(mdata, prior, [*regulators, *decoys], np.random.default_rng([spec[-1], 8])):
        found = [predicted(mdata, *p, "network") for p in perturbations]
        blind = [size(predicted(mdata, "knockout", (d,), "network")) for d in decoys]
        for kind in KINDS:
            mine = [i for i, (k, _) in enumerate(perturbations) if k == kind]
            row = {"network": name, "genes": setting, "kind": kind, "fit": fit}
            row |= scores([found[i] for i in mine], [true[i] for i in mine])
            if kind == "knockout":
                row["decoys"] = np.median(blind) / np.median([size(found[i]) for i in mine])
            rows.append(row)
    return pd.DataFrame(rows).groupby(["network", "genes", "kind", "fit"], sort=False, as_index=False).mean()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or networks.REPORT:
        found = run(name)
        renew(Path(__file__).with_suffix(".csv"), name, found)
        print(found.round(2).to_string(), flush=True)

"""What times of sampling and unspliced RNA add to a network, with RNA alone and with all modalities; ``python timed.py [e f ...]``.

The networks of ``accuracy.py``, on which nothing was chosen, and its perturbations and truth; method ``network``. Every network is fitted
without and with ``time_key`` and ``unspliced`` (a quarter of the molecules). Writes ``timed.csv`` after each network.
"""

import sys
import warnings
from itertools import product
from pathlib import Path

import networks
import pandas as pd
from accuracy import ALL, KINDS, chosen, predicted, renew, scores, size, truth

import mmopt as mm

sys.path.insert(0, str(Path(__file__).parents[1] / "twin"))
from fates import embedded

UNSPLICED = 0.25
MODALITIES = {"RNA": {"atac": False, "prot": False}, "all": {}}


def run(name: str) -> pd.DataFrame:
    """One row per modalities, times, unspliced RNA, kind of perturbation and regime."""
    setting, spec, how = ALL[name]
    mdata, prior, regulators, decoys = networks.data(spec, unspliced=UNSPLICED, **how)
    embedded(mdata)
    perturbations = chosen(regulators, spec[-1])
    true = {
        (kind, genes, regime): truth(mdata, kind, genes, regime)
        for kind, genes in perturbations
        for regime in KINDS[kind][1]
    }
    rows = []
    for measured, only in MODALITIES.items():
        for more in (
            dict(zip(("time_key", "unspliced"), both, strict=True))
            for both in product((None, "time"), (None, "unspliced"))
        ):
            mm.tl.regulons(mdata, prior=prior, use_rep="X_pca", **more, **only)
            found = [predicted(mdata, kind, genes, "network") for kind, genes in perturbations]
            blind = [size(predicted(mdata, "knockout", (d,), "network")) for d in decoys]
            for kind, (_, regimes) in KINDS.items():
                mine = [i for i, (k, _) in enumerate(perturbations) if k == kind]
                for regime in regimes:
                    row = {"network": name, "genes": setting, "modalities": measured}
                    row |= {"times": more["time_key"] is not None, "unspliced": more["unspliced"] is not None}
                    row |= {"kind": kind, "regime": regime}
                    row |= scores(
                        [found[i] for i in mine], [true[kind, perturbations[i][1], regime] for i in mine]
                    )
                    if kind == "knockout":
                        others = pd.Series([size(found[i]) for i in mine]).median()
                        row["decoys"] = pd.Series(blind).median() / others
                    rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or ALL:
        found = run(name)
        renew(Path(__file__).parent / "timed.csv", name, found)
        print(found.round(2).to_string(), flush=True)

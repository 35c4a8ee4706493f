"""MuData as users bring them, good and bad.

Everything is chosen by a function ``pick``, which takes one of several options: :func:`mudatas` lets hypothesis pick (and
shrink what fails), ``fuzz_inputs.py`` a random generator (whose cases are independent of each other).
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse

from mmopt._compat import override_pull_on_update
from mmopt._random import isolated

NAMES = {"rna": ("gex", "RNA"), "atac": ("Peaks",), "prot": ("adt", "cite")}
FEATURES = {"rna": "GENE{}", "atac": "chr1:{}00-{}50", "prot": "CD{}"}
ODD = ("é-ñ {}", "a/b {}", "基因{}", "{}", "x:y{}", "🧬{}", "rna:GENE{}", "{} ")
CONTAINERS = {
    "dense": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}
GOOD = ("float32", "float64", "int32", "int64", "uint16", "bool")
SPOILT = ("zeros", "nan", "inf", "negative", "fractional", "huge", "logged", "scaled")
BATCHES = (
    *("text", "categorical", "unused category", "integer", "float", "bool", "one", "one per cell"),
    *("missing", "float missing", "mixed", "all missing", "slashes"),
)
Pick = Callable[[Sequence], Any]


def often(pick: Pick, common: Sequence, rare: Sequence) -> Any:
    """One of ``common`` 24 times of 25: a case has some forty properties, and nothing would be fitted if many were odd."""
    return pick(common) if pick(range(25)) else pick(rare)


def values(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Counts of a type, or something that is none."""
    x = rng.poisson(rng.gamma(1.0, 2.0, shape)).astype(float)
    if kind in GOOD:
        return x.astype(kind)
    if kind == "zeros":
        return np.zeros(shape, dtype=np.float32)
    if kind == "logged":
        return np.log1p(x)
    if kind == "scaled":
        return (x - x.mean()) / (x.std() + 1)
    spoil = {
        "nan": np.nan,
        "inf": np.inf,
        "negative": -3,
        "fractional": 0.5,
        "huge": rng.choice([2.0**23, 1e30]),
    }
    if x.size:
        x.flat[rng.integers(x.size)] = spoil[kind]
    return x


def labels(kind: str, n: int, rng: np.random.Generator) -> object:
    """A batch column of ``n`` cells."""
    two = rng.integers(0, 2, n)
    text = np.array(["a", "b"], dtype=object)[two]
    holes = np.where(rng.random(n) < 0.3, None, text)
    return {
        "text": text,
        "categorical": pd.Categorical(text),
        "unused category": pd.Categorical(text, categories=["b", "c", "a"]),
        "integer": two,
        "float": two + 0.5,
        "bool": two == 1,
        "one": np.repeat("a", n),
        "one per cell": np.arange(n).astype(str),
        "missing": holes,
        "float missing": np.where(rng.random(n) < 0.3, np.nan, two),
        "mixed": np.array([["a", 1, 2.5][i % 3] for i in range(n)], dtype=object),
        "all missing": np.full(n, np.nan),
        "slashes": np.array(["d/1", "d/2 ü"], dtype=object)[two],
    }[kind]


def called(pattern: str, n: int) -> np.ndarray:
    """``n`` names."""
    return np.array([pattern.format(i, i) for i in range(n)], dtype=object)


def make_modality(pick: Pick, role: str, cells: np.ndarray) -> anndata.AnnData:
    """One modality of some of the cells, in an order of its own."""
    rng = np.random.default_rng(pick(range(1000)))
    n_vars = often(pick, [20, 25], [0, 1, 2, 3])
    chosen = rng.permutation(
        np.flatnonzero(rng.random(len(cells)) < often(pick, [1.0, 1.0, 1.0, 0.9], [0.7, 0.2]))
    )
    names = cells[chosen]
    if often(pick, [False], [True]) and len(names) > 1:
        names[0] = names[1]
    features = called(often(pick, [FEATURES[role]], ODD), n_vars)
    if often(pick, [False], [True]) and n_vars > 1:
        features[0] = features[1]
    x = values(often(pick, GOOD, SPOILT), (len(names), n_vars), rng)
    x = CONTAINERS[pick(list(CONTAINERS))](x)
    where = often(pick, ["X"], ["counts", "raw", "nowhere"])
    adata = anndata.AnnData(
        x if where == "X" else None, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=features)
    )
    if where in ("counts", "raw"):
        adata.layers[where] = x
        adata.X = np.log1p(np.abs(np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=float)))
    if often(pick, [False], [True]):
        adata.var["highly_variable"] = rng.random(n_vars) < pick([0.0, 0.5, 1.0])
    if often(pick, [False], [True]):
        adata.obs["donor"] = labels(pick(BATCHES), len(names), rng)
    return adata


def make_mudata(pick: Pick, folder: Path | None = None) -> mudata.MuData:
    """Anything that ``mudata.MuData`` can be built of; with a ``folder``, some are files opened with ``backed="r"``."""
    rng = np.random.default_rng(pick(range(1000)))
    n = often(pick, [20, 60], [0, 1, 2, 3])
    cells = called(often(pick, ["cell{}"], ODD), n)
    roles = often(
        pick, [list(NAMES), ["rna", "prot"], ["prot", "atac", "rna"]], [["rna"], ["prot"], ["atac"]]
    )
    with warnings.catch_warnings(), override_pull_on_update(), isolated(0):  # mudata draws names of columns
        warnings.simplefilter("ignore")
        mods = {often(pick, [role], NAMES[role]): make_modality(pick, role, cells) for role in roles}
        if often(pick, [False], [True]):
            mods[pick(["gex", "données/α", "other"])] = make_modality(pick, "rna", cells)
        if often(pick, [False], [True]):  # cells of which no known modality was measured
            mods["histology"] = anndata.AnnData(np.ones((n, 1)), obs=pd.DataFrame(index=cells))
        mdata = mudata.MuData(mods)
        if pick([True, True, False]):
            mdata.obs["donor"] = labels(often(pick, ["text"], BATCHES), mdata.n_obs, rng)
        mdata.obs["perturbation"] = np.array(["NT", "GENE1", "GENE0+GENE1"], dtype=object)[
            rng.integers(0, 3, mdata.n_obs)
        ]
        form = often(pick, ["memory"] * 8 + ["view", "backed"], ["out of step"])
        if form == "view" and mdata.obs_names.is_unique and all(a.obs_names.is_unique for a in mods.values()):
            mdata = mdata[rng.random(mdata.n_obs) < 0.8]
        if form == "out of step" and mdata.n_obs:
            name = next(iter(mdata.mod))
            renamed = mdata.mod[name].copy()
            renamed.obs_names = [f"new{i}" for i in range(renamed.n_obs)]
            mdata.mod[name] = renamed
        if form == "backed" and folder is not None:
            mdata = on_disk(mdata, folder / "hostile.h5mu")
    return mdata


@st.composite
def mudatas(draw) -> mudata.MuData:
    """Strategy of what :func:`make_mudata` makes."""
    return make_mudata(lambda options: draw(st.sampled_from(options)))


def on_disk(mdata: mudata.MuData, path: Path) -> mudata.MuData:
    """The same from a file, or as it was where it cannot be written."""
    try:
        mdata.write_h5mu(path)
        return mudata.read_h5mu(path, backed="r")
    except Exception:  # noqa: BLE001  what mudata cannot write is not ours to mend
        return mdata

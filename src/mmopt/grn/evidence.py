"""What is known of each edge before any fit: a prior, motifs in linked peaks, the gene behind a protein."""

import re

import numpy as np
import pandas as pd

# labels, best first
BOTH, PRIOR, MOTIF, COVARIATION = "prior+peak", "prior", "motif+peak", "covariation"
_SUFFIX = re.compile(r"(?i)[-_. ]?(adt|prot|protein|totalseq[-_]?[abcd]?)$")


def signs(prior: pd.DataFrame) -> np.ndarray:
    """Sign of each row of a prior: of ``weight``, ``sign`` or ``mor``; NaN where it has none of these columns or a 0.

    Raises
    ------
    ValueError
        Values that are neither numbers nor ``"+"`` or ``"-"``.
    """
    column = next((c for c in ("weight", "sign", "mor") if c in prior), None)
    if column is None:
        return np.full(len(prior), np.nan)
    given = prior[column].astype(object)
    written = given.map(lambda value: {"+": 1, "-": -1}.get(value, value))
    number = pd.to_numeric(written, errors="coerce").to_numpy(dtype=float)
    odd = np.isnan(number) & given.notna().to_numpy()
    if odd.any():
        raise ValueError(
            f"prior: {column!r} has values that are neither numbers nor '+' or '-' ({given[odd].iloc[0]!r}); give 1 for an "
            "edge that activates, -1 for one that represses and NaN where that is not known"
        )
    sign = np.sign(number)
    return np.where(sign == 0, np.nan, sign)


def combined(edges: pd.DataFrame) -> pd.DataFrame:
    """Take edges that are there several times once, whatever the order: a known sign counts, two that disagree do not.

    Parameters
    ----------
    edges
        ``target``, ``source`` and ``sign`` (1, -1 or NaN).
    """
    sign = edges.groupby(["target", "source"])["sign"]
    lowest, highest = sign.min(), sign.max()
    return lowest.where(lowest == highest).reset_index()


def support(
    n_features: int,
    p: int,
    direct: pd.DataFrame,
    serves: pd.DataFrame,
    motifs: pd.DataFrame | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the evidence out as a matrix; what regulates a gene may also act on its peaks and shows in its protein.

    Parameters
    ----------
    n_features, p
        Shape of the result.
    direct
        ``target`` (column), ``source`` (number of the regulator) and ``sign`` (1, -1 or NaN) of the prior's edges.
    serves
        ``feature`` (column of a peak or protein) and ``gene`` (column): whose regulators it inherits.
    motifs
        ``peak`` (column), ``gene`` (column of a gene it is linked to) and ``source`` (number of the regulator).

    Returns
    -------
    sign, in_prior, by_motif
        ``(n_features, p)``: 1 or -1 where the prior says so, NaN for an edge of unknown sign, 0 for no evidence; which
        edges are known from the prior, and which from a motif in a linked peak.
    """
    sign = np.zeros((n_features, p))
    sign[direct["target"].to_numpy(int), direct["source"].to_numpy(int)] = direct["sign"]
    in_prior = sign != 0
    by_motif = np.zeros((n_features, p), dtype=bool)
    if motifs is not None and len(motifs):
        for end in ("peak", "gene"):
            by_motif[motifs[end].to_numpy(int), motifs["source"].to_numpy(int)] = True
    sign[by_motif & (sign == 0)] = np.nan
    for feature, gene in zip(serves["feature"].to_numpy(int), serves["gene"].to_numpy(int), strict=True):
        row = sign[feature]
        inherited = np.isnan(row) | (row == 0)
        row[inherited] = np.where(sign[gene][inherited] != 0, sign[gene][inherited], row[inherited])
        for known in (in_prior, by_motif):
            known[feature] |= known[gene]
    return sign, in_prior, by_motif


def labels(
    in_prior: np.ndarray, by_motif: np.ndarray, agrees: np.ndarray, target: np.ndarray, source: np.ndarray
) -> np.ndarray:
    """Evidence of each edge in one word.

    Parameters
    ----------
    in_prior, by_motif
        Of :func:`support`.
    agrees
        ``(n_features, p)``: the regulator goes with the target's linked chromatin in the direction of the edge.
    target, source
        Of the edges.
    """
    prior, motif, seen = (known[target, source] for known in (in_prior, by_motif, agrees))
    return np.select([prior & seen, prior, motif], [BOTH, PRIOR, MOTIF], COVARIATION).astype(object)


def cognate_genes(proteins: pd.Index, genes: pd.Index, given: pd.Series | None = None) -> pd.DataFrame:
    """Gene that codes for each protein, by a given column or by its name without a suffix, whatever the case.

    Returns
    -------
    DataFrame
        ``protein`` and ``gene``, numbers of those that were found.
    """
    by_upper: dict[str, int] = {}
    for number, gene in enumerate(genes):
        by_upper.setdefault(str(gene).upper(), number)
    names = proteins if given is None else given.astype(str)
    found = [
        (number, by_upper[key])
        for number, name in enumerate(names)
        if (key := _SUFFIX.sub("", str(name)).upper()) in by_upper
    ]
    return pd.DataFrame(found, columns=["protein", "gene"], dtype=int)

"""Features of all modalities side by side, and how a user names one of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed, marks, nearest
from mmopt._keys import ALIASES, HIGHLY_VARIABLE, MODALITIES


@dataclass(frozen=True, eq=False)
class Features:
    """Columns of the arrays that the network works on: RNA, then ATAC, then protein.

    Parameters
    ----------
    modalities
        Role (``"rna"``, ``"atac"``, ``"prot"``) to the modality's name.
    names
        Role to the names of its features that are used.
    shares
        Role (RNA, ATAC) to the share of a cell's counts that these features have, mean over the cells; 1 where it is not
        known.
    """

    modalities: Mapping[str, str]
    names: Mapping[str, pd.Index]
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def blocks(self) -> dict[str, slice]:
        """Role to its columns."""
        ends = np.cumsum([0, *(len(self.names[role]) for role in self.modalities)])
        return {role: slice(a, b) for role, a, b in zip(self.modalities, ends[:-1], ends[1:], strict=True)}

    @property
    def table(self) -> pd.DataFrame:
        """``modality`` and ``feature`` of every column."""
        return pd.DataFrame(
            {
                "modality": np.concatenate([[self.modalities[r]] * len(n) for r, n in self.names.items()]),
                "feature": np.concatenate([n.to_numpy(dtype=object) for n in self.names.values()]),
            }
        )

    def role(self, column: int) -> str:
        """Role of the modality of a column."""
        return next(role for role, block in self.blocks.items() if block.start <= column < block.stop)

    def name(self, column: int) -> str:
        """Name of the feature of a column."""
        role = self.role(column)
        return str(self.names[role][column - self.blocks[role].start])

    def within(self, values: np.ndarray | float, role: str) -> np.ndarray | float:
        """Turn counts per 10,000 of all that was counted, as users know them, into such of 10,000 counts of these features."""
        return values / self.shares.get(role, 1.0)

    def find(self, feature: str, mdata: MuData) -> int:
        """Column of ``"GATA1"``, or of ``"rna:CD4"`` where a name alone would be ambiguous.

        Raises
        ------
        TypeError
            No string.
        KeyError
            No such feature; names the nearest ones, or says that it was left out.
        ValueError
            In two modalities.
        """
        if not isinstance(feature, str):
            raise TypeError(f"a feature is a name such as 'GATA1' or 'rna:CD4', not {feature!r}")
        prefix, _, rest = feature.partition(":")
        roles, name = list(self.modalities), feature
        asked = role_of(prefix, self.modalities)
        # a peak's name may hold a colon of its own: chr1:100-600
        if asked and rest and not any(feature in self.names[r] for r in roles):
            if asked not in self.modalities:
                raise ValueError(
                    f"{feature!r}: the network knows no {asked} modality, only {listed(self.modalities.values())}; "
                    f"call `mm.tl.regulons(mdata, {asked}=...)` again with it"
                )
            roles, name = [asked], rest
        found = [role for role in roles if name in self.names[role]]
        if len(found) > 1:
            choices = " or ".join(repr(f"{self.modalities[role]}:{name}") for role in found)
            raise ValueError(f"{name!r} is in several modalities; say {choices}")
        if found:
            return self.blocks[found[0]].start + int(self.names[found[0]].get_loc(name))
        left_out = [self.modalities[r] for r in roles if name in mdata.mod[self.modalities[r]].var_names]
        if left_out:
            raise KeyError(
                f"{name!r} is in modality {left_out[0]!r} but not in the network: it was not marked "
                f"`var[{HIGHLY_VARIABLE!r}]` when `mm.tl.regulons` ran; mark it, or name it in its `regulators=`"
            )
        parts = feature.split("+")
        if len(parts) > 1 and all(any(p in self.names[r] for r in self.modalities) for p in parts):
            raise KeyError(f"no feature {feature!r}; to perturb several together, give a list: {parts}")
        close = [f for role in roles for f in nearest(name, self.names[role], 3)]
        raise KeyError(
            f"no feature {name!r} in {listed(self.modalities[r] for r in roles)}; nearest: {listed(close) or 'none'}"
        )


def role_of(prefix: str, modalities: Mapping[str, str]) -> str | None:
    """Role that is meant by the ``rna`` of ``"rna:CD4"``: a modality of that name, else a role, else a usual name."""
    for named in (
        [r for r, name in modalities.items() if prefix == name],
        [r for r in MODALITIES if prefix == r],
        [r for r in MODALITIES if prefix in ALIASES[r]],
    ):
        if named:
            return named[0]
    return None


def one_spelling(source: object, mdata: MuData, modalities: Mapping[str, str]) -> str:
    """Write ``"adt:CD4"`` as ``"prot:CD4"`` and ``"rna:GATA1"`` as ``"GATA1"``, whatever the modalities are called."""
    prefix, _, rest = str(source).partition(":")
    role = (
        role_of(prefix, modalities) if rest and source not in mdata.mod[modalities["rna"]].var_names else None
    )
    return rest if role == "rna" else f"prot:{rest}" if role == "prot" else str(source)


def choose_features(mdata: MuData, modalities: Mapping[str, str], keep: Mapping[str, set]) -> Features:
    """Take the features marked highly variable, all where there are no marks, and always those of ``keep``."""
    names = {}
    for role, modality in modalities.items():
        var = mdata.mod[modality].var
        used = np.ones(len(var), dtype=bool)
        if HIGHLY_VARIABLE in var:
            used = marks(var, HIGHLY_VARIABLE, modality) | var.index.isin(keep.get(role, ()))
        if not used.any():
            raise ValueError(
                f"modality {modality!r}: var[{HIGHLY_VARIABLE!r}] marks no feature; mark some with `mm.pp.prepare(mdata)`, "
                f"or leave the modality out with `{role}=False`"
            )
        names[role] = var.index[used]
    return Features(dict(modalities), names)


def other_spelling(wanted: list[str], genes: pd.Index) -> str:
    """How to bring a prior to the names of the data, as far as these tell."""
    by_upper = {str(g).upper(): str(g) for g in genes}
    for w in wanted:
        if gene := by_upper.get(w.upper()):
            how = "upper" if gene.isupper() else "capitalize"
            return (
                f"; they differ in case, such as {w!r} and {gene!r}: convert the prior, "
                f"`prior.assign(source=prior['source'].str.{how}(), target=prior['target'].str.{how}())`"
            )
    if wanted[0].startswith("ENS") != str(genes[0]).startswith("ENS"):
        return "; one has Ensembl ids and the other gene symbols: use gene symbols in both, e.g. as `mdata['rna'].var_names`"
    example = next((f"{w!r} and {n[0]!r}" for w in wanted if (n := nearest(w, genes, 1))), "")
    return f"; do they differ in spelling, such as {example}?" if example else ""

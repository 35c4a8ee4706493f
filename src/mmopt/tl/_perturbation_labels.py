"""How tables and columns name perturbations: what is hit, and what was done to it."""

from collections.abc import Collection, Iterable
from typing import TypeAlias

from mmopt import _keys
from mmopt._checks import listed, nearest
from mmopt.tl._interventions import MODES

# what is hit, in alphabetical order, each with its mode or ""
Hits: TypeAlias = tuple[tuple[str, str], ...]
PREFIXES = frozenset({*_keys.MODALITIES, *(alias for names in _keys.ALIASES.values() for alias in names)})


def read_label(label: str, prefixes: Collection[str] = PREFIXES) -> Hits:
    """Read ``GATA1``, ``rna:GATA1``, ``GATA1_knockout``, ``A+B_knockout`` and ``A_knockout+B_overexpress``.

    Examples
    --------
    >>> read_label("SPI1+rna:GATA1_knockout")
    (('GATA1', 'knockout'), ('SPI1', 'knockout'))
    """
    hits = []
    for part in label.split("+"):
        name, mode = part.strip(), ""
        for known in MODES:
            if name.endswith(f"_{known}"):
                name, mode = name.removesuffix(f"_{known}"), known
        prefix, _, rest = name.partition(":")
        # a peak's name may hold a colon of its own: chr1:100-600
        hits.append((rest if prefix in prefixes and rest else name, mode))
    if not any(mode for _, mode in hits[:-1]):  # one mode behind all of them
        hits = [(name, hits[-1][1]) for name, _ in hits]
    return tuple(sorted(hits))


def plain(hits: Hits) -> str:
    """Name what is hit, without modes."""
    return "+".join(name for name, _ in hits)


def spelled(hits: Hits) -> str:
    """Name what is hit, each with its mode."""
    return "+".join(f"{name}_{mode}" if mode else name for name, mode in hits)


def agree(one: Hits, other: Hits) -> bool:
    """Whether two labels can mean the same; a mode that is not said agrees with any."""
    return [name for name, _ in one] == [name for name, _ in other] and all(
        a == b or not a or not b for (_, a), (_, b) in zip(one, other, strict=True)
    )


def by_name(read: Iterable[Hits], what: str) -> dict[str, Hits]:
    """Plain names; raise where two modes of the same would fall on one."""
    found: dict[str, Hits] = {}
    for hits in read:
        first = found.setdefault(plain(hits), hits)
        if first != hits:
            raise ValueError(
                f"{what}: {plain(hits)!r} is there twice, as {spelled(first)!r} and {spelled(hits)!r}; evaluate one mode at a "
                "time: leave the rows of the other out, or give its cells no label"
            )
    return found


def find_control(there: Iterable[str], control: str | None, key: str) -> str:
    """Label of the unperturbed cells among those there are; raise where it is not clear which."""
    there = list(there)
    if control is None:
        spellings = [v for v in there if v.lower() in _keys.CONTROLS]
        if len(spellings) != 1:
            raise ValueError(
                f"obs column {key!r} has {'no' if not spellings else 'several'} labels of control cells among "
                f"{listed(there)}; name it with `control=`"
            )
        return spellings[0]
    if control not in there:
        raise ValueError(
            f"control={control!r}: no such label in obs column {key!r}; nearest: {listed(nearest(control, there) or there)}"
        )
    return control

"""The built-in network: myeloid differentiation after Krumsiek et al. 2011."""

import pandas as pd

from mmopt.datasets.network import DECISIVE, STAGE_COLUMNS, Network

# The paper's Boolean rules, "+" joins what acts together; the number is the threshold. The rules are the
# paper's, the thresholds ours: chosen so that the four fates of the wild type are about equally frequent.
_RULES = {
    "GATA2": (["GATA2 0.2"], ["GATA1 0.5+ZFPM1 0.5", "SPI1 0.6"]),
    "GATA1": (["GATA1 0.5", "GATA2 0.5", "FLI1 0.5"], ["SPI1 0.3"]),
    "ZFPM1": (["GATA1 0.7"], []),
    "KLF1": (["GATA1 0.5"], ["FLI1 0.5"]),
    "FLI1": (["GATA1 0.5"], ["KLF1 0.5"]),
    "TAL1": (["GATA1 0.5"], ["SPI1 0.5"]),
    "CEBPA": (["CEBPA 0.5"], ["GATA1 0.7+ZFPM1 0.7+TAL1 0.5"]),
    "SPI1": (["CEBPA 0.4", "SPI1 0.15"], ["GATA1 0.2", "GATA2 0.75"]),
    "JUN": (["SPI1 0.3"], ["GFI1 0.3"]),
    "EGR1": (["SPI1 0.3+JUN 0.2"], ["GFI1 0.3"]),
    "GFI1": (["CEBPA 0.7"], ["EGR1 0.3"]),
}
_INITIAL = {"GATA2": 0.8, "CEBPA": 0.75, "SPI1": 0.5}
# decisive: without GFI1 no granulocyte, and none with GATA1 on; the means over a stage's genes alone would call either one
_STAGES = {
    "MEP": ("intermediate", "GATA1", "SPI1", ""),
    "GMP": ("intermediate", "SPI1", "GATA2 GATA1", ""),
    "erythrocyte": ("fate", "GATA1 ZFPM1 KLF1 TAL1", "FLI1 SPI1 CEBPA", "KLF1"),
    "megakaryocyte": ("fate", "GATA1 ZFPM1 FLI1 TAL1", "KLF1 SPI1 CEBPA", "FLI1"),
    "monocyte": ("fate", "SPI1 JUN EGR1", "GFI1 GATA2", "GFI1 GATA1"),
    "granulocyte": ("fate", "SPI1 GFI1", "JUN GATA2", "GFI1 JUN GATA1"),
}
# surface markers, downstream only: what they follow
_MARKERS = {
    "CD34": ["GATA2"],
    "KIT": ["GATA2"],
    "TFRC": ["GATA1"],
    "GYPA": ["GATA1+KLF1"],
    "EPOR": ["GATA1+TAL1"],
    "ITGA2B": ["GATA1+FLI1"],
    "GP9": ["FLI1"],
    "ITGAM": ["SPI1"],
    "CSF1R": ["SPI1+JUN"],
    "CD14": ["SPI1+EGR1"],
    "CSF3R": ["CEBPA"],
    "CEACAM8": ["GFI1"],
}


def krumsiek2011(*, markers: bool = True) -> Network:
    """Return the myeloid network of Krumsiek et al. 2011: 11 regulators, 30 edges, 4 fates.

    Boolean rules of the paper as smooth Hill logic, from its progenitor state (GATA2, CEBPA and SPI1 on) to the
    erythrocyte, the megakaryocyte, the monocyte and the granulocyte. Symbols are HGNC's: FOG-1 is ``ZFPM1``, EKLF
    ``KLF1``, SCL ``TAL1``, PU.1 ``SPI1``, cJun ``JUN`` and the EgrNab complex ``EGR1``.

    Parameters
    ----------
    markers
        Add 12 well-known surface markers downstream (``CD34``, ``GYPA``, ``ITGA2B``, ``CD14``, …), not in the paper.

    References
    ----------
    Krumsiek J, Marr C, Schroeder T, Theis FJ (2011) Hierarchical differentiation of myeloid progenitors is encoded in
    the transcription factor network. PLoS ONE 6:e22649.

    Examples
    --------
    >>> krumsiek2011().fates
    ['erythrocyte', 'megakaryocyte', 'monocyte', 'granulocyte']
    """
    rules = dict(_RULES)
    if markers:
        rules |= {gene: (complexes, []) for gene, complexes in _MARKERS.items()}
    edges = [
        (*term.split(" "), target, sign, number)
        for target, signed in rules.items()
        for sign, complexes in zip((1, -1), signed, strict=True)
        for number, members in enumerate(complexes)
        for term in members.split("+")
    ]
    frame = pd.DataFrame(
        [
            {
                "source": e[0],
                "target": e[-3],
                "sign": e[-2],
                "threshold": float(e[1]) if len(e) == 5 else 0.5,
                "complex": e[-1],
            }
            for e in edges
        ]
    )
    stages = pd.DataFrame.from_dict(_STAGES, orient="index", columns=[*STAGE_COLUMNS, DECISIVE])
    return Network.from_edges(frame, initial=dict.fromkeys(_RULES, 0.0) | _INITIAL, stages=stages)

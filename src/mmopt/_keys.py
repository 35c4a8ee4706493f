"""Every slot name the package writes or reads, in one place."""

EMBEDDING = "X_mmopt"
COUNTS_LAYER = "counts"
HIGHLY_VARIABLE = "highly_variable"

LANDSCAPE = "landscape"
CURVATURE = "curvature"
OPTIMIZER_COMPARISON = "optimizer_comparison"

MODALITIES = ("rna", "atac", "prot")
# usual names of the modalities, tried in this order when the user names none
ALIASES = {"rna": ("rna", "gex"), "atac": ("atac", "peaks"), "prot": ("prot", "protein", "adt", "cite")}


def fit_slot(embedding: str = EMBEDDING) -> str:
    """``uns`` key of the fit that wrote ``obsm[embedding]``: ``"X_mmopt"`` -> ``"mmopt"``."""
    return embedding.removeprefix("X_")


def weight_column(modality: str, embedding: str = EMBEDDING) -> str:
    """``obs`` column with the share of ``modality`` in a cell's posterior precision."""
    return f"{fit_slot(embedding)}_weight_{modality}"

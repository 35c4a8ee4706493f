"""Every slot name the package writes or reads, in one place."""

EMBEDDING = "X_mmopt"
COUNTS_LAYER = "counts"
HIGHLY_VARIABLE = "highly_variable"

LANDSCAPE = "landscape"
CURVATURE = "curvature"
OPTIMIZER_COMPARISON = "optimizer_comparison"
REGULONS = "regulons"
PERTURB = "perturb"
SCREEN = "screen"
REPROGRAM = "reprogram"
PERTURBATION_EVALUATION = "perturbation_evaluation"
TWIN = "twin"
SIMULATE = "simulate"
TWIN_EVALUATION = "twin_evaluation"
UNASSIGNED = "unassigned"
TRUTH = "truth"

# of uns
SLOTS = (
    LANDSCAPE,
    CURVATURE,
    OPTIMIZER_COMPARISON,
    REGULONS,
    PERTURB,
    SCREEN,
    REPROGRAM,
    PERTURBATION_EVALUATION,
    TWIN,
    SIMULATE,
    TWIN_EVALUATION,
    TRUTH,
    EMBEDDING.removeprefix("X_"),
)

# how control cells are spelled, in any case
CONTROLS = ("control", "ctrl", "nt", "ntc", "non-targeting", "pbs", "dmso")

MODALITIES = ("rna", "atac", "prot")
# usual names of the modalities, tried in this order when the user names none
ALIASES = {"rna": ("rna", "gex"), "atac": ("atac", "peaks"), "prot": ("prot", "protein", "adt", "cite")}


def refuse_slot_of_others(key_added: str, own: str) -> None:
    """Refuse a ``key_added`` that is the slot of another function than the one that owns ``own``, or that no file can hold."""
    if not isinstance(key_added, str) or not key_added:
        raise ValueError(f"key_added={key_added!r}: a name is needed, such as {own + '_2'!r}")
    if "/" in key_added:
        raise ValueError(
            f"key_added={key_added!r}: a '/' would be read as a group by HDF5, so that a saved file could not be read again; "
            f"take {key_added.replace('/', '_')!r}"
        )
    if key_added in SLOTS and key_added != own:
        raise ValueError(
            f"key_added={key_added!r} would overwrite what another function writes there; take another name, such as "
            f"'{own}_2'"
        )


def fit_slot(embedding: str = EMBEDDING) -> str:
    """``uns`` key of the fit that wrote ``obsm[embedding]``: ``"X_mmopt"`` -> ``"mmopt"``."""
    return embedding.removeprefix("X_")


def weight_column(modality: str, embedding: str = EMBEDDING) -> str:
    """``obs`` column with the share of ``modality`` in a cell's posterior precision."""
    return f"{fit_slot(embedding)}_weight_{modality}"


def perturbation_key(perturbation: str) -> str:
    """Name of a perturbation in slots; ``/`` would be read as a group by HDF5."""
    return perturbation.replace("/", "_")


def shifted_embedding(key: str) -> str:
    """``obsm`` key of the model's embedding after the perturbation ``key``."""
    return f"{EMBEDDING}_{key}"


def null_embedding(key: str) -> str:
    """``obsm`` key of the model's embedding after the perturbation ``key`` in a network with shuffled targets."""
    return f"{shifted_embedding(key)}_null"


def cell_effects_layer(key: str) -> str:
    """Layer of a modality with what the perturbation ``key`` does to every cell."""
    return f"delta_{key}"


def perturbation_score(key: str) -> str:
    """``obs`` column that says whether the perturbation ``key`` moves a cell with or against the reference flow."""
    return f"perturb_score_{key}"


def fate_slot(key: str = SIMULATE) -> str:
    """``obsm`` key of every cell's fate probabilities; their names are in ``uns[key]["fate_names"]``."""
    return f"fate_{key}"

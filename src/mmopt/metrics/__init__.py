"""Scores of embeddings, imputations, perturbations and fates, and the baselines that every score should stand beside."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_baselines": ["knn_imputation", "mean_baseline", "ridge_imputation"],
        "_conformal": ["conformal_quantile", "leave_one_out_covered", "units_needed"],
        "_coverage": ["interval_coverage"],
        "_fates": ["fate_scores"],
        "_imputation": ["imputation_scores"],
        "_labels": ["knn_accuracy", "label_transfer"],
        "_pca": ["pca_embedding"],
        "_perturbation": [
            "discrimination",
            "energy_distance",
            "perturbation_baselines",
            "perturbation_scores",
        ],
    },
)

"""What a fit does for cells it was not trained on, beside what cheap methods do for them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mmopt import metrics
from mmopt.models import TriVI
from mmopt.models.mosaic import Mosaic


def held_out_scores(
    model: TriVI, mosaic: Mosaic, held_out: np.ndarray, labels: pd.Series | None
) -> dict[str, float]:
    """Label transfer by the embedding, and imputation of each modality from the others, for held-out cells."""
    scores = _label_scores(model.get_latent_representation(), held_out, labels)
    for m, cells in _imputable(mosaic, held_out).items():
        others = [o for o in model.modalities if o != m]
        predicted = np.log1p(model.get_normalized(m, given=others, indices=cells))
        observed, measured = _log_counts(mosaic, m, cells), _measured(model, mosaic, m)[mosaic.batch[cells]]
        scores |= _named(metrics.imputation_scores(predicted, observed, measured), m)
    return scores


def baseline_scores(
    model: TriVI, mosaic: Mosaic, held_out: np.ndarray, labels: pd.Series | None, seed: int
) -> dict[str, float]:
    """Return the same scores of PCA of every modality side by side, and of ridge regression on it.

    Modalities with fewer than three features are left out of the components. Counts on disk are read into memory:
    principal components look at all of them at once.
    """
    if mosaic.on_disk:
        mosaic = mosaic.subset(np.arange(len(mosaic.batch)))

    def embedding(modalities: list[str]) -> np.ndarray:
        # the model trains on one or two proteins, which have no principal components to speak of
        enough = {m: mosaic.counts[m] for m in modalities if min(mosaic.counts[m].shape) > 2}
        if not enough:
            return np.zeros((len(mosaic.batch), 1))
        return metrics.pca_embedding(enough, {m: mosaic.place[m] for m in enough}, random_state=seed)

    scores = _label_scores(embedding(list(mosaic.counts)), held_out, labels)
    for m, cells in _imputable(mosaic, held_out).items():
        x = embedding([o for o in mosaic.counts if o != m])
        train = np.setdiff1d(_having(mosaic, m), held_out)
        observed, of_train = _log_counts(mosaic, m, cells), _log_counts(mosaic, m, train)
        predicted = np.zeros(observed.shape)
        batches = _measured(model, mosaic, m)
        for panel in np.unique(batches, axis=1).T:  # features that the same batches have
            same, having = (batches == panel[:, None]).all(0), panel[mosaic.batch[train]]
            if having.any():
                x_known, y_known = x[train[having]], of_train[having][:, same]
                predicted[:, same] = metrics.ridge_imputation(x_known, y_known, x[cells])
        measured = _measured(model, mosaic, m)[mosaic.batch[cells]]
        scores |= _named(metrics.imputation_scores(predicted, observed, measured), m)
    return {f"baseline_{k}": v for k, v in scores.items()}


def _label_scores(embedding: np.ndarray, held_out: np.ndarray, labels: pd.Series | None) -> dict[str, float]:
    if labels is None or not np.ptp(embedding, axis=0).any():  # cells that are all alike have no neighbours
        return dict.fromkeys(("accuracy", "precision", "recall", "f1"), np.nan)
    known = np.flatnonzero(labels.notna())
    train, test = np.setdiff1d(known, held_out), np.intersect1d(known, held_out)
    if not (len(train) and len(test)):  # all that have a label may be on one side
        return _label_scores(embedding, held_out, None)
    y = labels.astype(str).to_numpy()
    return metrics.label_transfer(embedding[train], y[train], embedding[test], y[test])


def _having(mosaic: Mosaic, modality: str) -> np.ndarray:
    """Cells with this modality and at least one other."""
    present = mosaic.present
    return np.flatnonzero((mosaic.place[modality] >= 0) & (present.sum(1) > 1))


def _imputable(mosaic: Mosaic, held_out: np.ndarray) -> dict[str, np.ndarray]:
    cells = {m: np.intersect1d(_having(mosaic, m), held_out) for m in mosaic.counts}
    return {m: c for m, c in cells.items() if len(c) > 1}


def _measured(model: TriVI, mosaic: Mosaic, modality: str) -> np.ndarray:
    """Which batch measured which feature (batches × features); of protein, those of its panel."""
    measured = getattr(model.networks[0], f"measured_{modality}").cpu().numpy()
    return np.broadcast_to(measured, (len(measured), mosaic.counts[modality].shape[1]))


def _log_counts(mosaic: Mosaic, modality: str, cells: np.ndarray) -> np.ndarray:
    return np.log1p(mosaic.counts[modality][mosaic.place[modality][cells]].toarray())


def _named(scores: Mapping[str, float], modality: str) -> dict[str, float]:
    return {f"{name}_{modality}": value for name, value in scores.items()}

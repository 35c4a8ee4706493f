"""How well an embedding tells labels apart."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier


def label_transfer(
    train_embedding: ArrayLike,
    train_labels: ArrayLike,
    test_embedding: ArrayLike,
    test_labels: ArrayLike,
    k: int = 15,
) -> dict[str, float]:
    """Let the ``k`` nearest labelled cells vote on the label of each test cell, and score the votes.

    Parameters
    ----------
    train_embedding, test_embedding
        ``(n_cells, n_dimensions)`` each.
    train_labels, test_labels
        One label per cell, compared as text; 1 and 1.0 are the same.
    k
        Number of neighbours; all training cells where there are fewer.

    Returns
    -------
    dict
        ``accuracy``, and ``precision``, ``recall`` and ``f1`` averaged over the labels of the test cells with equal
        weight (a label that is never predicted has precision 0).

    Raises
    ------
    ValueError
        Shapes that do not fit, missing labels, or values that are not finite.

    Examples
    --------
    >>> label_transfer([[0.0], [1.0]], ["B", "T"], [[0.1], [0.8]], ["B", "T"], k=1)
    {'accuracy': 1.0, 'precision': 1.0, 'recall': 1.0, 'f1': 1.0}
    """
    train_embedding, train_labels = _checked(train_embedding, train_labels, "train")
    test_embedding, test_labels = _checked(test_embedding, test_labels, "test")
    if train_embedding.shape[1] != test_embedding.shape[1]:
        raise ValueError(
            f"train_embedding has {train_embedding.shape[1]} dimensions, test_embedding {test_embedding.shape[1]}"
        )
    voters = KNeighborsClassifier(min(k, len(train_labels))).fit(train_embedding, train_labels)
    predicted = voters.predict(test_embedding)
    precision, recall, f1, _ = precision_recall_fscore_support(
        test_labels, predicted, labels=np.unique(test_labels), average="macro", zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(test_labels, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def knn_accuracy(
    embedding: ArrayLike, labels: ArrayLike, k: int = 15, n_folds: int = 5, random_state: int = 0
) -> float:
    """Share of cells whose label is that of most of their ``k`` nearest cells in the other folds.

    Parameters
    ----------
    embedding
        ``(n_cells, n_dimensions)``.
    labels
        One label per cell; labels of fewer than ``n_folds`` cells are left out.
    k
        Number of neighbours.
    n_folds
        Number of stratified folds.
    random_state
        Seed of the folds.

    Raises
    ------
    ValueError
        Shapes that do not fit, missing labels, values that are not finite, or no label with ``n_folds`` cells.

    Examples
    --------
    >>> knn_accuracy([[0.0], [0.1], [5.0], [5.1]], ["B", "B", "T", "T"], k=1, n_folds=2)
    1.0
    """
    embedding, labels = _checked(embedding, labels)
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    frequent = (sizes >= n_folds)[codes]
    if not frequent.any():
        raise ValueError(
            f"no label has {n_folds} cells (the largest has {sizes.max()}); use a smaller `n_folds`"
        )
    embedding, labels = embedding[frequent], labels[frequent]
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
    smallest = min(len(train) for train, _ in folds.split(labels, labels))
    predicted = cross_val_predict(KNeighborsClassifier(min(k, smallest)), embedding, labels, cv=folds)
    return float(accuracy_score(labels, predicted))


def _checked(embedding: ArrayLike, labels: ArrayLike, which: str = "") -> tuple[np.ndarray, np.ndarray]:
    embedding, labels = np.asarray(embedding, dtype=float), np.asarray(labels)
    which = f"{which}_" if which else ""
    if embedding.ndim != 2 or labels.shape != embedding.shape[:1] or not len(labels):
        raise ValueError(
            f"{which}embedding {embedding.shape} and {which}labels {labels.shape} do not fit: "
            "(n_cells, n_dimensions) and (n_cells,) are needed"
        )
    bad = int((~np.isfinite(embedding).all(axis=1)).sum())
    if bad:
        raise ValueError(f"{which}embedding has {bad} rows with NaN or infinite values")
    missing = int(pd.isna(labels).sum())
    if missing:
        raise ValueError(f"{which}labels: {missing} are missing; leave those cells out")
    return embedding, _as_text(labels)


def _as_text(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "fO":
        return labels.astype(str)
    # an integer column with gaps comes back as floats, and must still match the integers
    whole = (isinstance(v, float | np.floating) and float(v).is_integer() for v in labels)
    return np.array([str(int(v) if w else v) for v, w in zip(labels, whole, strict=True)])

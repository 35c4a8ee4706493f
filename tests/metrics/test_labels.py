from collections import Counter

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedKFold

from mmopt.metrics import knn_accuracy, label_transfer


def naive_votes(train, labels, test, k):
    votes = []
    for cell in test:
        order = sorted(
            range(len(train)), key=lambda i: sum((a - b) ** 2 for a, b in zip(train[i], cell, strict=True))
        )
        counts = Counter(str(labels[i]) for i in order[:k])
        votes.append(min(counts, key=lambda label: (-counts[label], label)))  # ties: first in the alphabet
    return votes


def naive_scores(truth, votes):
    names = sorted(set(truth))
    pairs = list(zip(truth, votes, strict=True))
    precision, recall, f1 = [], [], []
    for name in names:
        hits = sum(t == v == name for t, v in pairs)
        p = hits / max(votes.count(name), 1)
        r = hits / truth.count(name)
        precision.append(p)
        recall.append(r)
        f1.append(2 * p * r / (p + r) if p + r else 0.0)
    means = [sum(values) / len(names) for values in (precision, recall, f1)]
    return dict(
        zip(
            ["accuracy", "precision", "recall", "f1"],
            [np.mean([t == v for t, v in pairs]), *means],
            strict=True,
        )
    )


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    labels = rng.choice(["B", "NK", "T", "rare"], 120, p=[0.4, 0.3, 0.25, 0.05])
    centres = {"B": 0.0, "NK": 1.0, "T": 2.0, "rare": 2.5}
    return rng.normal([[centres[label]] * 3 for label in labels], 0.8), labels


@pytest.mark.parametrize("k", [1, 4, 15, 1000])
def test_label_transfer_against_a_naive_vote(cells, k):
    x, labels = cells
    scores = label_transfer(x[:80], labels[:80], x[80:], labels[80:], k=k)
    votes = naive_votes(x[:80].tolist(), labels[:80], x[80:].tolist(), k)
    expected = naive_scores(list(map(str, labels[80:])), votes)
    assert scores == pytest.approx(expected)
    assert 0 < scores["accuracy"] < 1


def test_labels_seen_in_training_only_do_not_enter_the_means():
    scores = label_transfer(
        [[0.0], [1.0], [9.0]], ["B", "T", "other"], [[0.0], [1.0], [9.0]], ["B", "T", "T"], k=1
    )
    assert scores == pytest.approx(
        {"accuracy": 2 / 3, "precision": 1.0, "recall": 0.75, "f1": (1 + 2 / 3) / 2}
    )


def test_knn_accuracy_against_a_naive_vote(cells):
    x, labels = cells
    correct = 0
    for train, test in StratifiedKFold(4, shuffle=True, random_state=7).split(x, labels):
        votes = naive_votes(x[train].tolist(), labels[train], x[test].tolist(), 5)
        correct += sum(vote == label for vote, label in zip(votes, labels[test], strict=True))
    assert knn_accuracy(x, labels, k=5, n_folds=4, random_state=7) == pytest.approx(correct / len(x))


def test_knn_accuracy_leaves_rare_labels_out(cells):
    x, labels = cells
    mixed = labels.copy()
    mixed[:3] = "only three"
    assert knn_accuracy(x, mixed) == knn_accuracy(x[3:], labels[3:])


def test_knn_accuracy_knows_perfect_and_chance(cells):
    _, labels = cells
    codes = np.unique(labels, return_inverse=True)[1]
    assert knn_accuracy(codes[:, None] * 10.0, labels, k=3) == 1.0
    halves = np.tile(["a", "b"], 500)
    noise = np.random.default_rng(1).normal(size=(1000, 5))
    assert knn_accuracy(noise, halves) == pytest.approx(0.5, abs=0.06)


def test_categorical_and_numeric_labels(cells):
    x, labels = cells
    expected = knn_accuracy(x, labels)
    assert knn_accuracy(x, pd.Series(labels, dtype="category")) == expected
    assert knn_accuracy(x, np.unique(labels, return_inverse=True)[1]) == expected


@pytest.mark.parametrize("kind", [float, np.float32, object])
def test_integers_that_come_back_as_floats_match(cells, kind):
    x, labels = cells
    codes = np.unique(labels, return_inverse=True)[1]
    expected = label_transfer(x[:80], codes[:80], x[80:], codes[80:])
    floats = codes[80:].astype(float).astype(kind)
    assert label_transfer(x[:80], codes[:80], x[80:], floats) == expected
    assert expected["accuracy"] > 0.5


def test_refusals(cells):
    x, labels = cells
    with pytest.raises(ValueError, match=r"train_embedding \(120, 3\) and train_labels \(119,\) do not fit"):
        label_transfer(x, labels[1:], x, labels)
    with pytest.raises(ValueError, match="train_embedding has 3 dimensions, test_embedding 2"):
        label_transfer(x, labels, x[:, :2], labels)
    with pytest.raises(ValueError, match="embedding has 120 rows with NaN"):
        knn_accuracy(x * np.nan, labels)
    with pytest.raises(ValueError, match="labels: 1 are missing; leave those cells out"):
        knn_accuracy(x[:2], pd.Series(["B", None], dtype="category"))
    with pytest.raises(ValueError, match=r"no label has 5 cells \(the largest has 1\)"):
        knn_accuracy(x[:2], ["B", "T"])

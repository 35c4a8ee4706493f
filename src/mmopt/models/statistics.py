"""What the model takes from the data before training: feature scales and the starting values of the decoders."""

import numpy as np
import scipy.sparse as sp

MIN_SCALE = 1e-3
QUANTILE_CELLS = 5000  # per batch: enough for a 10 % quantile, small enough for any data set


def mean_and_scale(x: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per column of a sparse matrix."""
    mean = np.asarray(x.mean(0), np.float64).ravel()
    second = np.asarray(x.multiply(x).mean(0), np.float64).ravel()
    return mean, np.sqrt(np.maximum(second - mean**2, MIN_SCALE**2))


def log_profile(counts: sp.csr_matrix) -> np.ndarray:
    """Return the logarithm of each feature's share of all counts, with half a count added to each feature."""
    total = np.asarray(counts.sum(0), np.float64).ravel() + 0.5
    return np.log(total / total.sum())


def rna(counts: sp.csr_matrix) -> dict[str, np.ndarray]:
    """Return scales of log1p counts per ten thousand, the average profile and the median depth."""
    depth = np.asarray(counts.sum(1)).ravel()
    x = sp.csr_matrix(counts, dtype=np.float64, copy=True)
    x.data = np.log1p(x.data * np.repeat(1e4 / np.maximum(depth, 1), np.diff(x.indptr)))
    mean, scale = mean_and_scale(x)
    return {"mean": mean, "scale": scale, "log_profile": log_profile(counts), "depth": np.median(depth)}


def atac(counts: sp.csr_matrix) -> dict[str, np.ndarray]:
    """Return inverse document frequencies, scales of the TF-IDF, the average profile and the median depth."""
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log1p(counts.shape[0] / np.maximum(frequency, 1))
    x = sp.csr_matrix(counts, dtype=np.float64, copy=True)
    lengths = np.diff(x.indptr)
    x.data = np.log1p(np.repeat(1e4 / np.maximum(lengths, 1), lengths) * idf[x.indices])
    mean, scale = mean_and_scale(x)
    depth = np.median(np.asarray(counts.sum(1)).ravel())
    return {"mean": mean, "scale": scale, "idf": idf, "log_profile": log_profile(counts), "depth": depth}


def protein(counts: sp.csr_matrix, batch: np.ndarray, n_batch: int) -> dict[str, np.ndarray]:
    """Scales of the centred log-ratio, and per batch the background (10 % quantile) and the step up to the 90 % one."""
    sample = np.concatenate(
        [
            rows[:: max(1, len(rows) // QUANTILE_CELLS)]
            for b in range(n_batch)
            if len(rows := np.flatnonzero(batch == b))
        ]
    )
    logs = np.log1p(counts[sample].toarray().astype(np.float64))
    ratio = logs - logs.mean(1, keepdims=True)
    low, high = np.quantile(logs, [0.1, 0.9], axis=0)
    background = np.tile(low, (n_batch, 1))
    for b in np.unique(batch[sample]):
        background[b] = np.quantile(logs[batch[sample] == b], 0.1, axis=0)
    return {
        "mean": ratio.mean(0),
        "scale": np.maximum(ratio.std(0), MIN_SCALE),
        "log_background": np.log(np.maximum(np.expm1(background), 0.1)),
        "step": np.maximum(high - low, 0.1),
    }

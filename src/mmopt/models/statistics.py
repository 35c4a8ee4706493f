"""What the model takes from the data before training: feature scales and the starting values of the decoders."""

import numpy as np
import scipy.sparse as sp

from mmopt.models.stored import Counts, blocks

MIN_SCALE = 1e-3
QUANTILE_CELLS = 5000  # per batch: enough for a 10 % quantile, small enough for any data set


def column_sums(x: sp.csr_matrix, values: np.ndarray | None = None) -> np.ndarray:
    """Sum the stored values, or others in their place, per column, in float64."""
    return np.bincount(x.indices, x.data if values is None else values, minlength=x.shape[1])


class Moments:
    """Mean and standard deviation per column of a sparse matrix that comes block by block."""

    def __init__(self, n_columns: int):
        self.n_rows, self.first, self.second = 0, np.zeros(n_columns), np.zeros(n_columns)

    def add(self, x: sp.csr_matrix, values: np.ndarray) -> None:
        """Take in the rows of ``x`` with ``values`` in place of what it stores."""
        self.n_rows += x.shape[0]
        self.first += column_sums(x, values)
        self.second += column_sums(x, values**2)

    def mean_and_scale(self) -> dict[str, np.ndarray]:
        mean = self.first / self.n_rows
        return {
            "mean": mean,
            "scale": np.sqrt(np.maximum(self.second / self.n_rows - mean**2, MIN_SCALE**2)),
        }


def log_profile(total: np.ndarray) -> np.ndarray:
    """Return the logarithm of each feature's share of all counts, with half a count added to each feature."""
    return np.log((total + 0.5) / (total + 0.5).sum())


def rna(counts: Counts) -> dict[str, np.ndarray]:
    """Return scales of log1p counts per ten thousand, the average profile and the totals of the cells."""
    moments, total, depths = Moments(counts.shape[1]), np.zeros(counts.shape[1]), []
    for x in blocks(counts):
        depth = np.asarray(x.sum(1), np.float64).ravel()
        moments.add(x, np.log1p(x.data * np.repeat(1e4 / np.maximum(depth, 1), np.diff(x.indptr))))
        total += column_sums(x)
        depths.append(depth)
    return moments.mean_and_scale() | {
        "log_profile": log_profile(total),
        "totals": np.concatenate(depths),
    }


def atac(counts: Counts) -> dict[str, np.ndarray]:
    """Return inverse document frequencies, scales of the TF-IDF, the average profile and the totals of the cells.

    Two passes: the second needs the frequencies.
    """
    n_peaks = counts.shape[1]
    frequency, total, depths = np.zeros(n_peaks), np.zeros(n_peaks), []
    for x in blocks(counts):
        frequency += np.bincount(x.indices, minlength=n_peaks)
        total += column_sums(x)
        depths.append(np.asarray(x.sum(1), np.float64).ravel())
    idf = np.log1p(counts.shape[0] / np.maximum(frequency, 1))
    moments = Moments(n_peaks)
    for x in blocks(counts):
        moments.add(x, tf_idf(x, idf))
    return moments.mean_and_scale() | {
        "idf": idf,
        "log_profile": log_profile(total),
        "totals": np.concatenate(depths),
    }


def tf_idf(x: sp.csr_matrix, idf: np.ndarray) -> np.ndarray:
    """Return the TF-IDF of each stored count, as :class:`mmopt.models.encoders.TfIdf` defines it."""
    lengths = np.diff(x.indptr)
    return np.log1p(np.repeat(1e4 / np.maximum(lengths, 1), lengths) * idf[x.indices])


def protein(counts: Counts, batch: np.ndarray, measured: np.ndarray) -> dict[str, np.ndarray]:
    """Scales of the centred log-ratio, and per batch the background (10 % quantile) and the step up to the 90 % one.

    Parameters
    ----------
    counts, batch
        Cells × proteins, and each cell's batch.
    measured
        Which batch measured which protein (batches × proteins); the others are left out of every statistic.
    """
    sample, logs = _sample(counts, batch, measured)
    if np.isfinite(logs).all():
        mean, std, quantile = np.mean, np.std, np.quantile
    else:  # slower
        mean, std, quantile = np.nanmean, np.nanstd, np.nanquantile
    ratio = logs - mean(logs, 1, keepdims=True)
    low, high = quantile(logs, [0.1, 0.9], axis=0)
    background = _background(logs, batch[sample], measured)
    return {
        "mean": mean(ratio, 0),
        "scale": np.maximum(std(ratio, 0), MIN_SCALE),
        "log_background": _log_level(np.where(np.isfinite(background), background, low)),
        "step": np.maximum(high - low, 0.1),
    }


def log_background(counts: Counts, batch: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the logarithm of the background of each batch and protein, NaN where it was not measured."""
    sample, logs = _sample(counts, batch, measured)
    return _log_level(_background(logs, batch[sample], measured))


def _sample(counts: Counts, batch: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows from every batch and their log1p counts, NaN where not measured."""
    rows = [np.flatnonzero(batch == b) for b in range(len(measured))]
    sample = np.concatenate([r[:: max(1, len(r) // QUANTILE_CELLS)] for r in rows])
    logs = np.log1p(counts[sample].toarray().astype(np.float64))
    logs[~measured[batch[sample]]] = np.nan
    return sample, logs


def _background(logs: np.ndarray, batch: np.ndarray, measured: np.ndarray) -> np.ndarray:
    out = np.full(measured.shape, np.nan)
    for b in np.unique(batch):
        out[b, measured[b]] = np.quantile(logs[batch == b][:, measured[b]], 0.1, axis=0)
    return out


def _log_level(log1p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.expm1(log1p), 0.1))

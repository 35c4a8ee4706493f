"""Levels: every feature on the scale from off to fully on, and what shows production on the scale of expression."""

import numpy as np

_TOP, _TOP_LEVEL = 0.995, 0.9


def tops(values: np.ndarray) -> np.ndarray:
    """Value of each feature that stands for level 1, a little above its 99.5 % quantile; ``(n_features,)``."""
    return np.maximum(np.quantile(values, _TOP, axis=0) / _TOP_LEVEL, 1e-9)


def production_scale(
    odds: np.ndarray, open_odds: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope and offset that bring the log odds of each gene's chromatin, or unspliced RNA, to the scale of its expression.

    Fragments that come from everywhere, and peaks that serve other genes as well, narrow the range of chromatin: a
    network fitted to it as it is has effects that are as much too small. So it is divided by its slope on expression
    (the slope of expression on chromatin would be too flat where chromatin is noisy).

    Parameters
    ----------
    odds, open_odds
        ``(n_cells, n_features)`` log odds of expression and of the chromatin that serves it (or its unspliced RNA), NaN where there is
        none.
    least
        Correlation below which chromatin is not brought to any scale.

    Returns
    -------
    slope, offset, correlation
        ``(n_features,)``; NaN where chromatin goes along with expression less than that.
    """
    centre, open_centre = odds.mean(0), open_odds.mean(0)
    odds, open_odds = odds - centre, open_odds - open_centre
    together = (odds * open_odds).mean(0)
    variance = (odds**2).mean(0)
    correlation = together / np.maximum(np.sqrt(variance * (open_odds**2).mean(0)), 1e-12)
    correlation = np.where(correlation >= least, correlation, np.nan)
    slope = np.where(np.isnan(correlation), np.nan, variance / np.maximum(together, 1e-12))
    return slope, centre - slope * open_centre, correlation


def produced(seen: list[np.ndarray], scales: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean of all that shows what is made of each gene, on the scale of its expression; NaN where nothing does."""
    scaled = np.stack([offset + slope * odds for odds, (slope, offset, _) in zip(seen, scales, strict=True)])
    known = np.isfinite(scaled)
    total = np.where(known, scaled, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def agreement(scales: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Largest correlation with expression of what shows production; NaN where nothing does."""
    return np.fmax.reduce([correlation for *_, correlation in scales])

"""How far the mean of a few values can be from what more of them would give."""

from scipy.stats import t


def half_width(n: int) -> float:
    """Return half the width of the 95 % interval of a mean of ``n`` values, in standard errors; NaN for one value.

    Examples
    --------
    >>> [round(half_width(n), 2) for n in (2, 3, 10)]
    [12.71, 4.3, 2.26]
    """
    return float(t.ppf(0.975, n - 1))

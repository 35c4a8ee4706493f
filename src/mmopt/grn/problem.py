"""What a network is fitted to: levels of all features, and what is known of each edge."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmopt._response import log_odds

_FORBIDDEN = 1e6


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything a fit needs, features of all modalities side by side.

    Parameters
    ----------
    level
        ``(n_cells, n_features)`` of pooled cells.
    made_odds
        ``(n_cells, n_features)``: log odds of what shows what is made of each gene, the chromatin that serves it or its unspliced
        RNA, on the scale of its expression (:func:`mmopt.grn.scale.production_scale`); NaN columns where there is none.
    together
        ``(n_features,)``: correlation of that with expression, NaN where there is none.
    regulators
        Columns of the regulators, ``(p,)``.
    sign
        ``(n_features, p)``: sign the evidence gives an edge, NaN where it gives an edge without a sign, 0 where it
        gives none.
    groups
        Donor of each cell where donors are resampled, else ``None``.
    n_genes
        Features that are genes, the first so many; the others inherit what is known of a gene. By default all.
    pace
        ``(n_cells, n_features)``: change of the level during the whole course, were it to go on as now; ``None`` without times.
    """

    level: np.ndarray
    made_odds: np.ndarray
    together: np.ndarray
    regulators: np.ndarray
    sign: np.ndarray
    groups: np.ndarray | None = None
    n_genes: int | None = None
    pace: np.ndarray | None = None

    @cached_property
    def odds(self) -> np.ndarray:
        """Log odds of the level."""
        return log_odds(self.level)

    def response(self, chromatin: float, least: float, turnover: float | None = None) -> np.ndarray:
        """Log odds that the regulators are to explain.

        Those of the level or, with ``turnover`` (times it turns over during the course), of what it comes to at its pace:
        ``dx/dt = turnover (made - x)``, so that ``made = x + pace / turnover``.

        Chromatin (here and below: or unspliced RNA) counts where its correlation with expression is ``least`` or more. For a gene that is
        no regulator a mixture of both; for a regulator its chromatin alone: what it makes now, where its expression is what it made before.
        With ``turnover`` the pace says that as well, and a regulator's response is the mean of both.
        """
        linked = self.together >= least
        odds = self.odds if turnover is None else log_odds(self.level + self.pace / turnover)
        mixed = np.where(linked, (1 - chromatin) * odds + chromatin * self.made_odds, odds)
        made = self.regulators[linked[self.regulators]]
        chromatin_made = self.made_odds[:, made]
        mixed[:, made] = chromatin_made if turnover is None else (chromatin_made + odds[:, made]) / 2
        return mixed

    def relative_penalty(self, outside: float | np.ndarray, least: float) -> np.ndarray:
        """1 for the edges there is evidence for and ``outside`` for the others, if there is evidence for any.

        ``outside`` may differ between regulators.

        A regulator whose production is not seen would explain itself: that edge is closed.
        """
        known = self.sign != 0
        penalty = np.where(known, 1.0, outside if known.any() else 1.0)
        blind = ~(self.together[self.regulators] >= least)
        numbers = np.arange(len(self.regulators))
        penalty[self.regulators[blind], numbers[blind]] = _FORBIDDEN
        return penalty

"""How sure the model is: credible intervals of levels, predictive intervals of counts, and counts drawn from it."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from mudata import MuData

from mmopt import _checks
from mmopt._random import checked_seed, isolated
from mmopt.models.data import cell_positions
from mmopt.models.readout import any_of

if TYPE_CHECKING:
    from sparse import GCXS

VALUES = 20_000_000  # drawn at a time, at most: about 80 MB
DRAWS = 100


class Interval(NamedTuple):
    """Mean and central interval of every value (cells × features each)."""

    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Predictions:
    """What :class:`mmopt.models.TriVI` says beyond a mean."""

    @torch.inference_mode()
    def get_predictive_interval(
        self,
        modality: str,
        given: str | Sequence[str] | None = None,
        *,
        level: float = 0.9,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = DRAWS,
        transform_batch: str | None = None,
        batch_size: int | None = None,
        random_state: int = 0,
    ) -> Interval:
        """Return where the counts of one modality are expected to lie, for every cell, measured or not.

        The spread of the counts around their mean is included, unlike in the credible intervals of
        ``get_normalized(interval=)``. Counts are whole numbers, so the interval holds at least ``level``, and much more
        where nearly all counts are zero. A modality that is not in ``given`` is predicted without its depth.

        Parameters
        ----------
        modality, given, mdata, indices, transform_batch, random_state
            As in :meth:`get_normalized`.
        level
            Probability that the interval is to hold.
        n_samples
            Draws of latent state, depth and counts; at least (1 + ``level``) / (1 - ``level``).
        batch_size
            Cells per pass. If not given, as many as keep the draws within about 80 MB.

        Returns
        -------
        ``mean``, ``lower`` and ``upper``, arrays of cells × features. A cell that has none of ``given`` is a row of NaN.

        Raises
        ------
        ValueError
            As in :meth:`get_normalized`; a level outside of 0 to 1.

        Examples
        --------
        >>> interval = model.get_predictive_interval("prot", given="rna", level=0.9, indices=cells)
        >>> surprising = (counts < interval.lower) | (counts > interval.upper)
        """
        n_samples = _checks.whole_number("n_samples", n_samples)
        check_level(level, "level", n_samples)
        batch_size = given_or(batch_size, self._cells_per_pass(modality, n_samples))
        parts, generator = [], torch.Generator().manual_seed(checked_seed(random_state))
        first = any_of(len(self.networks), generator)
        with isolated(random_state):
            for readouts, blind in self._readouts(
                modality, given, mdata, indices, batch_size, "latent", transform_batch, first
            ):
                drawn = readouts.drawn_counts(n_samples, generator)
                parts.append([v.masked_fill(blind[:, None], torch.nan) for v in summary(drawn, level)])
        interval = Interval(*(torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True)))
        warn_blind(np.isnan(interval.mean[:, 0]), self._known(given))
        return interval

    @torch.inference_mode()
    def posterior_predictive_sample(
        self,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        batch_size: int | None = None,
        *,
        modality: str | None = None,
        given: str | Sequence[str] | None = None,
        random_state: int = 0,
    ) -> "dict[str, GCXS]":
        """Draw counts of the measured cells, in the form that :mod:`scvi.criticism` reads.

        Parameters
        ----------
        mdata, indices, batch_size, given, random_state
            As in :meth:`get_normalized`.
        n_samples
            Draws of each cell.
        modality
            Draw this one alone (``"rna"``, ``"atac"`` or ``"prot"``); all if not given.

        Returns
        -------
        For each modality in the data, by the name it has there: a sparse array of cells × features × draws, of the
        cells (among ``indices``) that were measured in it, in the order they have there, and of the model's features. A
        cell that has none of ``given`` is a row of NaN.

        Examples
        --------
        >>> from scvi.criticism import PosteriorPredictiveCheck
        >>> mdata["rna"].X = mdata["rna"].X.astype(int)  # it cannot compare sparse matrices of floats
        >>> check = PosteriorPredictiveCheck(mdata, {"TriVI": model}, modality="rna")
        >>> check.coefficient_of_variation("cells")
        >>> check.metrics["cv_gene"]
        """
        from sparse import GCXS

        n_samples = _checks.whole_number("n_samples", n_samples)
        mdata = self._validate_anndata(mdata)
        fields = self.registry_["field_registries"]
        if modality is not None and modality not in self.modalities:
            raise ValueError(f"modality {modality!r} is not in the model; it has {list(self.modalities)}")
        asked_for = self.modalities if modality is None else (modality,)
        names = {m: fields[m]["state_registry"]["modality"] for m in asked_for}
        names = {m: name for m, name in names.items() if name in mdata.mod}
        asked, blind_cells = np.full(mdata.n_obs, indices is None), np.zeros(mdata.n_obs, bool)
        if indices is not None:
            asked[cell_positions(indices, mdata.n_obs, "indices")] = True
        out = {}
        for m, name in names.items():
            cells = mdata.obs_names.get_indexer(mdata.mod[name].obs_names)
            cells = cells[asked[cells]]
            generator = torch.Generator().manual_seed(checked_seed(random_state))
            first = any_of(len(self.networks), generator)
            parts = [np.zeros((0, self.summary_stats[f"n_{m}"], n_samples), np.float32)]
            size = given_or(batch_size, self._cells_per_pass(m, n_samples))
            with isolated(random_state):
                for readouts, blind in (
                    self._readouts(m, given, mdata, cells, size, first=first) if len(cells) else ()
                ):
                    drawn = readouts.drawn_counts(n_samples, generator).masked_fill(blind[:, None], torch.nan)
                    parts.append(drawn.movedim(0, -1).cpu().numpy())
            draws = np.concatenate(parts)
            blind_cells[cells] |= np.isnan(draws).any((1, 2))
            out[name] = GCXS.from_numpy(draws, compressed_axes=(0,))
        warn_blind(blind_cells, self._known(given))
        return out

    def _cells_per_pass(self, modality: str, n_samples: int) -> int:
        n_features = self.summary_stats.get(f"n_{modality}", 1)
        return int(np.clip(VALUES // (n_features * max(n_samples, 1)), 1, 512))


def given_or(batch_size: int | None, otherwise: int) -> int:
    """Return the cells per pass that were asked for, or others."""
    return otherwise if batch_size is None else _checks.whole_number("batch_size", batch_size)


def check_level(level: float, name: str, n_samples: int) -> None:
    """Refuse what is no probability, and warn at the line that called the getter of too few draws for it."""
    if not 0 < level < 1:
        raise ValueError(f"{name} must lie between 0 and 1; got {level}")
    if 1 <= n_samples < draws_for(level):
        warnings.warn(
            f"an interval from {n_samples} draws holds less than {name}={level}; take n_samples={draws_for(level)} or "
            "more",
            stacklevel=4,
        )


def draws_for(level: float) -> int:
    """Return how many draws it takes that the interval from the least to the greatest of ``n``, (n - 1) / (n + 1), holds so much."""
    return int(np.ceil((1 + level) / (1 - level) - 1e-6))


def warn_blind(blind: np.ndarray, given: tuple[str, ...] | None) -> None:
    """Count the cells of which nothing is known, in a warning at the line that called the getter."""
    if blind.any():
        warnings.warn(
            f"{int(blind.sum())} cells have none of {list(given or ())}: their rows are NaN", stacklevel=4
        )


def summary(drawn: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean and quantiles over draws (the first axis); quantiles of counts are counts."""
    ordered = drawn.sort(0).values
    n = len(ordered)
    low = int(np.floor((1 - level) / 2 * (n - 1) + 1e-9))
    return drawn.mean(0), ordered[low], ordered[n - 1 - low]

"""Which batch each cell is of."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from mudata import MuData

from mmopt._checks import listed, obs_column
from mmopt._logging import logger


def batch_codes(
    mdata: MuData, batch_key: str | None, modalities: Mapping[str, str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Give each cell the number of its batch.

    Parameters
    ----------
    mdata
        The data.
    batch_key
        Column looked up by :func:`obs_column`; ``None`` puts all cells into one batch.
    modalities
        Where to look beside ``mdata.obs``; all modalities if not given.

    Returns
    -------
    codes, categories
        ``(n_obs,)`` integers and the batch each of them stands for, as strings: a categorical column's order, else
        sorted. One category only is reported through the logger: there is nothing to correct for.

    Raises
    ------
    KeyError
        No such column.
    ValueError
        Cells without a batch, or modalities that disagree.
    """
    if batch_key is None:
        return np.zeros(mdata.n_obs, dtype=np.int64), ["all"]
    column = obs_column(mdata, batch_key, modalities)
    missing = column.index[column.isna()]
    if len(missing):
        raise ValueError(
            f"obs column {batch_key!r} has no value for {len(missing)} cells ({listed(missing)}); fill them in "
            f"`mdata.obs[{batch_key!r}]` or leave the cells out"
        )
    batches = pd.Categorical(column).remove_unused_categories()
    labels = [batch_label(category) for category in batches.categories]
    categories = list(dict.fromkeys(labels))
    codes = np.array([categories.index(label) for label in labels], dtype=np.int64)[batches.codes]
    if len(categories) == 1:
        logger.info("obs column %r has one category only (%r): no batch correction", batch_key, categories[0])
    return codes, categories


def batch_label(value: object) -> str:
    """Return the name of a batch; an integer column with gaps comes back as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

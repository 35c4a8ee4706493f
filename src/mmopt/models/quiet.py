"""Lightning announces devices and ends at every fit; a call that fits often would bury its own messages."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

CHATTY = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.accelerators.cuda",
    "lightning.fabric",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's announcements and its advice on data loaders inside the block; its warnings stay."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings(
            "ignore", message=".*number of training batches.*smaller than the logging interval.*"
        )
        # no cells held out
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        # scvi-tools says so of its own early stopping, which is not used
        warnings.filterwarnings("ignore", message="early_stopping was automatically disabled")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning's own use of torch
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

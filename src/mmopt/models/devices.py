"""On what a model computes."""

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from scvi.model._utils import parse_device_args


def find_device(accelerator: str, devices: int | list[int] | str = "auto") -> torch.device:
    """Return the first device that Lightning would choose.

    Raises
    ------
    ValueError
        An accelerator or a device that is unknown, or not there.
    """
    try:
        *_, device = parse_device_args(accelerator, devices, return_device="torch")
    except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"accelerator={accelerator!r}, devices={devices!r}: {error}") from error
    return device

"""Chooses a representative part of many images or indices. Exports and explanations use it."""

import torch
from torch import Tensor


def spread_evenly(values: Tensor, most: int) -> Tensor:
    """Return at most ``most`` rows of ``values``, spread evenly over them, in their order."""
    if len(values) <= most:
        return values
    return values[torch.linspace(0, len(values) - 1, most).round().long()]

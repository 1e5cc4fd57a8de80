"""Chooses a representative part of many images, indices or files, which may be sorted by class.

Checks of data sets, fitted networks, exports and explanations use it.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Values = TypeVar("Values", bound=Tensor | Sequence[Any])


def every_nth(values: Values, most: int) -> Values:
    """Return every n-th of ``values``, with the smallest n for which these are at most ``most``.

    For a tensor, it is a view.
    """
    step = -(-len(values) // most)  # rounded up
    return values[:: max(step, 1)]  # type: ignore[return-value]


def spread_evenly(values: Tensor, most: int) -> Tensor:
    """Return at most ``most`` rows of ``values``, spread evenly over them, in their order.

    Unlike ``every_nth`` it includes the last row, and returns exactly ``most`` rows if there are as many.
    """
    if len(values) <= most:
        return values
    return values[torch.linspace(0, len(values) - 1, most).round().long()]

"""From pixels to what a network takes: (pixel - mean) / std, a channel each, as one multiply-add.

It is a module of the classifier, so it moves with it to its device and dtype, and prediction does as training did.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """``mean`` and ``std`` are of pixels in [0, 1], one a channel; ``image_shape`` is (C, H, W)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, *, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
        self._exact = {"scale": 1 / (255 * stds), "shift": -means / stds}
        # As large as an image, not (C, 1, 1): a multiply-add that has to broadcast takes four times as long. Not saved:
        # they follow from the facts of the data set.
        for name, values in self._exact.items():
            values = values.expand(image_shape).to(torch.get_default_dtype()).contiguous()
            self.register_buffer(name, values, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # From the exact values: float64 made of float32 would keep its rounding.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, values in self._exact.items():
            self.get_buffer(name).copy_(values)
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float in [0, 1], as a new float tensor in the dtype of the network."""
        if pixels.dtype == torch.uint8:
            # In place on the fresh copy: a second pass over memory of its own costs as much as the arithmetic.
            values = pixels.to(self.scale.dtype)
            torch.addcmul(self.shift, values, self.scale, out=values)
            return values
        return torch.addcmul(self.shift, pixels.to(self.scale.dtype) * 255, self.scale)

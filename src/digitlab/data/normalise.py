"""Normalisation of pixels, (pixel - mean) / std for each channel, as one multiply-add.

It is a submodule of the classifier and of populations, so it moves with them to their device and dtype, and prediction
uses the same statistics as training.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Normalises images.

    ``mean`` and ``std`` have one value for each channel, for pixels in [0, 1]; ``image_shape`` is (C, H, W).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, *, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
        self._exact = {"scale": 1 / (255 * stds), "shift": -means / stds}
        # For a pixel in 0 … 255, (pixel / 255 - mean) / std = pixel · scale + shift. The buffers have the shape of an
        # image instead of (C, 1, 1), because a multiply-add that broadcasts takes four times as long. A checkpoint does
        # not contain them, as they follow from ``mean`` and ``std``.
        for name, values in self._exact.items():
            values = values.expand(image_shape).to(torch.get_default_dtype()).contiguous()
            self.register_buffer(name, values, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Set the buffers from the exact values. After ``double()``, they would otherwise keep the rounding of float32.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, values in self._exact.items():
            self.get_buffer(name).copy_(values)
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (N, C, H, W), uint8 in 0 … 255 or float in [0, 1], to a new float tensor of that shape."""
        if pixels.dtype == torch.uint8:
            # Compute in place, because writing to another new tensor would cost as much time as the arithmetic.
            values = pixels.to(self.scale.dtype)
            torch.addcmul(self.shift, values, self.scale, out=values)
            return values
        return torch.addcmul(self.shift, pixels.to(self.scale.dtype) * 255, self.scale)

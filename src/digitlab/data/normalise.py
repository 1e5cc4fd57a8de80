"""From pixels to what a network takes: (pixel - mean) / std, a channel each, as one multiply-add.

It is a module of the classifier, so it moves with it to its device and dtype, and prediction does as training did.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """``mean`` and ``std`` are of pixels in [0, 1], one a channel; ``image_shape`` is (C, H, W)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, *, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
        # As large as an image, not (C, 1, 1): a multiply-add that has to broadcast takes four times as long. Not saved:
        # they follow from the facts of the data set.
        dtype = torch.get_default_dtype()
        self.register_buffer("scale", (1 / (255 * stds)).expand(image_shape).to(dtype).contiguous(), persistent=False)
        self.register_buffer("shift", (-means / stds).expand(image_shape).to(dtype).contiguous(), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float in [0, 1], as a new float tensor in the dtype of the network."""
        if pixels.dtype == torch.uint8:
            # In place on the fresh copy: a second pass over memory of its own costs as much as the arithmetic.
            values = pixels.to(self.scale.dtype)
            torch.addcmul(self.shift, values, self.scale, out=values)
            return values
        return torch.addcmul(self.shift, pixels.to(self.scale.dtype) * 255, self.scale)

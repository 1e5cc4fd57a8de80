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
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._floats = torch.empty(0)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float in [0, 1], as a new float tensor in the dtype of the network."""
        values = pixels.to(self.scale.dtype)
        return torch.addcmul(self.shift, values if pixels.dtype == torch.uint8 else values * 255, self.scale)

    def gather(self, images: Tensor, index: Tensor) -> Tensor:
        """The images (N, C, H, W), uint8, at ``index`` int64 (n,), normalised: (n, C, H, W).

        What is returned is overwritten by the next call: fresh memory each time would cost more than the work.
        """
        count = len(index)
        if len(self._floats) < count or self._floats.device != images.device or self._floats.dtype != self.scale.dtype:
            self._bytes = torch.empty(count, self.scale.numel(), dtype=torch.uint8, device=images.device)
            self._floats = torch.empty_like(self._bytes, dtype=self.scale.dtype)
        pixels, floats = self._bytes[:count], self._floats[:count]
        torch.index_select(images.flatten(1), 0, index, out=pixels)
        floats.copy_(pixels)
        torch.addcmul(self.shift.flatten(), floats, self.scale.flatten(), out=floats)
        return floats.view(count, *images.shape[1:])

"""Images of another data set, or none, in the shape that a network takes: what it should not be sure about.

N images, C, H, W.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from digitlab.core.errors import DataError

# Luma of red, green and blue (ITU-R BT.601), by which Pillow, too, makes a picture grey.
_LUMA = (0.299, 0.587, 0.114)


def as_shape(images: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Images, uint8 (N, C', H', W'), as float (N, C, H, W) in [0, 1]: colour made grey or grey repeated, then scaled.

    Raises ``DataError`` where channels are not 1 or 3 on either side.
    """
    pixels, channels = images.float() / 255, image_shape[0]
    if {pixels.shape[1], channels} - {1, 3}:
        raise DataError(f"images of {pixels.shape[1]} channels can't be made images of {channels}: only 1 and 3 can")
    if pixels.shape[1] > channels:
        pixels = (pixels * pixels.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    # Antialiased, as Pillow scales; by rounding a weighted mean may leave the range of its pixels.
    scaled = F.interpolate(pixels, size=image_shape[1:], mode="bilinear", antialias=True).clamp(0, 1)
    return scaled.expand(-1, channels, -1, -1)


def noise_images(count: int, image_shape: tuple[int, int, int], generator: Generator) -> Tensor:
    """Images without any content, float (N, C, H, W): every value is uniform in [0, 1)."""
    return torch.rand(count, *image_shape, generator=generator, device=generator.device)

"""Images that a network was not trained for: another data set or noise, in the shape that the network takes.

``unknown_class`` trains on them, and ``training.robustness`` measures how confident a network is about them.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from digitlab.core.errors import DataError

# Luma of red, green and blue (ITU-R BT.601), which Pillow also uses to convert to grey.
_LUMA = (0.299, 0.587, 0.114)


def as_shape(images: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Convert images, uint8 (N, C', H', W'), to float (N, C, H, W) in [0, 1] for the given ``image_shape`` (C, H, W).

    Colour images become grey if C is 1; if C is 3, each channel of a grey image is the same. Then they are scaled.

    Raises:
        DataError: the number of channels, before or after, is not 1 or 3.
    """
    pixels, channels = images.float() / 255, image_shape[0]
    if {pixels.shape[1], channels} - {1, 3}:
        raise DataError(f"can't convert images of {pixels.shape[1]} channels to {channels}; only 1 and 3 are supported")
    if pixels.shape[1] > channels:
        pixels = (pixels * pixels.new_tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    # With antialiasing, as Pillow scales. Clamp, because rounding may move a weighted mean out of [0, 1].
    scaled = F.interpolate(pixels, size=image_shape[1:], mode="bilinear", antialias=True).clamp(0, 1)
    return scaled.expand(-1, channels, -1, -1)


def noise_images(count: int, image_shape: tuple[int, int, int], generator: Generator) -> Tensor:
    """Return ``count`` images of uniform noise in [0, 1): float (``count``, C, H, W), on ``generator``'s device."""
    return torch.rand(count, *image_shape, generator=generator, device=generator.device)

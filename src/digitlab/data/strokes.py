"""Makes strokes wider or narrower by grey dilation and erosion (Serra, 1982); ``augment`` and ``corrupt`` use it.

Strokes are the light parts of an image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def dilate(images: Tensor, radius_pixels: float | Tensor) -> Tensor:
    """Widen the light parts of ``images``, float (N, C, H, W), by ``radius_pixels`` on each side.

    Each pixel becomes the maximum of the square of 2 ``radius_pixels`` + 1 pixels a side around it. For a radius
    between two whole numbers, the results for these two are interpolated linearly. ``radius_pixels`` is a float of 0 or
    more for all images, or a tensor (N, 1, 1, 1) with one value in [0, 1] for each image. Returns a new tensor of the
    same shape and dtype.
    """
    # The values of a tensor are in [0, 1], so they need not be read to know the whole numbers around them. Reading them
    # would make the host wait for the device.
    lower_radius = 0 if isinstance(radius_pixels, Tensor) else int(radius_pixels)
    return torch.lerp(_maximum(images, lower_radius), _maximum(images, lower_radius + 1), radius_pixels - lower_radius)


def erode(images: Tensor, radius_pixels: float | Tensor) -> Tensor:
    """Narrow the light parts of ``images`` by ``radius_pixels`` on each side; arguments and result as in ``dilate``."""
    # In the negative, the dark background is the light part. Widening it narrows the strokes.
    return -dilate(-images, radius_pixels)


def _maximum(images: Tensor, radius_pixels: int) -> Tensor:
    """Return the maximum of the square around each pixel; pixels beyond the border of the image do not count."""
    return F.max_pool2d(images, 2 * radius_pixels + 1, stride=1, padding=radius_pixels) if radius_pixels else images

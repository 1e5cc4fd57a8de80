"""Deskewing: removes the slant of handwriting from a whole data set; ``ImageData`` applies it if ``data.deskew=true``.

Shapes: N images, C channels, H rows, W columns. The figure is the light part of an image. Positions are in pixels from
the centre of the image, x to the right and y downwards.
"""

import torch
from torch import Tensor

from digitlab.data.warp import pixel_centres, sample_at

# So many images are deskewed at once: all images of a data set as floats would need several times its memory.
_IMAGES_AT_ONCE = 1000


def deskew(images: Tensor) -> Tensor:
    """Shear each image along its rows until its figure stands upright: uint8 (N, C, H, W) in and out.

    The slant is the covariance of x and y divided by the variance of y, both weighted by the grey values; LeCun,
    Bottou, Bengio and Haffner (1998) deskew MNIST by moments in the same way. The centre of mass stays in place.
    Interpolation is bilinear, with black outside the image.
    """
    return torch.cat([_deskew_part(part) for part in images.split(_IMAGES_AT_ONCE)]) if len(images) else images


def slants(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slant of each figure, in columns per row, and the y of its centre of mass in pixels: float (N,) each.

    ``images`` is float (N, C, H, W). The slant of an image without a figure, or whose figure is a single row, is 0.
    """
    # The grey value of each pixel, divided by the sum over the image: (N, H, W).
    weights = images.mean(1)
    total = weights.sum((1, 2), keepdim=True).clamp(min=torch.finfo(images.dtype).tiny)
    weights = weights / total
    x, y = pixel_centres(images)
    centre_x, centre_y = ((weights * axis).sum((1, 2), keepdim=True) for axis in (x, y))
    covariance = (weights * (x - centre_x) * (y - centre_y)).sum((1, 2))
    variance = (weights * (y - centre_y).square()).sum((1, 2))
    # The variance, in pixels squared, of a figure that is a single row is 0 but for rounding.
    slant = torch.where(variance > 1e-6, covariance / variance.clamp(min=1e-6), 0)
    return slant, centre_y.flatten()


def _deskew_part(pixels: Tensor) -> Tensor:
    """Deskew some of the images, uint8 (n, C, H, W), all at once."""
    images = pixels.float() / 255
    slant, centre_y = (values.view(-1, 1, 1) for values in slants(images))
    x, y = pixel_centres(images)
    # For each pixel of the result, its position in the input. It is on the slanted line that must become a column.
    points = torch.stack([x + slant * (y - centre_y), y.expand(len(images), -1, -1)], dim=1)
    return (sample_at(images, points) * 255).round().to(torch.uint8)

"""Deskewing: slanted figures set upright, once for a whole set, before it is split into mini-batches.

N images, C, H, W; the figure is what is light.
"""

import torch
from torch import Tensor

from digitlab.data.warp import pixel_centres, sample_at

_IMAGES_AT_ONCE = 1000


def deskew(images: Tensor) -> Tensor:
    """Shear each image, uint8 (N, C, H, W), along its rows until its figure no longer leans; the same shape and dtype.

    The slant is that of the axis along which the figure is longest: the covariance of x and y over the variance of y,
    weighted by the grey values (LeCun, Bottou, Bengio and Haffner, 1998, deskew MNIST by moments as well). The centre
    of mass stays where it is. Interpolated bilinearly, with black around the image.
    """
    return torch.cat([_upright(part) for part in images.split(_IMAGES_AT_ONCE)]) if len(images) else images


def slants(images: Tensor) -> tuple[Tensor, Tensor]:
    """How far each figure leans, in columns a row, and the height of its centre of mass, in pixels: (N,) each.

    ``images`` is float (N, C, H, W). An image without a figure, or with one that is a single row, leans by 0.
    """
    weights = images.mean(1)
    total = weights.sum((1, 2), keepdim=True).clamp(min=torch.finfo(images.dtype).tiny)
    weights = weights / total
    x, y = pixel_centres(images)
    centre_x, centre_y = ((weights * axis).sum((1, 2), keepdim=True) for axis in (x, y))
    covariance = (weights * (x - centre_x) * (y - centre_y)).sum((1, 2))
    variance = (weights * (y - centre_y).square()).sum((1, 2))
    slant = torch.where(variance > 1e-6, covariance / variance.clamp(min=1e-6), 0)
    return slant, centre_y.flatten()


def _upright(pixels: Tensor) -> Tensor:
    images = pixels.float() / 255
    slant, centre_y = (each.view(-1, 1, 1) for each in slants(images))
    x, y = pixel_centres(images)
    points = torch.stack([x + slant * (y - centre_y), y.expand(len(images), -1, -1)], dim=1)
    return (sample_at(images, points) * 255).round().to(torch.uint8)

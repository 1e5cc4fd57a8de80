"""Gaussian smoothing, a width for each image: what augmentation blurs by and evens out displacements with.

N images, C, H, W.
"""

import torch
from torch import Tensor


def smoothed(images: Tensor, sigma_pixels: Tensor) -> Tensor:
    """Gaussian-smooth (N, C, H, W) by ``sigma_pixels``, (N,) or (1,); at the border over the pixels that exist.

    The kernel is separable and the images are small, so a product with a matrix from either side does it, and allows
    every image a width of its own.
    """
    rows, columns = (_smoothing_matrix(length, sigma_pixels) for length in images.shape[2:])
    return rows @ images @ columns.mT


def _smoothing_matrix(length: int, sigma_pixels: Tensor) -> Tensor:
    """(N, 1, length, length), each row a Gaussian about its own position that sums to one."""
    position = torch.arange(length, dtype=sigma_pixels.dtype, device=sigma_pixels.device)
    distance = (position[:, None] - position) / sigma_pixels.view(-1, 1, 1, 1)
    # Beyond 8 standard deviations a weight is nothing but slow: denormal numbers made a product take 20 times as long.
    return torch.softmax((-0.5 * distance.square()).masked_fill(distance.abs() > 8, -torch.inf), dim=-1)

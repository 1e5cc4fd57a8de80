"""Gaussian smoothing with its own width for each image; ``augment`` uses it for blur and elastic distortion."""

import torch
from torch import Tensor


def smoothed(images: Tensor, sigma_pixels: Tensor) -> Tensor:
    """Smooth images, float (N, C, H, W), by a Gaussian of standard deviation ``sigma_pixels``, (N,) or (1,).

    At the border, the weights of the pixels inside the image are rescaled to sum to one.
    """
    rows, columns = (_smoothing_matrix(length, sigma_pixels) for length in images.shape[2:])
    return rows @ images @ columns.mT


def _smoothing_matrix(length: int, sigma_pixels: Tensor) -> Tensor:
    """Return a matrix (N, 1, length, length); each row is a Gaussian about its own position that sums to one."""
    position = torch.arange(length, dtype=sigma_pixels.dtype, device=sigma_pixels.device)
    distance = (position[:, None] - position) / sigma_pixels.view(-1, 1, 1, 1)
    # Weights beyond 8 standard deviations are set to zero: as denormal numbers, they make products 20 times slower.
    return torch.softmax((-0.5 * distance.square()).masked_fill(distance.abs() > 8, -torch.inf), dim=-1)

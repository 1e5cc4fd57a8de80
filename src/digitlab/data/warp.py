"""Moves the pixels of images: looks images up at other positions and pads them. Augmentation and deskewing use it.

Shapes: N images, C channels, H rows, W columns. Positions are in pixels from the centre of the image, x to the right
and y downwards.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_centres(images: Tensor) -> Tensor:
    """Return x and y of each pixel's centre, in pixels from the centre of the image: (2, H, W).

    The result has the dtype and device of ``images``, (N, C, H, W).
    """
    y_axis, x_axis = (
        torch.arange(length, dtype=images.dtype, device=images.device) - (length - 1) / 2 for length in images.shape[2:]
    )
    y, x = torch.meshgrid(y_axis, x_axis, indexing="ij")
    return torch.stack([x, y])


def sample_at(images: Tensor, points: Tensor) -> Tensor:
    """Return new images: the value of each of their pixels is that of ``images`` at the position given by ``points``.

    ``images`` are float (N, C, H, W) in [0, 1]; the result has the same shape. ``points``, float (N, 2, H, W), has x
    and y for each pixel of the result. Between pixels, the value is interpolated bilinearly. Outside the image, it is 0
    (black).
    """
    height, width = images.shape[2:]
    # ``grid_sample`` takes positions from -1 at one edge of the image to 1 at the other.
    grid = torch.stack([points[:, 0] * (2 / width), points[:, 1] * (2 / height)], dim=-1)
    # The four weights of the interpolation may sum to slightly more than one.
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)


def reflected(images: Tensor, padding: int) -> Tensor:
    """Pad images (N, C, H, W) by ``padding`` pixels on each side, reflected about their outermost pixels.

    If an image is smaller than the padding, it is reflected several times. PyTorch's own padding refuses to do this.
    """
    rows, columns = (_reflection(length, padding, images.device) for length in images.shape[2:])
    # For each pixel of the padded image, the index of its source in the flattened image.
    source = (rows[:, None] * images.shape[3] + columns).flatten()
    padded = images.flatten(2).gather(2, source.expand(*images.shape[:2], -1))
    return padded.view(*images.shape[:2], len(rows), len(columns))


def _reflection(length: int, padding: int, device: torch.device) -> Tensor:
    """Return, for each of the ``length`` + 2 ``padding`` positions of an axis, the index of the pixel that it shows."""
    position = torch.arange(-padding, length + padding, device=device)
    last = length - 1
    # The index goes from 0 up to ``last`` and back to 0, again and again, with period 2 · last. An image with a single
    # pixel has last = 0; the period 1 avoids a division by zero.
    return last - (position % max(1, 2 * last) - last).abs()

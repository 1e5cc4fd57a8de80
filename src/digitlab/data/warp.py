"""Images looked up at other places: what augmentation and deskewing move pixels by.

N images, C, H, W. Places are in pixels from the centre of the image, x to the right and y down.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_centres(images: Tensor) -> Tensor:
    """(2, H, W): x and y of each pixel's centre, in pixels from the centre of the image."""
    axes = [torch.arange(n, dtype=images.dtype, device=images.device) - (n - 1) / 2 for n in images.shape[2:]]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([columns, rows])


def sample_at(images: Tensor, points: Tensor) -> Tensor:
    """The images (N, C, H, W) at ``points`` (N, 2, H, W), x and y in pixels from the centre; black beyond the edge."""
    height, width = images.shape[2:]
    grid = torch.stack([points[:, 0] * (2 / width), points[:, 1] * (2 / height)], dim=-1)
    # The four weights of a pixel may sum to a little more than one.
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)


def reflected(images: Tensor, padding: int) -> Tensor:
    """``images`` (N, C, H, W) with ``padding`` pixels more on each side, reflected about their outermost ones.

    Where the image is smaller than that, it is reflected again and again, which torch's own padding refuses.
    """
    rows, columns = (_reflection(length, padding, images.device) for length in images.shape[2:])
    source = (rows[:, None] * images.shape[3] + columns).flatten()
    padded = images.flatten(2).gather(2, source.expand(*images.shape[:2], -1))
    return padded.view(*images.shape[:2], len(rows), len(columns))


def _reflection(length: int, padding: int, device: torch.device) -> Tensor:
    """Where each of the ``length`` + 2 ``padding`` positions of an axis takes its pixel from."""
    position = torch.arange(-padding, length + padding, device=device)
    last = length - 1
    return last - (position % max(1, 2 * last) - last).abs()

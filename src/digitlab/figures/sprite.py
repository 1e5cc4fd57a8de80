"""Joins many small images in one large picture, a sprite. Does not import torch.

Reports and TensorBoard's projector use it, because a browser loads one large picture faster than many small ones.
"""

import numpy as np
import numpy.typing as npt


def join_images(images: npt.NDArray[np.uint8], *, columns: int) -> npt.NDArray[np.uint8]:
    """Join ``images``, uint8 (N, H, W, C), row by row, ``columns`` in a row; the rest of the last row stays black."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, height, width, channels), np.uint8)
    grid[:count] = images
    # Put the rows of pixels of all images in a row of the grid next to each other.
    return grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(rows * height, -1, channels)

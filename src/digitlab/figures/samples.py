"""A figure of a data set: one row of images per class. ``digitlab show`` and TensorBoard use it.

N is the number of images, K the number of classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.style import BACKGROUND_COLOUR, TEXT_COLOUR, literal
from digitlab.figures.tiles import rgba

_GAP_PIXELS = 2  # between two images, in pixels of the images
_DOTS_PER_INCH = 200
_DOTS_PER_PIXEL = 3  # width and height of a pixel of an image, in dots of the figure
_TITLE_INCHES, _EDGE_INCHES = 0.35, 0.05  # the space above the images, and that to the right of and below them
_LETTER_INCHES = 0.075  # slightly more than the mean width of a letter at 8 points


def first_of_each_class(labels: Tensor, *, classes: int, count: int) -> Tensor:
    """Return the indices, int64, of the first ``count`` images of each class, class by class; ``labels`` int64 (N,)."""
    return torch.cat([(labels == label).nonzero().flatten()[:count] for label in range(classes)])


def sample_grid(images: Tensor, labels: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw one row of images per class, with the class names on the left. Rows may differ in length.

    ``images`` is (N, C, H, W), uint8 or float in [0, 1]; ``labels`` is int64 (N,). Three channels are shown as RGB,
    any other number as the grey mean of the channels.
    """
    tiles = rgba(images)
    rows = [tiles[(labels == label).numpy()] for label in range(len(class_names))]
    mosaic = _mosaic(rows, tiles.shape[1:])
    height, width = (side * _DOTS_PER_PIXEL / _DOTS_PER_INCH for side in mosaic.shape[:2])
    names_inches = 0.2 + _LETTER_INCHES * max(map(len, class_names))
    size = (names_inches + width + _EDGE_INCHES, _EDGE_INCHES + height + _TITLE_INCHES)
    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, facecolor=BACKGROUND_COLOUR)
    axes = figure.add_axes((names_inches / size[0], _EDGE_INCHES / size[1], width / size[0], height / size[1]))
    axes.imshow(mosaic, interpolation="nearest", aspect="auto")
    pitch = tiles.shape[1] + _GAP_PIXELS
    # In the coordinates of the axes, the centre of the first pixel is 0.
    centres = [row * pitch + (tiles.shape[1] - 1) / 2 for row in range(len(class_names))]
    axes.set_yticks(centres, [literal(name) for name in class_names])
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8, labelcolor=TEXT_COLOUR)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    axes.set_title(title, fontsize=9, color=TEXT_COLOUR, loc="left")
    return figure


def _mosaic(rows: Sequence[npt.NDArray[np.uint8]], tile_shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Join all images in one array with transparent gaps. Matplotlib draws it 100 times as fast as single images.

    ``rows`` holds the images of each class, uint8 (n, H, W, RGBA). ``tile_shape`` is the shape of one image.
    """
    height, width = tile_shape[0] + _GAP_PIXELS, tile_shape[1] + _GAP_PIXELS
    longest = max(len(row) for row in rows)
    mosaic = np.zeros((len(rows) * height, longest * width, 4), dtype=np.uint8)
    for row_number, row in enumerate(rows):
        for column, image in enumerate(row):
            top, left = row_number * height, column * width
            mosaic[top : top + tile_shape[0], left : left + tile_shape[1]] = image
    # There is no gap after the last row and the last column.
    return mosaic[:-_GAP_PIXELS, :-_GAP_PIXELS]

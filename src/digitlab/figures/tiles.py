"""Draws small images with captions in a grid; most figures that show images use it.

``images`` is (N, C, H, W), uint8 or float in [0, 1]. Three channels are shown as RGB. Any other number of channels is
averaged and shown in grey.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from digitlab.figures.style import TEXT_COLOUR, width_inches

_TILE_INCHES = 0.78  # width and height of one image
_LINE_INCHES = 0.125  # height of one caption line
_HEAD_INCHES = 0.3  # height of the space for a one-line title
_TITLE_LETTER_INCHES, _TITLE_LINE_INCHES = 0.075, 0.16  # width of a letter, and height of each line after the first
_GAP = 0.12  # gap between two images, as a share of an image's width


@dataclass(frozen=True, slots=True)
class Caption:
    """The text under an image, with one or more lines, and its colour; a frame around the image has this colour too."""

    text: str
    colour: str = TEXT_COLOUR


def rgba(images: Tensor) -> npt.NDArray[np.uint8]:
    """Convert images to opaque RGBA pixels, uint8 (N, H, W, 4)."""
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if pixels.shape[1] != 3:
        pixels = pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    opaque = torch.ones_like(pixels[:, :1])
    values: npt.NDArray[np.uint8] = (torch.cat([pixels, opaque], 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return values


def tiles_figure(
    images: Tensor, captions: Sequence[Caption | None], *, columns: int, title: str, wrap: bool = False
) -> Figure:
    """Draw ``images`` row by row, each with its caption below it.

    An image gets a frame if the colour of its caption is not the normal text colour. If the caption is None, the place
    of the image stays empty. With ``wrap``, there are fewer columns if ``style.figure_width`` sets the width of a paper
    into which ``columns`` of them would not fit.
    """
    lines = max(caption.text.count("\n") + 1 for caption in captions if caption)
    # The distance from one image to the next, to the right and downwards. The left margin is 0.1 inches.
    pitch_inches = _TILE_INCHES * (1 + _GAP), _TILE_INCHES + lines * _LINE_INCHES + 0.1
    if wrap and (inches := width_inches()) is not None:
        columns = min(columns, max(1, round((inches - 0.1) / pitch_inches[0])))
    rows = -(-len(images) // columns)
    width = columns * pitch_inches[0] + 0.1
    title_lines = textwrap.wrap(title, max(1, int(width / _TITLE_LETTER_INCHES)))
    head_inches = _HEAD_INCHES + _TITLE_LINE_INCHES * max(len(title_lines) - 1, 0)
    size = (width, rows * pitch_inches[1] + head_inches)
    figure = Figure(figsize=size)
    figure.text(0.06 / size[0], 1 - 0.08 / size[1], "\n".join(title_lines), va="top", fontsize=9)
    # One pair of axes for all images. Their unit is an inch, counted to the right and downwards.
    axes = blank_axes(figure, (0, 0, 1, 1 - head_inches / size[1]))
    axes.set_xlim(0, size[0])
    axes.set_ylim(rows * pitch_inches[1], 0)
    for number, (tile, caption) in enumerate(zip(rgba(images), captions, strict=True)):
        if caption is None:
            continue
        row, column = divmod(number, columns)
        left, top = column * pitch_inches[0] + 0.1, row * pitch_inches[1]
        _draw_tile(axes, tile, caption, left, top)
    return figure


def blank_axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """Add axes without frame, ticks or background; ``place`` is left, bottom, width, height as shares of the figure."""
    axes = figure.add_axes(place)
    axes.set_axis_off()
    return axes


def _draw_tile(axes: Axes, tile: npt.NDArray[np.uint8], caption: Caption, left: float, top: float) -> None:
    """Draw an image, uint8 (H, W, 4), with its caption; ``left`` and ``top`` are its edges in inches."""
    right, bottom = left + _TILE_INCHES, top + _TILE_INCHES
    axes.imshow(tile, extent=(left, right, bottom, top), interpolation="nearest", aspect="auto")
    if caption.colour != TEXT_COLOUR:
        axes.add_patch(Rectangle((left, top), _TILE_INCHES, _TILE_INCHES, fill=False, edgecolor=caption.colour, lw=1.6))
    axes.text(
        (left + right) / 2, bottom + 0.04, caption.text, color=caption.colour,
        ha="center", va="top", fontsize=6.5, linespacing=1.05,
    )  # fmt: skip

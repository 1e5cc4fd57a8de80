"""Draws the confusion matrix as heat maps, and the most confused pairs of classes with example images.

``figures.gallery`` draws both for a run; ``figures.events`` sends the matrix to TensorBoard. Shapes: N images, K
classes.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.confused import most_confused
from digitlab.figures.images import prediction_caption
from digitlab.figures.style import panel_grid, pixels, short, styled, text_colour_on
from digitlab.figures.tiles import Caption, tiles_figure

_NUMBER_POINTS = 5.5  # font size of the numbers in the cells
# With more classes than this, the cells are too small for numbers.
_MOST_NUMBERED_CLASSES = 25
_ERROR_MAP, _DIAGONAL_COLOUR = "Oranges", "#dddddd"
_BRIGHTNESS = {"black": 0, "white": 255}  # grey values of the two colours of numbers
# One number in a heat map: row, column, text, colour.
Cell = tuple[int, int, str, str]


@styled
def confusion_figure(confusion: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw ``confusion``, int64 (K, K), true class by predicted class, as two heat maps: counts, and % of each row.

    The diagonal is grey, and the colour scales end at the largest error. A scale that includes the correct predictions
    would show all errors in nearly the same colour.
    """
    figure = _frame(_scale_ends(confusion), class_names, title)
    for axes, values, cells in _maps(figure, confusion):
        axes.images[0].set_data(values)
        for row, column, text, colour in cells:
            axes.text(column, row, text, ha="center", va="center", fontsize=_NUMBER_POINTS, color=colour)
    return figure


@styled
def confusion_pixels(confusion: Tensor, *, class_names: Sequence[str], title: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of ``confusion_figure``, uint8 (rows, columns, RGBA); ``confusion`` is int64 (K, K).

    Later calls are faster than the first one, which helps sweeps.
    Drawing axes, names and texts with Matplotlib takes most of the time. So Matplotlib draws a frame (the figure
    without colours and numbers) once for each pair of colour scales, and each number once. NumPy colours the cells and
    pastes the numbers.
    """
    figure, frame_pixels = _rendered_frame(_scale_ends(confusion), tuple(class_names), title)
    picture = frame_pixels.copy()
    for axes, values, cells in _maps(figure, confusion):
        _paint(picture, axes, axes.images[0].to_rgba(values, bytes=True))
        for row, column, text, colour in cells:
            # Matplotlib counts pixels from the bottom, ``picture`` from the top.
            x, y = axes.transData.transform((column, row))
            _blend(picture, _opacity(text), (len(picture) - y, x), brightness=_BRIGHTNESS[colour])
    return picture


# A frame has 5 MB, with 100 classes 28 MB.
@lru_cache(maxsize=4)
def _rendered_frame(
    scale_ends: tuple[float, float], class_names: tuple[str, ...], title: str
) -> tuple[Figure, npt.NDArray[np.uint8]]:
    """Return the frame as a figure, which knows the positions of the cells, and as uint8 (rows, columns, RGBA)."""
    frame = _frame(scale_ends, class_names, title)
    return frame, pixels(frame)


def _scale_ends(confusion: Tensor) -> tuple[float, float]:
    """Return the upper ends of the two colour scales, of counts and of per cent: the largest error, rounded up.

    Rounding lets many matrices share a rendered frame.
    """
    errors = confusion.clone().fill_diagonal_(0)
    largest_percent = float(_percent_of_rows(confusion).fill_diagonal_(0).max())
    return _rounded_up(float(errors.max())), _rounded_up(largest_percent)


def _percent_of_rows(confusion: Tensor) -> Tensor:
    """Return each count in per cent of its row, the images of its true class: float (K, K); 0 in an empty row."""
    return 100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1)


def _rounded_up(value: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 4, 6, 8 and 10, times a power of ten; 1 for values that are not positive."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    # The tolerance keeps a value that is already such a number, even if its product has a rounding error.
    return next(step * power for step in (1, 1.5, 2, 3, 4, 6, 8, 10) if value <= step * power * (1 + 1e-9))


def _paint(picture: npt.NDArray[np.uint8], axes: Axes, colours: npt.NDArray[np.uint8]) -> None:
    """Fill the area of the heat map ``axes`` in ``picture`` with ``colours``, uint8 (K, K, RGBA)."""
    classes = len(colours)
    corners = axes.transData.transform([(-0.5, -0.5), (classes - 0.5, classes - 0.5)])
    left, right = (round(x) for x, _ in corners)
    top, bottom = (round(len(picture) - y) for _, y in corners)
    # The row and the column of the cell that each pixel belongs to.
    rows, columns = (np.arange(side) * classes // side for side in (bottom - top, right - left))
    picture[top:bottom, left:right] = colours[rows[:, None], columns]


@lru_cache(maxsize=4096)
@styled
def _opacity(text: str) -> npt.NDArray[np.uint8]:
    """Render the text of one cell as opacity, uint8 (rows, columns): 255 hides the background completely."""
    # The size in inches is just large enough for the text in this font size.
    figure = Figure(figsize=(0.09 * len(text) + 0.05, 0.15))
    figure.patch.set_alpha(0)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=_NUMBER_POINTS)
    # A copy, because a view would keep the colours and Matplotlib's renderer in memory.
    return pixels(figure)[:, :, 3].copy()


def _blend(
    picture: npt.NDArray[np.uint8], opacity: npt.NDArray[np.uint8], centre: tuple[float, float], *, brightness: int
) -> None:
    """Blend a text of grey ``brightness``, 0 to 255, into ``picture``.

    ``opacity`` is the text as ``_opacity`` renders it. ``centre`` is the (row, column) of its centre in pixels and may
    be fractional.
    """
    top, left = (round(coordinate - side / 2) for coordinate, side in zip(centre, opacity.shape, strict=True))
    background = picture[top : top + opacity.shape[0], left : left + opacity.shape[1], :3]
    alpha = opacity[:, :, None] / np.float32(255)
    background[:] = np.rint(background + alpha * (brightness - background.astype(np.float32)))


def _frame(scale_ends: tuple[float, float], class_names: Sequence[str], title: str) -> Figure:
    """Make the figure with both heat maps, filled with zeros.

    ``scale_ends`` are the upper ends of the colour scales of counts and of per cent.
    """
    side_inches = max(3.0, _cell_inches(len(class_names)) * len(class_names) + 1.0)
    rows, columns = panel_grid(2)
    figure = Figure(figsize=(columns * side_inches + 1.2, rows * side_inches + 0.4), layout="compressed")
    figure.suptitle(title, x=0.01, ha="left")
    counts, shares = figure.subplots(rows, columns, squeeze=False).flat
    _heat_map(figure, counts, class_names, end=scale_ends[0], label="errors: images")
    _heat_map(figure, shares, class_names, end=scale_ends[1], label="errors: % of the true class")
    return figure


def _cell_inches(classes: int) -> float:
    """Return the side of a cell; with many classes it shrinks, so that the map stays about nine inches wide."""
    return 0.36 if classes <= _MOST_NUMBERED_CLASSES else max(0.11, 9 / classes)


def _heat_map(figure: Figure, axes: Axes, class_names: Sequence[str], *, end: float, label: str) -> None:
    """Draw an empty heat map with the names of the classes and a colour scale from 0 to ``end``."""
    positions, names = range(len(class_names)), [short(name) for name in class_names]
    colours = colormaps[_ERROR_MAP].with_extremes(bad=_DIAGONAL_COLOUR)
    image = axes.imshow(np.zeros((len(names), len(names))), cmap=colours, vmin=0, vmax=end)
    long_names = max(map(len, names)) > 2
    if len(names) > _MOST_NUMBERED_CLASSES:
        axes.set_xticks(positions, names, rotation=90)
        axes.tick_params(labelsize=min(7.0, 50 * _cell_inches(len(names))), length=1.5)
    else:
        axes.set_xticks(positions, names, rotation=45 if long_names else 0, ha="right" if long_names else "center")
    axes.set_yticks(positions, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)


def _maps(figure: Figure, confusion: Tensor) -> Iterator[tuple[Axes, npt.NDArray[np.float32], list[Cell]]]:
    """Yield the axes of each heat map, its values (K, K) with a masked diagonal, and the numbers in its cells.

    Cells with 0 have no number. With more than ``_MOST_NUMBERED_CLASSES`` classes, no cell has one.
    """
    diagonal = np.eye(len(confusion), dtype=bool)
    for axes, values, number_format in zip(
        figure.axes[:2], (confusion.float(), _percent_of_rows(confusion)), ("{:.0f}", "{:.1f}"), strict=True
    ):
        errors = np.ma.masked_array(values.numpy(), diagonal)
        colours = axes.images[0].to_rgba(errors)
        cells = [
            (row, column, number_format.format(value), text_colour_on(tuple(colours[row, column])))
            for row, row_values in enumerate(values.tolist())
            for column, value in enumerate(row_values)
            if value and len(confusion) <= _MOST_NUMBERED_CLASSES
        ]
        yield axes, errors, cells


@styled
def confused_pairs_figure(
    images: Tensor,
    labels: Tensor,
    predicted: Tensor,
    *,
    class_names: Sequence[str],
    pairs: int,
    examples: int,
    title: str,
) -> Figure:
    """Draw one row for each of the ``pairs`` most frequent confusions: its count and up to ``examples`` images of it.

    ``images`` is uint8 (N, C, H, W); ``labels`` and ``predicted`` are int64 (N,).
    """
    tiles: list[Tensor] = []
    captions: list[Caption | None] = []
    classes = len(class_names)
    counts = (labels * classes + predicted).bincount(minlength=classes**2).view(classes, classes)
    for label, wrong_class, count in most_confused(counts.tolist(), pairs=pairs):
        indices = ((labels == label) & (predicted == wrong_class)).nonzero().flatten()[:examples]
        # If there are too few examples, empty places fill the row: images without a caption are not drawn.
        empty = examples - len(indices)
        tiles += [images[indices], images[:1].expand(empty, -1, -1, -1)]
        caption = prediction_caption(wrong_class, label, class_names=class_names)
        first_caption = Caption(f"{caption.text}\n{count} time{'s' * (count != 1)}", caption.colour)
        captions += [first_caption, *[caption] * (len(indices) - 1), *[None] * empty]
    return tiles_figure(torch.cat(tiles), captions, columns=examples, title=title)

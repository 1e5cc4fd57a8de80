"""The figure of ``digitlab evaluate --corrupt``: how accuracy falls with the severity of a corruption.

The curve is at the top. Below each of its points there are images with this severity.
"""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from digitlab.figures.style import SPLIT_STYLES, styled

# The width of a column of images, the height of the curve, and the unit of the space around them for labels.
_COLUMN_INCHES, _CURVE_INCHES, _EDGE_INCHES = 0.9, 2.2, 0.6
_TILE_SHARE = 0.92  # the width of an image as a share of its column; the rest is a gap


@styled
def severity_figure(accuracies: Mapping[int, float], examples: Tensor, *, title: str) -> Figure:
    """Draw the accuracy at each of S severities and, below each, the example images at that severity.

    ``accuracies`` maps severities in ascending order to accuracies in [0, 1]. ``examples`` is float (S, N, C, H, W) in
    [0, 1], the same N images at each severity. Images with three channels are shown in colour; of all others, the mean
    of the channels is shown in grey.
    """
    columns, rows, _, height, width = examples.shape
    strip_inches = rows * _COLUMN_INCHES * height / width
    # Space for labels, in units of _EDGE_INCHES: 1 at the left, 0.5 above the curve, 0.8 below the images, and 0.2
    # between the two. Matplotlib takes positions as shares of the width and height of the figure.
    size = (_EDGE_INCHES + columns * _COLUMN_INCHES, _CURVE_INCHES + strip_inches + 1.5 * _EDGE_INCHES)
    figure = Figure(figsize=size)
    left, width_share = _EDGE_INCHES / size[0], columns * _COLUMN_INCHES / size[0]
    above = figure.add_axes(
        (left, 1 - (0.5 * _EDGE_INCHES + _CURVE_INCHES) / size[1], width_share, _CURVE_INCHES / size[1])
    )
    below = figure.add_axes((left, 0.8 * _EDGE_INCHES / size[1], width_share, strip_inches / size[1]))
    _draw_images(below, examples)
    _draw_curve(above, list(accuracies.values()), title)
    below.set_xticks(range(columns), [str(severity) for severity in accuracies])
    below.set_xlabel("severity of the corruption (0: images as they are)")
    # Equal limits put each point of the curve exactly above its column of images.
    for axes in (above, below):
        axes.set_xlim(-0.5, columns - 0.5)
    return figure


def _draw_curve(axes: Axes, accuracies: list[float], title: str) -> None:
    colour, line, marker = SPLIT_STYLES["test"]
    percent = [100 * accuracy for accuracy in accuracies]
    axes.plot(range(len(percent)), percent, color=colour, linestyle=line, marker=marker)
    for column, value in enumerate(percent):
        # The number is above its point, or below a high point, so that it stays inside the axes. Unit: points.
        offset = (0, -13) if value > 50 else (0, 7)
        axes.annotate(f"{value:.1f}", (column, value), offset, textcoords="offset points", ha="center")
    axes.set_ylim(0, 104)  # the marker of 100 % needs space above it
    axes.set_ylabel("test accuracy in %")
    axes.set_xticks([])
    axes.set_title(title)


def _draw_images(axes: Axes, examples: Tensor) -> None:
    columns, rows = examples.shape[:2]
    pixels = examples if examples.shape[2] == 3 else examples.mean(2, keepdim=True).expand(-1, -1, 3, -1, -1)
    for column in range(columns):
        for row in range(rows):
            # Left, right, bottom, top. The y axis points down, so that row 0 is at the top.
            edges = (column - _TILE_SHARE / 2, column + _TILE_SHARE / 2, row + _TILE_SHARE / 2, row - _TILE_SHARE / 2)
            image = pixels[column, row].permute(1, 2, 0).numpy()
            axes.imshow(image, extent=edges, interpolation="nearest", aspect="auto")
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)

"""Figures of points in two dimensions, one for each image, coloured and marked by class.

``digitlab explain`` draws the last hidden layer of a network in this way, projected to two dimensions.
N is the number of images, K the number of classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from digitlab.figures.style import BACKGROUND_COLOUR, LINE_STYLES, TEXT_COLOUR, panel_grid, short, styled

_PANEL_INCHES = 4.2
_MARKERS = "os^Dv<>pPX*"
# About the size of a letter of a name, as shares of the width and the height of a panel.
_LETTER_WIDTH, _LETTER_HEIGHT = 0.019, 0.036
# With more classes than this, a legend would be too long, and only the names at the points tell the classes.
_MOST_NAMES = 30


@dataclass(frozen=True, slots=True)
class Panel:
    """Points (N, 2), a title and the labels of both axes; empty labels hide the ticks, whose values mean nothing."""

    title: str
    points: Tensor
    axis_labels: tuple[str, str]


@styled
def embedding_figure(panels: Sequence[Panel], labels: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw a panel for each of ``panels``; the name of each class is at the median of its points, or a little above it.

    The panels are side by side, or one below the other if the figure is for a column of a paper. ``labels`` is int64
    (N,), the classes of the points.
    """
    rows, columns = panel_grid(len(panels))
    figure = Figure(figsize=(_PANEL_INCHES * columns + 1.2, _PANEL_INCHES * rows), layout="constrained")
    axes_grid = figure.subplots(rows, columns, squeeze=False)
    occurring = labels.unique().tolist()
    for axes, panel in zip(axes_grid.flat, panels, strict=True):
        for label in occurring:
            # ``rasterized``: PDF and SVG files contain the points as pixels. Thousands of shapes would make them large.
            points = panel.points[labels == label]
            axes.scatter(
                *points.T.numpy(), s=6, color=_colour(label), marker=_MARKERS[label % len(_MARKERS)], linewidths=0,
                alpha=0.7, label=short(class_names[label]), rasterized=True,
            )  # fmt: skip
        _write_names(axes, {label: panel.points[labels == label].median(0).values.tolist() for label in occurring},
                     class_names)  # fmt: skip
        axes.set_title(panel.title)
        if any(panel.axis_labels):
            axes.set_xlabel(panel.axis_labels[0])
            axes.set_ylabel(panel.axis_labels[1])
        else:
            axes.set_xticks([])
            axes.set_yticks([])
    if len(occurring) <= _MOST_NAMES:
        legend = figure.legend(
            *axes_grid.flat[0].get_legend_handles_labels(), loc="outside right upper", markerscale=2, ncols=1
        )
        # The points are half-transparent, but the symbols in the legend are not.
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    figure.suptitle(title, x=0.01, ha="left", color=TEXT_COLOUR, fontsize=9)
    return figure


def _write_names(axes: Axes, places: Mapping[int, Sequence[float]], class_names: Sequence[str]) -> None:
    """Write the name of each class at its place (x, y), from the bottom to the top of the panel.

    A name that would cover one that is written already moves upwards.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    letter, height = _LETTER_WIDTH * (right - left), _LETTER_HEIGHT * (top - bottom)
    written: list[tuple[float, float, float]] = []
    for label, (x, y) in sorted(places.items(), key=lambda each: each[1][1]):
        name = short(class_names[label])
        width = letter * len(name)
        # The y of each written name that would overlap this name if both had the same y.
        ys_beside = [other_y for other_x, other_y, other_w in written if abs(other_x - x) < (other_w + width) / 2]
        # Written names stay where they are, so each move leads upwards and the loop ends. A move leads exactly one
        # height above another name; the factor 0.999 allows for the rounding error of this distance.
        while covered := [other_y for other_y in ys_beside if abs(other_y - y) < 0.999 * height]:
            y = max(covered) + height
        written.append((x, y, width))
        halo = [withStroke(linewidth=2.5, foreground=BACKGROUND_COLOUR)]
        axes.text(x, y, name, color=_colour(label), ha="center", va="center", fontweight="bold", path_effects=halo)


def _colour(label: int) -> str:
    return LINE_STYLES[label % len(LINE_STYLES)][0]

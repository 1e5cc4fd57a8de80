"""Figures of points in two dimensions, one for each image, coloured and marked by class.

N is the number of images, K the number of classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from digitlab.figures.style import BACKGROUND_COLOUR, LINE_STYLES, TEXT_COLOUR, panel_columns, short, styled

_PANEL_INCHES = 4.2
_MARKERS = "os^Dv<>pPX*"
_MOST_NAMES = 30  # in the legend; with more classes, the figure has no legend and only the names at the points


@dataclass(frozen=True, slots=True)
class Panel:
    """Points (N, 2), a title and the labels of both axes; empty labels hide the ticks, whose values mean nothing."""

    title: str
    points: Tensor
    axis_labels: tuple[str, str]


@styled
def embedding_figure(panels: Sequence[Panel], labels: Tensor, *, class_names: Sequence[str], title: str) -> Figure:
    """Draw the panels side by side; the name of each class is at the median of its points.

    ``labels`` is int64 (N,), the classes of the points.
    """
    columns = panel_columns(len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL_INCHES * columns + 1.2, _PANEL_INCHES * rows), layout="constrained")
    axes_grid = figure.subplots(rows, columns, squeeze=False)
    present = labels.unique().tolist()
    for axes, panel in zip(axes_grid.flat, panels, strict=True):
        for label in present:
            points = panel.points[labels == label]
            axes.scatter(
                *points.T.numpy(), s=6, color=_colour(label), marker=_MARKERS[label % len(_MARKERS)], linewidths=0,
                alpha=0.7, label=short(class_names[label]), rasterized=True,
            )  # fmt: skip
        for label in present:
            x, y = panel.points[labels == label].median(0).values.tolist()
            halo = [withStroke(linewidth=2.5, foreground=BACKGROUND_COLOUR)]
            axes.text(x, y, short(class_names[label]), color=_colour(label), ha="center", va="center",
                      fontweight="bold", path_effects=halo)  # fmt: skip
        axes.set_title(panel.title)
        if any(panel.axis_labels):
            axes.set_xlabel(panel.axis_labels[0])
            axes.set_ylabel(panel.axis_labels[1])
        else:
            axes.set_xticks([])
            axes.set_yticks([])
    if len(present) <= _MOST_NAMES:
        legend = figure.legend(
            *axes_grid.flat[0].get_legend_handles_labels(), loc="outside right upper", markerscale=2, ncols=1
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    figure.suptitle(title, x=0.01, ha="left", color=TEXT_COLOUR, fontsize=9)
    return figure


def _colour(label: int) -> str:
    return LINE_STYLES[label % len(LINE_STYLES)][0]

"""Learning curves of several settings in one figure, as in the course report R5.

``digitlab reproduce --figures`` draws such a figure for each sweep of R5, and for the variants of its baseline.
A setting is one choice of values, and its runs differ only in the seed.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from digitlab.figures.style import LINE_STYLES, panel_grid, styled

# Metrics in the order of their panels, with the axis labels. Accuracies are in [0, 1] and are drawn in per cent.
_PANELS = {
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "train/accuracy": "training accuracy in %",
    "val/accuracy": "validation accuracy in %",
}
_MARKERS = "os^Dv*"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name in the legend, and for each metric one curve per run with one value per epoch."""

    name: str
    curves: Mapping[str, Sequence[Sequence[float]]]


@styled
def settings_figure(settings: Sequence[Setting], *, title: str) -> Figure:
    """Draw loss and accuracy of training and validation against epochs: one line per setting, the mean over its runs.

    If a setting has several runs, a band shows one standard deviation (n - 1) above and below the mean. A metric that
    no setting has gets no panel.
    """
    panels = [metric for metric in _PANELS if any(setting.curves.get(metric) for setting in settings)]
    legend_inches = 0.17 * len(settings) + 0.2  # one line of text for each setting
    rows, columns = panel_grid(len(panels), most_columns=2)
    figure = Figure(figsize=(6.8, 2.3 * rows + legend_inches + 0.3), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    # Three panels leave one place of the grid empty.
    for axes in grid[len(panels) :]:
        axes.remove()
    handles: dict[str, Line2D] = {}
    for metric, axes in zip(panels, grid, strict=False):
        for setting, line_style, marker in zip(settings, itertools.cycle(LINE_STYLES), itertools.cycle(_MARKERS)):
            if curves := setting.curves.get(metric):
                handles[setting.name] = _draw(axes, curves, (*line_style, marker), 100 if "accuracy" in metric else 1)
        axes.set(xlabel="epoch", ylabel=_PANELS[metric])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower left")
    return figure


def _draw(axes: Axes, curves: Sequence[Sequence[float]], line_style: tuple[str, str, str], scale: int) -> Line2D:
    """Draw the mean of ``curves`` over the epochs that all have, and return its line for the legend."""
    colour, style, marker = line_style
    values = scale * np.array([curve[: min(map(len, curves))] for curve in curves])
    epochs, mean = np.arange(1, values.shape[1] + 1), values.mean(0)
    (line,) = axes.plot(epochs, mean, color=colour, linestyle=style, marker=marker, markevery=max(1, len(epochs) // 5))
    if len(curves) > 1:
        sd = values.std(0, ddof=1)
        axes.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
    return line

"""A figure of comparisons between two groups of runs: their pairs, and their difference with its 95 % interval.

A pair is one run of each group: both have the same seed, and the same values of all settings in which the groups do
not differ. ``digitlab compare --figure``, the report of a sweep and the Python API show the figure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from digitlab.figures.formatting import metric_scale
from digitlab.figures.style import BLUE, ORANGE, TEXT_COLOUR, literal, panel_grid, styled

# Only the pairs of this many comparisons are drawn, because more panels would be too small to read. The differences of
# all comparisons are drawn below them.
_MAX_PANELS = 6
_LONGEST_NAME = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedValues:
    """One comparison: the values of both groups pair by pair, and the mean of first minus second with its interval.

    ``first`` and ``second`` are the names of the groups, such as ``optimizer.lr=0.1``. ``pairs`` is empty for groups
    that are not paired; ``interval`` is None for a single pair.
    """

    first: str
    second: str
    pairs: Sequence[tuple[float, float]]
    mean: float
    interval: tuple[float, float] | None
    significant: bool


@styled
def difference_figure(comparisons: Sequence[PairedValues], *, metric: str) -> Figure:
    """Draw the pairs of the first six paired comparisons, and below them the differences of all, in their order.

    In the panel of a comparison, a thin line joins the two values of each pair, and a thick line the two means. The
    interval is blue with a filled square if the difference is significant, and orange with an open one otherwise.
    """
    factor, label = metric_scale(metric)
    paired = [comparison for comparison in comparisons if comparison.pairs][:_MAX_PANELS]
    rows, columns = panel_grid(len(paired), most_columns=3)
    differences_inches = 0.34 * len(comparisons) + 1.05
    figure = Figure(figsize=(max(5.0, 2.3 * columns), 2.3 * rows + differences_inches), layout="constrained")
    if paired:
        # Two subfigures. In one figure, the long names beside the differences would narrow the panels above them.
        parts = figure.add_gridspec(2, 1, height_ratios=[2.3 * rows, differences_inches])
        pairs, differences = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
        grid = pairs.add_gridspec(rows, columns)
        for number, comparison in enumerate(paired):
            _draw_pairs(pairs.add_subplot(grid[number // columns, number % columns]), comparison, factor, label)
        _draw_differences(differences.subplots(), comparisons, factor, metric)
    else:
        _draw_differences(figure.subplots(), comparisons, factor, metric)
    return figure


def _draw_pairs(axes: Axes, comparison: PairedValues, factor: float, label: str) -> None:
    """Draw the panel of one comparison: the first group on the left, the second one on the right."""
    for pair in comparison.pairs:
        axes.plot([0, 1], [factor * value for value in pair], "o-", color=TEXT_COLOUR, alpha=0.45, linewidth=0.9)
    means = [factor * sum(pair[side] for pair in comparison.pairs) / len(comparison.pairs) for side in (0, 1)]
    axes.plot([0, 1], means, "s-", color=BLUE, linewidth=2, markersize=5)
    key, names = _common_key(comparison.first, comparison.second)
    axes.set_xticks([0, 1], ["\n".join(_keep_end(part, 16) for part in _settings(name)) for name in names])
    axes.set_xlabel(_keep_end(key))
    axes.set_xlim(-0.35, 1.35)
    axes.set_ylabel(label)
    axes.set_title(f"{len(comparison.pairs)} pairs and means")


def _draw_differences(axes: Axes, comparisons: Sequence[PairedValues], factor: float, metric: str) -> None:
    for row, comparison in enumerate(comparisons):
        low, high = comparison.interval or (comparison.mean, comparison.mean)
        colour, fill = (BLUE, BLUE) if comparison.significant else (ORANGE, "none")
        axes.plot([factor * low, factor * high], [row, row], "-", color=colour)
        axes.plot([factor * comparison.mean], [row], "s", color=colour, markerfacecolor=fill, markersize=5)
    axes.axvline(0, color=TEXT_COLOUR, linewidth=0.9)
    names = [f"{_keep_end(each.first)}\n− {_keep_end(each.second)}" for each in comparisons]
    axes.set_yticks(range(len(comparisons)), names)
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    # The difference of two values in per cent is in percentage points.
    unit = " in points" if factor != 1 else ""
    axes.set_xlabel(f"difference in {metric}{unit}:\nmean and 95 % interval;\nfilled and blue if significant")


def _common_key(first: str, second: str) -> tuple[str, tuple[str, str]]:
    """Return the key and both values if the names are two values of one key, such as ``optimizer.lr=0.1``.

    Otherwise, also for names of several settings, return an empty key and the names.
    """
    if len(_settings(first)) > 1 or len(_settings(second)) > 1:
        return "", (first, second)
    (key, _, value), (other_key, _, other_value) = first.partition("="), second.partition("=")
    return (key, (value, other_value)) if key == other_key and value and other_value else ("", (first, second))


def _settings(name: str) -> list[str]:
    """Split ``lr=0.1, dropout=0`` into its settings; another name stays whole."""
    # A comma inside a value, such as ``hidden=[8, 8]``, is not followed by a key and ``=``.
    return re.split(r", (?=[\w.]+=)", name)


def _keep_end(name: str, letters: int = _LONGEST_NAME) -> str:
    """Shorten a long name to ``letters``, and escape it so that Matplotlib reads no formula in it.

    The end is kept, because the names of runs in one sweep differ there.
    """
    return literal(name if len(name) <= letters else "…" + name[1 - letters :])

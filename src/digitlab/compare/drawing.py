"""Draws comparisons; ``digitlab compare --figure``, the report of a sweep and the Python API show the figure."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from digitlab.compare.comparison import Comparison
from digitlab.figures.differences import PairedValues, difference_figure


def comparison_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Return a figure with the pairs of the first six paired comparisons, and below them the differences of all.

    ``comparisons`` has at least one item; all items have the same metric.
    """
    values = [
        PairedValues(
            first=comparison.first, second=comparison.second, pairs=comparison.pairs, mean=comparison.difference.mean,
            interval=comparison.difference.interval, significant=comparison.significant,
        )
        for comparison in comparisons
    ]  # fmt: skip
    return difference_figure(values, metric=comparisons[0].metric)

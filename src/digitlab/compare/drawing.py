"""Draws comparisons; ``digitlab compare --figure``, the report of a sweep and the Python API show the figure."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from digitlab.compare.comparison import Comparison
from digitlab.figures.differences import PairedValues, difference_figure


def comparison_figure(comparisons: Sequence[Comparison]) -> Figure:
    """The pairs of up to six comparisons and the differences of all; there is at least one."""
    values = [
        PairedValues(
            first=each.first, second=each.second, pairs=each.pairs, mean=each.difference.mean,
            interval=each.difference.interval, significant=each.significant,
        )
        for each in comparisons
    ]  # fmt: skip
    return difference_figure(values, metric=comparisons[0].metric)

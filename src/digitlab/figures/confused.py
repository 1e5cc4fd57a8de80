"""Finds the pairs of classes that a network confuses most often, for a figure and the report. Does not import torch."""

from collections.abc import Sequence


def most_confused(counts: Sequence[Sequence[int]], *, pairs: int) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, count) of the ``pairs`` most frequent confusions, the most frequent first.

    ``counts`` (K, K) has one row for each true class. The list is shorter if fewer confusions occur.
    """
    cells = [(true, predicted, count) for true, row in enumerate(counts) for predicted, count in enumerate(row)]
    errors = [(true, predicted, count) for true, predicted, count in cells if count and true != predicted]
    return sorted(errors, key=lambda cell: -cell[2])[:pairs]

"""Prepares the confusion matrix of a report: the cells of the heat map and the most confused pairs of classes."""

from dataclasses import dataclass

from digitlab.figures.confused import most_confused
from digitlab.report.records import Confusion


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its count, its share of the row in [0, 1], and whether it is on the diagonal (correct predictions).

    ``shade``, in [0, 1], is the depth of the colour: the share divided by that of the largest error. It is 0 on the
    diagonal, whose shares are so large that all errors would look the same beside them.
    """

    count: int
    share: float
    shade: float
    correct: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """``count`` images of class ``true`` were predicted as ``predicted``; ``share`` is relative to class ``true``."""

    true: str
    predicted: str
    count: int
    share: float


def heat_map(confusion: Confusion) -> list[tuple[str, list[Cell]]]:
    """Return the rows of the matrix as (name of the true class, cells)."""
    shares = [[count / max(sum(counts), 1) for count in counts] for counts in confusion.counts]
    errors = [
        share for row, row_shares in enumerate(shares) for column, share in enumerate(row_shares) if row != column
    ]
    largest = max(errors, default=0.0) or 1.0
    return [
        (
            name,
            [
                Cell(count, share, 0.0 if row == column else share / largest, row == column)
                for column, (count, share) in enumerate(zip(confusion.counts[row], shares[row], strict=True))
            ],
        )
        for row, name in enumerate(confusion.class_names)
    ]


def confused_pairs(confusion: Confusion, *, pairs: int) -> list[Pair]:
    """Return the ``pairs`` most frequent confusions, the most frequent first; fewer if fewer occur."""
    names, counts = confusion.class_names, confusion.counts
    return [
        Pair(names[true], names[predicted], count, count / sum(counts[true]))
        for true, predicted, count in most_confused(counts, pairs=pairs)
    ]

"""The confusion matrix of a report: the cells of the heat map and the most confused pairs."""

from dataclasses import dataclass

from digitlab.report.records import Confusion


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its count, its share of the row in [0, 1], and whether it is on the diagonal."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """``count`` images of class ``true`` were predicted as ``predicted``; ``share`` is relative to class ``true``."""

    true: str
    predicted: str
    count: int
    share: float


def heat_map(confusion: Confusion) -> list[tuple[str, list[Cell]]]:
    """Return the rows of the matrix as (name of the true class, cells)."""
    return [
        (name, [Cell(count, count / max(sum(counts), 1), row == column) for column, count in enumerate(counts)])
        for row, (name, counts) in enumerate(zip(confusion.class_names, confusion.counts, strict=True))
    ]


def most_confused(confusion: Confusion, *, pairs: int) -> list[Pair]:
    """Return the ``pairs`` most frequent confusions, the most frequent first; fewer if fewer occur."""
    names = confusion.class_names
    found = [
        Pair(true, names[column], cell.count, cell.share)
        for true, cells in heat_map(confusion)
        for column, cell in enumerate(cells)
        if cell.count and not cell.right
    ]
    return sorted(found, key=lambda pair: -pair.count)[:pairs]

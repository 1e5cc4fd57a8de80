"""The confusion matrix of a report: its shares for the heat map, and which classes are taken for which."""

from dataclasses import dataclass

from digitlab.report.records import Confusion


@dataclass(frozen=True, slots=True)
class Cell:
    """``share`` is that of its row, in [0, 1]: of the images of a class, those taken for this one."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """``count`` images of the class ``true`` were taken for ``predicted``."""

    true: str
    predicted: str
    count: int
    share: float


def heat_map(confusion: Confusion) -> list[tuple[str, list[Cell]]]:
    """The rows of the matrix, each with the name of its true class."""
    return [
        (name, [Cell(count, count / max(sum(counts), 1), row == column) for column, count in enumerate(counts)])
        for row, (name, counts) in enumerate(zip(confusion.class_names, confusion.counts, strict=True))
    ]


def most_confused(confusion: Confusion, *, pairs: int) -> list[Pair]:
    """At most ``pairs`` confusions, the most frequent first."""
    names = confusion.class_names
    found = [
        Pair(true, names[column], cell.count, cell.share)
        for true, cells in heat_map(confusion)
        for column, cell in enumerate(cells)
        if cell.count and not cell.right
    ]
    return sorted(found, key=lambda pair: -pair.count)[:pairs]

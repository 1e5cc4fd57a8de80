"""Reads ``metrics.csv``, the curves of a run: one typed row per epoch. Nothing here imports torch."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from digitlab.core.errors import RunError
from digitlab.results.folder import RunFolder


@dataclass(frozen=True, slots=True)
class EpochRow:
    """The numbers of one epoch.

    ``epoch`` counts from 1 and ``step`` counts mini-batches since the start of the run. ``values`` holds all other
    columns by name, such as ``val/accuracy`` or ``lr``; an empty cell has no entry, a diverged metric is nan.
    """

    epoch: int
    step: int
    values: Mapping[str, float]


def read_history(run: RunFolder) -> list[EpochRow]:
    """All epochs that the run has finished, in order; empty if it has not finished one.

    Raises ``RunError`` if the file is damaged, which names the line.
    """
    if not run.metrics.exists():
        return []
    rows = []
    try:
        with run.metrics.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                values = {name: float(cell) for name, cell in line.items() if cell}
                rows.append(EpochRow(int(values.pop("epoch")), int(values.pop("step", 0)), values))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        line_number = len(rows) + 2  # the first line holds the names of the columns
        raise RunError(f"{run.metrics}, line {line_number}: can't be read: {error}") from error
    return rows

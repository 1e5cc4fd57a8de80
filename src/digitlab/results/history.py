"""Reads ``metrics.csv``, which has one row of metrics per epoch of a run. This module does not import torch."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from digitlab.core.errors import RunError
from digitlab.results.folder import RunFolder


@dataclass(frozen=True, slots=True)
class EpochRow:
    """The metrics of one epoch.

    ``epoch`` counts from 1. ``step`` is the number of mini-batches since the start of the run. ``values`` holds all
    other columns by name, such as ``val/accuracy`` or ``lr``, without the empty cells; a metric that diverged is nan.
    """

    epoch: int
    step: int
    values: Mapping[str, float]


def read_history(run: RunFolder) -> list[EpochRow]:
    """Return the rows of all epochs that the run has finished, in order; an empty list if there is none.

    Raises ``RunError``, which names the line, if the file is damaged.
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

"""Reads ``metrics.csv``, which has one row of metrics per epoch of a run. This module does not import torch."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from digitlab.core.errors import RunError
from digitlab.results.folder import RunFolder

# Stands for the content of a damaged file. No real content begins like this, so the next update starts again.
_DAMAGED = b"\0"


@dataclass(frozen=True, slots=True)
class EpochRow:
    """The metrics of one epoch.

    ``epoch`` counts from 1. ``step`` is the number of mini-batches since the start of the run. ``values`` holds all
    other columns by name, such as ``val/accuracy`` or ``lr``, without the empty cells; a metric that diverged is nan.
    """

    epoch: int
    step: int
    values: Mapping[str, float]

    @property
    def columns(self) -> dict[str, float]:
        """All columns by name, without the empty cells."""
        return {"epoch": self.epoch, "step": self.step, **self.values}


def read_history(run: RunFolder) -> list[EpochRow]:
    """Return the rows of all epochs that the run has finished, in order; an empty list if there is none.

    Raises ``RunError``, which names the line, if the file is damaged.
    """
    if not run.metrics.exists():
        return []
    rows: list[EpochRow] = []
    with run.metrics.open(encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        _extend(rows, table, next(table, []), run)
    return rows


class GrowingHistory:
    """The rows of a run that may still train. Each ``update`` parses only the new lines.

    A last line without a line break is ignored, because digits may be missing. ``generation`` grows when earlier rows
    have changed, which happens when a run resumes from a checkpoint or starts again.
    """

    def __init__(self, run: RunFolder) -> None:
        self.rows: list[EpochRow] = []
        self.generation = 0
        self._run = run
        self._parsed = b""
        self._columns: list[str] = []

    def update(self) -> None:
        """Read what has changed. Raises ``RunError``, which names the line, if the file is damaged."""
        try:
            content = self._run.metrics.read_bytes()
        except FileNotFoundError:
            content = b""
        complete = content[: content.rfind(b"\n") + 1]
        # The writer replaces the file after every epoch, so the old content is compared with the new one. That is much
        # faster than parsing, and the size alone would not show that a resumed run has other rows.
        if not complete.startswith(self._parsed):
            self.rows, self._parsed, self._columns = [], b"", []
            self.generation += 1
        text = complete[len(self._parsed) :].decode(errors="replace")
        table = csv.reader(io.StringIO(text, newline=""))
        if not self._parsed:
            self._columns = next(table, [])
        self._parsed = _DAMAGED  # in case the next line raises
        _extend(self.rows, table, self._columns, self._run)
        self._parsed = complete


def _extend(rows: list[EpochRow], table: Iterator[list[str]], columns: Sequence[str], run: RunFolder) -> None:
    """Append the rows of ``table``, lists of cells. Raises ``RunError``, which names the line."""
    try:
        rows.extend(_row(cells, columns) for cells in table if cells)
    except (ValueError, KeyError, csv.Error) as error:
        line_number = len(rows) + 2  # the first line holds the names of the columns
        raise RunError(
            f"{run.metrics}, line {line_number}: can't be read: {error}; resume={run.path} writes the file again"
        ) from error


def _row(cells: Sequence[str], columns: Sequence[str]) -> EpochRow:
    if len(cells) > len(columns):
        raise ValueError(f"{len(cells)} cells for {len(columns)} columns")
    values = {name: float(cell) for name, cell in zip(columns, cells, strict=False) if cell}
    return EpochRow(int(values.pop("epoch")), int(values.pop("step", 0)), values)

"""Makes tables for the page of many runs: the settings of a sweep, and comparisons with the course reports.

The course reports are the five reports whose results ``digitlab reproduce`` repeats and compares with its own.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from digitlab.core.errors import DigitlabError
from digitlab.figures.formatting import is_percentage
from digitlab.sweeps.manifest import manifest_file
from digitlab.sweeps.report import EFFECTS_TITLE, effects_table, settings_table
from digitlab.sweeps.state import read_runs
from digitlab.sweeps.table import SweepTable

_WHICH_CHECKPOINT = "The value of a run belongs to its tested checkpoint, or to the best one if it was not tested."
# Files that ``digitlab reproduce`` writes, and their headings.
_COMPARISONS = {"table.csv": "Comparison with the reports' results", "findings.csv": "The reports' findings"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: ``columns`` is the header, every row has the same length, ``note`` explains the numbers.

    ``sentences`` follow the table and say the same in words.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    sentences: Sequence[str] = ()

    @property
    def contains_words(self) -> list[bool]:
        """For each column, whether it contains words and no number with a sign; such columns are aligned left."""
        columns = [[row[index] for row in self.rows] for index in range(len(self.columns))]
        return [
            any(re.search(r"[^\W\d_]{3}", cell) for cell in column)
            and not any(re.match(r"[+-]\d", cell) for cell in column)
            for column in columns
        ]


def read_sweep(folder: Path) -> SweepTable | None:
    """Return the sweep in ``folder``; None if it is another folder of runs, or if its manifest is damaged."""
    if not manifest_file(folder).exists():
        return None
    try:
        return SweepTable(folder.name, read_runs(folder))
    except DigitlabError:
        return None  # the page can still list the runs


def tables_in(folder: Path) -> list[Table]:
    """Return the tables that ``digitlab reproduce`` has written into a folder of runs."""
    return [_csv_table(folder / name, title) for name, title in _COMPARISONS.items() if (folder / name).is_file()]


def sweep_tables(sweep: SweepTable, *, named: bool = False) -> list[Table]:
    """Return a table of the settings and one of the effects of their values, for each data set of the sweep.

    With ``named``, the titles contain the name of the sweep, because the page has tables of other folders as well.
    """
    tables, parts = [], sweep.by_data_set()
    for part in parts:
        suffix = f" ({part.name})" if named or len(parts) > 1 else ""
        metric = part.metric or "the monitored metric"
        settings, effects = (_in_percent(*cells, metric) for cells in (settings_table(part), effects_table(part)))
        note = f"{metric}: mean over the n replicates of the setting. {_WHICH_CHECKPOINT}"
        tables.append(Table(f"Settings, the best first{suffix}", *settings, note=note))
        if part.effects:
            title, _, explanation = EFFECTS_TITLE.partition(": ")
            tables.append(Table(f"{title}{suffix}", *effects, note=f"{explanation.capitalize()}. {_WHICH_CHECKPOINT}"))
    return tables


def sweep_winner(sweep: SweepTable) -> Path | None:
    """Return the folder of the winner. None with several data sets, because their values can't be compared."""
    winner = sweep.winner if len(sweep.by_data_set()) == 1 else None
    return None if winner is None else winner.folder.path


def _in_percent(
    columns: Sequence[str], rows: Sequence[Sequence[str]], metric: str
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Turn the columns of ``metric``, its deviation, interval and differences into per cent if it is a percentage."""
    if not is_percentage(metric):
        return columns, rows
    columns_of_metric = (metric, f"mean {metric}", "sd", "95 % interval", "difference")
    # The metric on the test set has a column of its own, which ``is_percentage`` recognises by its name.
    percent_columns = {index for index, name in enumerate(columns) if name in columns_of_metric or is_percentage(name)}

    def cell(index: int, text: str) -> str:
        if index not in percent_columns:
            return text
        # A cell can contain several values, such as the ends of an interval. Their signs stay in front of them.
        return re.sub(r"\d+\.\d+", lambda match: f"{100 * float(match[0]):.2f}", text)

    # A difference between percentages, and its interval, are in percentage points.
    in_points = ("difference", "95 % interval") if "difference" in columns else ()
    units = ["points" if name in in_points else "%" for name in columns]
    titles = [f"{name} in {units[i]}" if i in percent_columns else name for i, name in enumerate(columns)]
    return titles, [[cell(index, text) for index, text in enumerate(row)] for row in rows]


def _csv_table(path: Path, title: str) -> Table:
    """Read a CSV file, drop its empty columns, and round its numbers to five digits."""
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    filled = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    return Table(
        title, [columns[index] for index in filled], [[_rounded(row[index]) for index in filled] for row in rows]
    )


def _rounded(text: str) -> str:
    """Round a number, or several numbers separated by semicolons, to five digits; return other text unchanged."""
    try:
        return "; ".join(f"{float(part):.5g}" if "." in part else part for part in text.split("; "))
    except ValueError:
        return text

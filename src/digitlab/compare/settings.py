"""Compares the best setting of a sweep with its other settings, over seeds and folds; the sweep's report shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from digitlab.compare.comparison import Comparison, compare_with_reference
from digitlab.compare.groups import ComparedRun, Group, read_run
from digitlab.core.errors import ConfigError, show
from digitlab.sweeps.table import Row, SweepTable

# More rows and lines are illegible, and the differences to the worst settings interest nobody.
_MOST_SHOWN = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingComparisons:
    """The best setting against the next best ones. ``notes`` say what was left out and how to read the result."""

    comparisons: Sequence[Comparison]
    notes: Sequence[str]


def compare_settings(table: SweepTable) -> SettingComparisons | str:
    """Compare the first setting of ``table`` with all others by the monitored metric, or say why that makes no sense.

    The p-values are corrected for all comparisons; the result holds those with the best eleven other settings.
    """
    if table.metric is None:
        return "no run has finished"
    halved = [row for row in table.rows if row.halved]
    rows = [row for row in table.rows if row.summary is not None and not row.halved]
    if len(rows) < 2:
        return f"only one setting has a finished run{' of all its epochs' if halved else ''}"
    if all(len(table.compared(row.runs)) == 1 for row in rows):
        return "each setting has one run, which says nothing about other seeds: add seed=0,1,2,3,4 to the command"
    groups, empty = [], 0
    for row in rows:
        group = _group(table, row, table.metric)
        empty += not group.runs
        groups += [group] if group.runs else []
    if len(groups) < 2:
        return "fewer than two settings have complete runs with a finite value"
    try:
        found = compare_with_reference(groups[0], groups[1:], table.metric)
    except ConfigError as error:
        return error.allowed
    shown = found[:_MOST_SHOWN]
    notes = dict.fromkeys(note for each in shown for note in each.notes)
    return SettingComparisons(comparisons=shown, notes=[*_notes(found, len(halved), empty), *notes])


def _group(table: SweepTable, row: Row, metric: str) -> Group:
    runs, left_out = list[ComparedRun](), dict[str, int]()
    for run in row.runs:
        read = read_run(run.folder)
        if isinstance(read, str):
            left_out[read] = left_out.get(read, 0) + 1
        elif read.value(metric) is not None:
            runs.append(read)
        else:
            left_out["diverged"] = left_out.get("diverged", 0) + 1
    return Group(name=_name(table, row), runs=runs, left_out=left_out)


def _name(table: SweepTable, row: Row) -> str:
    """``lr=0.1, dropout=0``: short keys, unless two keys end with the same word."""
    short = [key.rpartition(".")[2] for key in table.keys]
    keys = short if len(set(short)) == len(short) else table.keys
    return ", ".join(f"{key}={show(value)}" for key, value in zip(keys, row.setting, strict=True))


def _notes(found: Sequence[Comparison], halved: int, empty: int) -> list[str]:
    notes = []
    if len(found) > _MOST_SHOWN:
        cut = len(found) - _MOST_SHOWN
        notes.append(f"the {cut} worst settings are not shown; the p-values are corrected for all {len(found)}")
    if halved:
        notes.append(f"{halved} settings that halving ended early trained for fewer epochs and are not compared")
    if empty:
        notes.append(f"{empty} settings without a complete run with a finite value are not compared")
    notes.append(
        "these runs also chose the best setting, so on average its true lead is smaller: to be sure, train the "
        "settings in question again with new seeds"
    )
    return notes

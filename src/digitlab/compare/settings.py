"""Compares the best setting of a sweep with its other settings, over seeds and folds, for the sweep's HTML report.

A setting is a combination of values of the swept keys, one row of the sweep's table. Its runs differ in seed or fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from digitlab.compare.comparison import Comparison, compare_with_reference
from digitlab.compare.groups import ComparedRun, Group, LeftOut, read_run
from digitlab.core.errors import ConfigError, show
from digitlab.sweeps.table import Row, SweepTable

# The number of settings besides the best one. A table and figure with more would be hard to read, and nobody needs the
# differences to the worst settings.
_MOST_SHOWN = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingComparisons:
    """The comparisons of the best setting with the next best ones, best first.

    ``notes`` say what was left out and how to read the result.
    """

    comparisons: Sequence[Comparison]
    notes: Sequence[str]


def compare_settings(table: SweepTable) -> SettingComparisons | str:
    """Compare the best setting of ``table`` with all others by the monitored metric.

    The result holds the comparisons with the best eleven of the others; their p-values are corrected for the
    comparisons with all others. If there is nothing to compare, return a text that says why.
    """
    if table.metric is None:
        return "no run has finished"
    # Runs that halving ended trained for fewer epochs than the others, so their settings are not compared.
    halved_count = sum(bool(row.halved) for row in table.rows)
    rows = [row for row in table.rows if row.summary is not None and not row.halved]
    if len(rows) < 2:
        return f"only one setting has a finished run{' of all its epochs' if halved_count else ''}"
    if all(len(table.compared(row.runs)) == 1 for row in rows):
        return "each setting has one run, which says nothing about other seeds: add seed=0,1,2,3,4 to the command"
    # The rows are sorted by the metric, the best setting first.
    groups, empty_count = [], 0
    for row in rows:
        group = _group(table, row, table.metric)
        if group.runs:
            groups.append(group)
        else:
            empty_count += 1
    if len(groups) < 2:
        return "fewer than two settings have complete runs with a finite value"
    try:
        comparisons = compare_with_reference(groups[0], groups[1:], table.metric)
    except ConfigError as error:
        return error.allowed  # only the reason: the full message begins with an option of ``digitlab compare``
    shown = comparisons[:_MOST_SHOWN]
    pair_notes = dict.fromkeys(note for comparison in shown for note in comparison.notes)
    return SettingComparisons(
        comparisons=shown, notes=[*_general_notes(len(comparisons), halved_count, empty_count), *pair_notes]
    )


def _group(table: SweepTable, row: Row, metric: str) -> Group:
    """Return the complete runs of a setting that have a finite value of ``metric``; count the others by reason."""
    outcomes = (read_run(run.folder) for run in row.runs)
    return Group.of(
        _name(table, row),
        (
            LeftOut("diverged") if isinstance(each, ComparedRun) and each.value(metric) is None else each
            for each in outcomes
        ),
    )


def _name(table: SweepTable, row: Row) -> str:
    """Return a name such as ``lr=0.1, dropout=0``. It has whole keys if two keys end with the same word."""
    short = [key.rpartition(".")[2] for key in table.keys]
    keys = short if len(set(short)) == len(short) else table.keys
    return ", ".join(f"{key}={show(value)}" for key, value in zip(keys, row.setting, strict=True))


def _general_notes(comparisons: int, halved: int, empty: int) -> list[str]:
    """Return the notes about all comparisons; the arguments are numbers of comparisons and of settings left out."""
    notes = []
    if comparisons > _MOST_SHOWN:
        hidden = comparisons - _MOST_SHOWN
        notes.append(f"the {hidden} worst settings are not shown; the p-values are corrected for all {comparisons}")
    if halved:
        notes.append(f"{halved} settings that halving ended early trained for fewer epochs and are not compared")
    if empty:
        notes.append(f"{empty} settings without a complete run with a finite value are not compared")
    notes.append(
        "the best setting was chosen by the same runs, so its lead is overestimated on average: to be sure, train the "
        "settings in question again with new seeds"
    )
    return notes

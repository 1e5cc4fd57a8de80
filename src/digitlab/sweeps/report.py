"""Prints the tables of a sweep, and writes them to ``sweep.csv`` (one row for each run) and ``sweep.md``.

A sweep uses it at its end, and so do ``digitlab sweep`` and the HTML report. A setting is the swept values of a run
without its seed, fold and split seed. The runs of one setting are its replicates.
"""

import json
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from digitlab.config.place import train_command
from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.core.errors import show
from digitlab.core.files import short_path, write_atomically
from digitlab.core.number_list import number_list
from digitlab.results import table as tables
from digitlab.sweeps.effects import ValueEffect
from digitlab.sweeps.rate_test import rate_tests, suggestion_lines
from digitlab.sweeps.state import SweepRun
from digitlab.sweeps.statistics import Summary
from digitlab.sweeps.table import Row, SweepTable

# The terminal shows at most this many rows of a table; sweep.md has all rows.
_SHOWN_ROWS = 20

EFFECTS_TITLE = (
    "Effect of each value: difference to the best value of the key, in pairs of runs that differ in it alone; several "
    "seeds have one pair each, the mean over the other keys"
)
_UNPAIRED_NOTE = (
    "Without pairs there is no difference to show: the mean of such a value also contains the effect of the other keys."
)


def print_report(table: SweepTable) -> None:
    """Print the settings, the effects, the best runs and the failures to stdout, one block for each data set."""
    # Accuracies on different data sets cannot be ranked, so each data set has its own tables.
    for part in table.by_data_set():
        columns, rows = settings_table(part)
        shown = rows[:_SHOWN_ROWS]
        hint = f", the best {len(shown)} of {len(rows)} settings (all in sweep.md)" if len(rows) > len(shown) else ""
        tables.print_table(columns, shown, title=f"{part.name}{hint}", words=settings_words(part))
        if part.effects:
            tables.print_table(*effects_table(part), title=EFFECTS_TITLE, words=2)
        for line in [*_effect_notes(part), *_best_lines(part), *_limit_notes(part), *_unsuccessful(part)]:
            print(line)
        for line in rate_test_lines(part):
            print(line)


def rate_test_lines(table: SweepTable) -> list[str]:
    """Return the suggestions of the learning-rate range tests in the sweep; an empty list if it has none."""
    return [line for test in rate_tests(table) for line in suggestion_lines(test)]


def write_report(table: SweepTable, folder: Path) -> None:
    """Write ``sweep.csv`` and ``sweep.md`` into ``folder``, in place of those of the last report."""
    write_atomically(folder / "sweep.csv", tables.runs_csv([_run_row(table, run) for run in table.runs]).encode())
    write_atomically(folder / "sweep.md", _markdown(table).encode())


def report_json(table: SweepTable) -> str:
    """Return the sweep as JSON text: its metric, a row for each run, and the folder of the best run or null."""
    best = table.winner
    content = {
        "name": table.name,
        "metric": table.metric,
        "best": None if best is None else best.entry.folder,
        "runs": [tables.plain_row(_run_row(table, run)) for run in table.runs],
    }
    return json.dumps(content, indent=1)


def command(run: SweepRun) -> str:
    """Return the shell command that repeats ``run`` as a single run."""
    return shlex.join([*train_command(), *run.entry.overrides])


def settings_table(table: SweepTable) -> tuple[list[str], list[list[str]]]:
    """Return column names and one row of text for each setting, best first.

    The columns are the swept values, the statistics of the monitored metric (mean, standard deviation, 95 % interval
    of the mean, number of runs), the test metrics, the checkpoints that were tested, and the numbers of the runs.
    """
    halving = any(row.halved for row in table.rows)
    test_metrics = _test_metrics(table)
    columns = [*table.keys, table.metric or "monitored", "sd", "95 % interval", "n", *test_metrics]
    columns += ["checkpoint", "failed", *(["halved after epoch"] if halving else [])]
    rows = [_setting_cells(row, test_metrics, halving=halving) for row in table.rows]
    return _without_empty([*columns, "runs"], rows, optional=("sd", "95 % interval", "checkpoint", "failed"))


def settings_words(table: SweepTable) -> list[str]:
    """Return the columns of ``settings_table`` that contain words; the others contain numbers."""
    return [*table.keys, "checkpoint", "runs"]


def _without_empty(
    columns: list[str], rows: list[list[str]], *, optional: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Leave out the ``optional`` columns that are empty in all rows, such as the deviation if settings have one run."""
    indices = [index for index, name in enumerate(columns) if name not in optional or any(row[index] for row in rows)]
    return [columns[index] for index in indices], [[row[index] for index in indices] for row in rows]


def _test_metrics(table: SweepTable) -> list[str]:
    """Return the test metrics with a column: the counterpart of the monitored metric, and the accuracy."""
    # The ranking never uses them. The table has them so that nobody needs to open each run to see its test result.
    names = dict.fromkeys([f"test/{(table.metric or '').partition('/')[2]}", "test/accuracy"])
    measured = {name for run in table.runs for name, value in run.metrics.items() if value is not None}
    return [name for name in names if name in measured]


def _setting_cells(row: Row, test_metrics: Sequence[str], *, halving: bool) -> list[str]:
    """Return the cells of one setting in the order of the columns of ``settings_table``."""
    test_cells = [_mean_and_deviation(row.test_summary(name)) for name in test_metrics]
    failed = str(row.failed) if row.failed else ""
    halved = [",".join(map(str, row.halved))] if halving else []
    numbers = number_list([run.entry.number for run in row.runs])
    settings = [*map(show, row.setting), *_summary_cells(row.summary), *test_cells]
    return [*settings, _checkpoints(row), failed, *halved, numbers]


def _checkpoints(row: Row) -> str:
    """Return the checkpoints and epochs to which the metrics belong, for example ``best, epoch 3 to 5``."""
    finished = [run for run in row.runs if run.status == "finished"]
    names = sorted({run.tested_checkpoint or "unknown" for run in finished})
    epochs = sorted({run.tested_epoch for run in finished if run.tested_epoch is not None})
    if not epochs:
        return ", ".join(names)
    span = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    return f"{', '.join(names)}, epoch {span}"


def effects_table(table: SweepTable) -> tuple[list[str], list[list[str]]]:
    """Return column names and one row of text for each value: its mean, and its difference to the key's best value."""
    columns = ["key", "value", f"mean {table.metric or 'monitored'}", "n", "difference", "95 % interval", "pairs"]
    rows = [[key, *_effect_cells(effect)] for key, effects in table.effects.items() for effect in effects]
    return _without_empty(columns, rows, optional=("difference", "95 % interval"))


def _effect_cells(effect: ValueEffect) -> list[str]:
    """Return the cells of a value in the order of the columns of ``effects_table``, without the key."""
    mean = [effect.label, f"{effect.summary.mean:.4f}", str(effect.summary.count)]
    if effect.is_reference:
        return [*mean, "reference", "", ""]
    if effect.difference is None:
        # Neither 0 nor the difference of the means would be right here. _UNPAIRED_NOTE tells the user why.
        return [*mean, "", "", "0"]
    interval = effect.difference.interval
    interval_text = "" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
    return [*mean, f"{effect.difference.mean:+.4f}", interval_text, str(effect.difference.count)]


def _effect_notes(table: SweepTable) -> list[str]:
    """Return a note for the table of effects if it has a value without pairs of runs."""
    unpaired = any(
        effect.difference is None and not effect.is_reference
        for effects in table.effects.values()
        for effect in effects
    )
    return [_UNPAIRED_NOTE] if unpaired else []


def _summary_cells(summary: Summary | None) -> list[str]:
    """Return the four cells of the monitored metric: mean, standard deviation, interval, number of runs."""
    if summary is None:
        return ["", "", "", "0"]
    mean, count = f"{summary.mean:.4f}", str(summary.count)
    if summary.sd is None or summary.interval is None:
        return [mean, "", "", count]
    # The interval belongs to the mean. The standard deviation describes single runs.
    low, high = summary.interval
    return [mean, f"±{summary.sd:.4f}", f"{low:.4f} to {high:.4f}", count]


def _mean_and_deviation(summary: Summary | None) -> str:
    mean, sd, *_ = _summary_cells(summary)
    return f"{mean} {sd}".rstrip()


def _best_lines(table: SweepTable) -> list[str]:
    """Return lines on the best setting, its best run, and the best run of all if that has another setting."""
    run = table.winner
    if run is None:
        return ["no run has finished"]
    # The setting comes first, because its mean predicts the result of another run. The rows are sorted by rank.
    row = table.rows[0]
    count = 0 if row.summary is None else row.summary.count
    replicates = f"mean of {count} runs" if count > 1 else "1 run"
    lines = [
        f"best setting ({replicates}): {_setting_text(table, run)}: {table.metric} {_mean_and_deviation(row.summary)}"
    ]
    if not row.complete:
        lines.append("  this setting lacks runs that failed or have not finished")
    # The best of several replicates is better by chance than what the setting usually achieves.
    chance = ", the luckiest of its replicates" if count > 1 else ""
    test_values = {name: value for name, value in run.metrics.items() if name.startswith("test/") and value is not None}
    test = ", ".join(f"{name} {value:.4f}" for name, value in test_values.items())
    lines += [
        f"best single run of this setting{chance}: {_run_text(run)}",
        f"  test set:   {test or 'not measured (test=none)'}",
        f"  checkpoint: {short_path(run.folder.checkpoint(run.tested_checkpoint or 'best'))}",
        f"  again:      {command(run)}",
    ]
    # Readers look for the highest value in the table, so a line says which run and setting have it.
    if table.best_run is not None and table.best_run is not run:
        lines.append(f"best single run of all: {_run_text(table.best_run)}, of {_setting_text(table, table.best_run)}")
    return lines


def _setting_text(table: SweepTable, run: SweepRun) -> str:
    texts = [f"{key}={show(value)}" for key, value in zip(table.keys, table.setting(run), strict=True)]
    return " ".join(texts) or "the only one"


def _run_text(run: SweepRun) -> str:
    assert run.value is not None
    return f"run {run.entry.number}, {run.metric} {run.value:.4f} ({run.checkpoint_text})"


def _limit_notes(table: SweepTable) -> list[str]:
    """Return a warning for runs that used only some mini-batches in training or tests, as with ``debug=limit``."""
    # There is one line for all runs with the same limits, because a sweep can have hundreds of runs.
    counts = Counter(tables.run_limits(run.folder) for run in table.runs if run.status == "finished")
    return [
        f"note: {count} runs have {limits}, so their scores can't be compared with those of complete runs"
        for limits, count in counts.items()
        if limits is not None
    ]


def _unsuccessful(table: SweepTable) -> list[str]:
    """Return lines on the runs that failed or have not finished."""
    lines = [f"failed: run {run.entry.number}: {run.error}" for run in table.failures()]
    unfinished = [run for run in table.runs if run.status in ("stopped", "unfinished")]
    if unfinished:
        numbers = number_list([run.entry.number for run in unfinished])
        lines.append(f"not finished: runs {numbers}; the command that started them resumes them")
    # The error of a stopped run is the signal that stopped it.
    damaged = [run for run in unfinished if run.status == "unfinished" and run.error is not None]
    lines += [f"  run {run.entry.number} can't be read: {run.error}" for run in damaged]
    return lines


def _run_row(table: SweepTable, run: SweepRun) -> tables.Row:
    """Return the row of a run in ``sweep.csv`` and in the JSON form: column names and values."""
    row: tables.Row = {"number": run.entry.number, "status": run.status, "data": table.data_sets[run.entry.number]}
    # Seeds and folds belong to no setting, but they distinguish the rows of replicates.
    shown = {*table.keys, *REPLICATE_KEYS}
    row |= {key: value for key, value in table.values[run.entry.number].items() if key in shown}
    row |= {"monitor": run.metric, "monitored": run.value} | run.metrics
    row |= {"tested_checkpoint": run.tested_checkpoint, "tested_epoch": run.tested_epoch}
    row |= {
        name: run.result.get(name)
        for name in ("best_epoch", "epochs", "halved_after_epoch", "train_seconds", "parameters")
    }
    return row | {"error": run.error, "folder": run.entry.folder}


def _markdown(table: SweepTable) -> str:
    parts = [f"# {table.name}"]
    per_data_set = table.by_data_set()
    for part in per_data_set:
        # With several data sets, each has a section of its own and its headings are one level lower.
        several = len(per_data_set) > 1
        heading = "###" if several else "##"
        parts += [f"## {part.name}"] if several else []
        parts.append(_markdown_table(*settings_table(part), words=settings_words(part)))
        if part.effects:
            # The heading is the first part of the title, and its explanation becomes a paragraph.
            parts += [f"{heading} Effect of each value", f"{EFFECTS_TITLE.partition(': ')[2].capitalize()}."]
            parts += [_markdown_table(*effects_table(part), words=2), *_effect_notes(part)]
        parts += [f"{heading} Best setting and best run", "```\n" + "\n".join(_best_lines(part)) + "\n```"]
        parts += _limit_notes(part)
        if rates := rate_test_lines(part):
            parts += [f"{heading} Learning-rate range test", "```\n" + "\n".join(rates) + "\n```"]
        if lines := _unsuccessful(part):
            parts += [f"{heading} Not finished", "```\n" + "\n".join(lines) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int | Collection[str]) -> str:
    return tables.markdown_table(columns, [[cell.replace("|", "\\|") for cell in row] for row in rows], words=words)

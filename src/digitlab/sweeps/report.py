"""The table of a sweep as text for the terminal, as ``sweep.csv`` (a row a run) and as ``sweep.md``."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from digitlab.core.errors import show
from digitlab.core.files import write_atomically
from digitlab.results import table as tables
from digitlab.sweeps.state import SweepRun
from digitlab.sweeps.statistics import Summary
from digitlab.sweeps.table import Row, SweepTable

# What a terminal shows of a long table: all of it is in sweep.md.
_SHOWN_ROWS = 20


def print_report(table: SweepTable) -> None:
    """The settings, the effects, the winner and the failures, on stdout."""
    columns, rows = settings_table(table)
    shown = rows[:_SHOWN_ROWS]
    more = f", the best {len(shown)} of {len(rows)} settings (all in sweep.md)" if len(rows) > len(shown) else ""
    tables.print_table(columns, shown, title=f"{table.name}{more}", words=len(table.keys))
    if table.effects:
        tables.print_table(*effects_table(table), title="effect of each value: mean over all its runs", words=2)
    for line in [*_winner(table), *_unsuccessful(table)]:
        print(line)


def write_report(table: SweepTable, folder: Path) -> None:
    """``sweep.csv`` and ``sweep.md`` in ``folder``, of which the next report writes new ones."""
    write_atomically(folder / "sweep.csv", tables.runs_csv([_run_row(table, run) for run in table.runs]).encode())
    write_atomically(folder / "sweep.md", _markdown(table).encode())


def command(run: SweepRun) -> str:
    """The command that runs ``run`` again, alone."""
    return shlex.join(["python", "train.py", *run.entry.overrides])


def settings_table(table: SweepTable) -> tuple[list[str], list[list[str]]]:
    halving = any(row.halved for row in table.rows)
    columns = [*table.keys, table.metric or "monitored", "sd", "95 % interval", "n", "failed"]
    columns += ["left after epoch"] if halving else []
    return [*columns, "runs"], [_setting_cells(row, halving=halving) for row in table.rows]


def _setting_cells(row: Row, *, halving: bool) -> list[str]:
    failed = str(row.failed) if row.failed else ""
    left = [",".join(map(str, row.halved))] if halving else []
    numbers = ",".join(str(run.entry.number) for run in row.runs)
    return [*map(show, row.setting), *_summary_cells(row.summary), failed, *left, numbers]


def effects_table(table: SweepTable) -> tuple[list[str], list[list[str]]]:
    columns = ["key", "value", table.metric or "monitored", "sd", "95 % interval", "n"]
    rows = [[key, v, *_summary_cells(mean)] for key in table.effects for v, mean in table.effect_rows(key)]
    return columns, rows


def _summary_cells(summary: Summary | None) -> list[str]:
    if summary is None:
        return ["", "", "", "0"]
    mean, count = f"{summary.mean:.4f}", str(summary.count)
    if summary.sd is None or summary.interval is None:
        return [mean, "", "", count]
    low, high = summary.interval
    return [mean, f"±{summary.sd:.4f}", f"{low:.4f} to {high:.4f}", count]


def _winner(table: SweepTable) -> list[str]:
    run = table.winner
    if run is None:
        return ["no run has finished yet"]
    assert run.value is not None
    tested = {name: value for name, value in run.metrics.items() if name.startswith("test/") and value is not None}
    test = ", ".join(f"{name} {value:.4f}" for name, value in tested.items())
    checkpoint = os.path.relpath(run.folder.best)
    lines = [
        f"winner: run {run.entry.number}, {run.metric} {run.value:.4f} at epoch {run.result['best_epoch']}",
        f"  test set:   {test or 'not measured (test=none)'}",
        f"  checkpoint: {run.folder.best if checkpoint.startswith('..') else checkpoint}",
        f"  again:      {command(run)}",
    ]
    if not table.rows[0].complete:
        lines.append("  its setting lacks runs that failed or have not finished")
    return lines


def _unsuccessful(table: SweepTable) -> list[str]:
    lines = [f"failed: run {run.entry.number}: {run.error}" for run in table.failures()]
    waiting = [str(run.entry.number) for run in table.runs if run.status in ("stopped", "unfinished")]
    return [*lines, *([f"not finished: runs {', '.join(waiting)}"] if waiting else [])]


def _run_row(table: SweepTable, run: SweepRun) -> tables.Row:
    row: tables.Row = {"number": run.entry.number, "status": run.status}
    row |= {key: value for key, value in table.values[run.entry.number].items() if key in (*table.keys, "seed")}
    row |= {"monitor": run.metric, "monitored": run.value} | run.metrics
    row |= {
        name: run.result.get(name)
        for name in ("best_epoch", "epochs", "halved_after_epoch", "train_seconds", "parameters")
    }
    return row | {"error": run.error, "folder": run.entry.folder}


def _markdown(table: SweepTable) -> str:
    parts = [f"# {table.name}", _markdown_table(*settings_table(table), words=len(table.keys))]
    if table.effects:
        parts += [
            "## Effect of each value",
            "Mean over all runs with it.",
            _markdown_table(*effects_table(table), words=2),
        ]
    parts += ["## Winner", "```\n" + "\n".join(_winner(table)) + "\n```"]
    if lines := _unsuccessful(table):
        parts += ["## Not finished", "```\n" + "\n".join(lines) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    rule = ["---" if number < words else "---:" for number in range(len(columns))]
    lines = [columns, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

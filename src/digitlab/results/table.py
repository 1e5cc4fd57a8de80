"""Prints the metrics of a run and the list of runs, as tables, CSV or JSON; writes tables in Markdown.

This module does not import torch."""

import csv
import io
import json
import math
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from digitlab.config.metrics import metric_direction
from digitlab.config.suggestions import not_one_of
from digitlab.core.files import relative_path
from digitlab.core.streams import is_terminal
from digitlab.results.config_scan import scan_config
from digitlab.results.data_set import read_data_set_name
from digitlab.results.folder import RunFolder

Row = dict[str, str | int | float | None]

# The metrics that the table of runs shows. Its CSV form contains all metrics.
_SHOWN = ("val/accuracy", "val/loss", "test/accuracy")


def wide_console() -> Console:
    """Return a console for tables on stdout. Into a pipe or a file it writes lines of up to 400 columns."""
    # A pipe has no width, and text that is folded at 80 columns can't be searched. Markup is off because values may
    # contain brackets, such as lists of layers.
    return Console(width=None if is_terminal(sys.stdout) else 400, markup=False, emoji=False, highlight=False)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    words: int | Collection[str] = 1,
) -> None:
    """Print a table under its title; ``words`` is as in ``contain_words``."""
    table = Table()
    for name, left in zip(columns, contain_words(columns, words), strict=True):
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = wide_console()
    if title is not None:
        # Above the table: as its title, rich would break the words at the width of the table.
        console.print(title, style="italic", soft_wrap=True)
    console.print(table)


def contain_words(columns: Sequence[str], words: int | Collection[str]) -> list[bool]:
    """Return for each column whether it contains words, which are aligned left, or numbers, which are aligned right.

    ``words`` is the number of the first columns that contain words, or the names of all columns that do.
    """
    if isinstance(words, int):
        return [number < words for number in range(len(columns))]
    return [name in words for name in columns]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int | Collection[str]) -> str:
    """Return the same table in Markdown, without a newline at its end. In cells, ``|`` must be escaped already."""
    # The colon aligns numbers to the right.
    rule = ["---" if left else "---:" for left in contain_words(columns, words)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


def print_metrics(metrics: Mapping[str, float | None], *, title: str) -> None:
    """Print metrics keyed ``test/accuracy`` and so on: one row per name, one column per split.

    The accuracies of single classes are left out, because there can be hundreds.
    """
    metrics = {name: value for name, value in metrics.items() if "class_accuracy" not in name}
    splits = [split for split in ("train", "val", "test") if any(name.startswith(f"{split}/") for name in metrics)]
    names = dict.fromkeys(name.partition("/")[2] for name in metrics)
    rows = [[name, *(format_number(metrics.get(f"{split}/{name}")) for split in splits)] for name in names]
    print_table(["metric", *splits], rows, title=title)


def print_result(folder: Path, result: dict[str, Any]) -> None:
    """Print the metrics of a finished run, the commands that show more of it, and in the last line its folder."""
    print_metrics(result["metrics"], title=_checkpoint_title(result))
    quoted = shlex.quote(str(folder))
    print(f"next: digitlab figures {quoted}, or digitlab report {quoted}")
    # rich would break a long path over two lines.
    print(folder)


def _checkpoint_title(result: Mapping[str, Any]) -> str:
    """Return the title of the table of metrics, which says to which checkpoint they belong."""
    epochs, tested = result["epochs"], result.get("tested")
    # With test=none, a run has no checkpoint to name here if its monitored value was never a finite number.
    return (
        f"epoch {epochs}"
        if tested is None
        else f"checkpoint {tested['checkpoint']}, epoch {tested['epoch']} of {epochs}"
    )


def format_number(value: float | None) -> str:
    """Return a metric with four decimals, a very large one with three digits, and None as an empty text."""
    if value is None:
        return ""
    # The loss of a run that diverges can have twenty digits.
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.3g}"


def run_row(run: RunFolder) -> Row:
    """Return a run's row in the list of runs: its facts, all metrics except those of single classes, its folder.

    A run without ``result.json`` is still training or was killed: its status is ``unfinished``, and it has no metrics.
    Raises ``OSError`` or ``ValueError`` if its files can't be read.
    """
    choices = run.read_choices()
    row: Row = {"status": "unfinished", "data": read_data_set_name(run), "model": choices.get("model")}
    row |= {"seed": None, "epochs": None}
    result = run.read_result() if run.result.exists() else {}
    row |= {name: result[name] for name in ("status", "seed", "epochs") if name in result}
    row |= {name: value for name, value in result.get("metrics", {}).items() if "class_accuracy" not in name}
    row["limits"] = run_limits(run)
    return row | {"train_seconds": result.get("train_seconds"), "folder": relative_path(run.path)}


# A run with one of these settings has been trained, validated or tested on only a part of the images.
_LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")


def run_limits(run: RunFolder) -> str | None:
    """Return the settings that limit the mini-batches of a run, such as ``limit_test_batches=10``; None without any."""
    text = run.config.read_text(encoding="utf-8") if run.config.exists() else ""
    values = scan_config(text, [f"trainer.{name}" for name in _LIMITS])
    return " ".join(f"{key.removeprefix('trainer.')}={value}" for key, value in values.items()) or None


def sort_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return the rows sorted by ``metric``, best first. Losses, errors and seconds are better when small.

    A metric of images, such as ``test/accuracy``, is sorted separately for each data set. There, runs limited to some
    mini-batches follow the complete ones, because a score on ten mini-batches can't be compared with one on all images.
    Runs without the metric come last. Raises ``ConfigError`` if no row has such a metric.
    """
    numbers = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    if metric not in numbers:
        raise not_one_of("--sort", metric, sorted(numbers))
    sign = 1 if metric_direction(metric) == "min" else -1

    def rank(row: Row) -> tuple[str, int, float]:
        """Return the data set, then 0 for complete runs, 1 for limited ones, 2 for those without a value; the value."""
        value = row.get(metric)
        # Metrics of images have a split in their name. Others, such as train_seconds, compare all runs.
        data_set = str(row.get("data") or "") if "/" in metric else ""
        if not isinstance(value, int | float):
            return data_set, 2, 0.0
        return data_set, 1 if row.get("limits") and "/" in metric else 0, sign * value

    return sorted(rows, key=rank)


def print_runs(rows: Sequence[Row], *, metric: str | None = None) -> None:
    """Print the list of runs, one per line, with their facts, a few metrics, and ``metric``."""
    facts = ["status", "data", "model", "seed", "epochs"]
    metrics = [*_SHOWN, *([metric] if metric and metric not in (*_SHOWN, *facts, "train_seconds") else [])]
    # The terminal only marks limited runs; the CSV has the limits themselves.
    facts += ["limited"] if any(row.get("limits") for row in rows) else []
    rows = [row | {"limited": "yes" if row.get("limits") else None} for row in rows]
    columns = [*facts, *metrics, "train_seconds", "folder"]
    lines = [columns, *([_cell(name, row.get(name)) for name in columns] for row in rows)]
    # rich is too slow for a thousand runs. The folder comes last and is never folded, because users copy it.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = facts.index("seed")
    for line in lines:
        left = [text.ljust(width) for text, width in zip(line[:words], widths, strict=False)]
        right = [text.rjust(width) for text, width in zip(line[words:-1], widths[words:], strict=False)]
        print(*left, *right, line[-1], sep="  ")


def _cell(name: str, value: str | int | float | None) -> str:
    if name == "train_seconds" and isinstance(value, int | float):
        return f"{value:.1f}"
    return format_number(value) if isinstance(value, float) else "" if value is None else str(value)


def rows_json(rows: Sequence[Row]) -> str:
    """Return the rows as JSON text, not rounded. Numbers that JSON does not have (NaN, infinity) become null."""
    return json.dumps([plain_row(row) for row in rows], indent=1)


def plain_row(row: Row) -> Row:
    """Return ``row`` with None for each number that JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def runs_csv(rows: Sequence[Row]) -> str:
    """Return the runs as CSV text with all metrics, not rounded, for other programs."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "folder"))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "folder"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""Tables for the terminal: the metrics of one run, and the list of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_result(folder: Path, result: dict[str, Any]) -> None:
    """The metrics of a finished run, and where it lies."""
    metrics = {name: value for name, value in result["metrics"].items() if "class_accuracy" not in name}
    splits = [split for split in ("train", "val", "test") if any(name.startswith(f"{split}/") for name in metrics)]
    names = list(dict.fromkeys(name.partition("/")[2] for name in metrics))
    table = Table("metric", *splits, title=f"best epoch {result['best_epoch']} of {result['epochs']}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        table.add_row(name, *(_number(metrics.get(f"{split}/{name}")) for split in splits))
    console = Console()
    console.print(table)
    # Not by rich: it would break a long path over two lines.
    print(folder)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def print_runs(rows: Sequence[dict[str, str]]) -> None:
    """A table of strings, a row a run; every row has the same keys."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console = Console()
    # A pipe has no width of its own: what is cut to 80 columns can't be searched.
    console.print(table, width=None if console.is_terminal else 400)

"""Writes tables that compare our measurements with the reports, and writes our measurements into the recipes.

``digitlab reproduce`` uses it. The tables are Markdown and CSV. A recipe is a file in ``conf/experiment``; the comment
at its top has a line ``ours:`` for each row of the comparison that uses the recipe.
"""

import csv
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path

from digitlab.config.compose import CONF
from digitlab.core.files import write_atomically
from digitlab.figures.formatting import format_mean
from digitlab.reproduce.registry import rows
from digitlab.reproduce.table import Measured, MetricLine
from digitlab.reproduce.verdicts import Sample
from digitlab.results.table import markdown_table

_COLUMNS = ("recipe", "", "metric", "report", "ours", "n", "difference", "verdict", "seconds", "parameters")
_RULES = """\
Accuracies and F1 are in per cent; "ours" is mean ± standard deviation (n - 1) over n runs. Training and validation
metrics are those of the last epoch in every row; test metrics are those of the tested checkpoint. `reached` means as
good as the report, or worse by at most half the 95 % confidence interval of our mean (Student's t). The difference is
our value minus the report's; in a `wish_` row it is our value minus that of the row named by "against". Seconds count
training alone; the report's, in brackets, are from another machine. Findings compare the mean of the validation
accuracy over the last five epochs; volatility is the standard deviation over the same epochs. A finding `holds` if the
95 % confidence interval (Welch) of every difference lies on the claimed side of the margin, `fails` if one lies on the
other side, and is `undecided` otherwise. Findings about time use only runs that had the machine to themselves. `?`
stands for a difference that cannot be computed, because one of its two values is not measured."""


def write_tables(root: Path, measured: Measured) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``findings.csv`` into ``root``; returns their paths."""
    contents = {
        "table.md": markdown(measured),
        "table.csv": metrics_csv(measured),
        "findings.csv": findings_csv(measured),
    }
    for name, content in contents.items():
        write_atomically(root / name, content.encode())
    return [root / name for name in contents]


def markdown(measured: Measured) -> str:
    """Return the tables of metrics and of findings in Markdown, followed by an explanation of how to read them."""
    lines = [_cells(line) for line in measured.metric_lines()]
    # A row of the registry has one line per metric. Its name, description, seconds and parameters are equal in all of
    # them, so they stay only in the first. The loop goes from the last line to the first, so that the line above still
    # has its name.
    for cells, above in reversed(list(zip(lines[1:], lines, strict=False))):
        if cells[0] == above[0]:
            cells[0] = cells[1] = cells[-1] = cells[-2] = ""
    findings = [
        [
            line.report,
            line.text,
            ", ".join("?" if math.isnan(each) else f"{each:+.4g}" for each in line.differences),
            line.verdict,
        ]
        for line in measured.finding_lines()
    ]
    parts = [
        markdown_table(_COLUMNS, lines, words=len(_COLUMNS)),
        markdown_table(("report", "finding", "differences", "verdict"), findings, words=4),
        _RULES,
        "Machines: " + ("; ".join(measured.hardware()) or "none yet") + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _cells(line: MetricLine) -> list[str]:
    """Return the cells of one line of the table of metrics, in the order of ``_COLUMNS``."""
    row, percent = line.row, is_share(line.metric.name)
    notes = [row.note, f"against {row.against}" if row.against else ""]
    if line.diverged:
        notes.append(f"{line.diverged} diverged")
    seconds = "" if math.isnan(line.train_seconds) else f"{line.train_seconds:.3g}"
    return [
        f"`{row.name}`",
        "; ".join(filter(None, [f"{row.report}: {row.what}", *notes])),
        line.metric.name,
        _number(line.metric.reported, percent=percent),
        spread(line.ours, percent=percent),
        str(line.ours.n or ""),
        _number(line.difference, percent=percent, signed=True),
        line.verdict,
        seconds + (f" ({row.reported_seconds:g})" if row.reported_seconds else ""),
        "" if line.parameters is None else f"{line.parameters:,}",
    ]


def is_share(metric: str) -> bool:
    """Return whether a metric is a share in [0, 1], which is shown in per cent. All metrics are, except losses."""
    return "loss" not in metric


def spread(sample: Sample, *, percent: bool) -> str:
    """Return "mean ± standard deviation"; only the mean if there is one value, and an empty text if there is none."""
    mean, sd = sample.mean, sample.sd
    return "" if math.isnan(mean) else format_mean(mean, None if math.isnan(sd) else sd, percent=percent)


def _number(value: float | None, *, percent: bool, signed: bool = False) -> str:
    """Format a number, in per cent or as it is; a missing one (None or nan) gives an empty text."""
    if value is None or math.isnan(value):
        return ""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.2f}" if percent else f"{value:{sign}.4f}"


def metrics_csv(measured: Measured) -> str:
    """Return all metrics of all rows as CSV, not rounded."""
    return _csv(
        {
            "row": line.row.name, "report": line.row.report, "what": line.row.what, "metric": line.metric.name,
            "reported": line.metric.reported, "mean": line.ours.mean, "sd": line.ours.sd, "n": line.ours.n,
            "difference": line.difference, "verdict": line.verdict, "against": line.row.against,
            "train_seconds": line.train_seconds, "reported_seconds": line.row.reported_seconds,
            "parameters": line.parameters, "diverged": line.diverged, "note": line.row.note,
        }
        for line in measured.metric_lines()
    )  # fmt: skip


def findings_csv(measured: Measured) -> str:
    """Return all findings as CSV. A finding can have several differences; semicolons separate them."""
    return _csv(
        {
            "report": line.report, "finding": line.text, "verdict": line.verdict,
            "differences": "; ".join(map(str, line.differences)),
        }
        for line in measured.finding_lines()
    )  # fmt: skip


def _csv(lines: Iterable[dict[str, str | int | float | None]]) -> str:
    text = io.StringIO()
    csv_rows = [{name: _blank(value) for name, value in line.items()} for line in lines]
    writer = csv.DictWriter(text, list(csv_rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows)
    return text.getvalue()


def _blank(value: str | int | float | None) -> str | int | float | None:
    """Return ``value``, or None for nan, so that its cell stays empty."""
    return None if isinstance(value, float) and math.isnan(value) else value


def write_headers(measured: Measured, folder: Path = CONF / "experiment") -> list[Path]:
    """Write our measurements into the ``ours:`` lines in the headers of the recipes; return the changed files.

    A recipe without a finished run keeps its lines.
    """
    written = []
    for path in sorted(folder.glob("*.yaml")):
        lines = [f"#   ours:   {text}" for text in _ours_texts(measured, path.stem)]
        before = path.read_text(encoding="utf-8")
        if lines and (after := re.sub(r"(^#   ours:.*\n)+", "\n".join(lines) + "\n", before, flags=re.M)) != before:
            write_atomically(path, after.encode())
            written.append(path)
    return written


def _ours_texts(measured: Measured, experiment: str) -> list[str]:
    """Return the texts of the ``ours:`` lines of a recipe.

    There is one for each row that trains this recipe with Lightning and has a finished run. The row can be the whole
    recipe or one setting of the values that it sweeps over. A text has the first two metrics of the row.
    """
    texts = []
    for row in rows().values():
        if (row.experiment or row.name) != experiment or row.executor != "lightning" or not measured.outcomes[row.name]:
            continue
        lines = [line for line in measured.metric_lines() if line.row is row]
        setting = ", ".join(override.partition("=")[2] for override in row.overrides)
        values = ", ".join(
            f"{spread(line.ours, percent=is_share(line.metric.name))}{' %' * is_share(line.metric.name)} "
            f"{line.metric.name}"
            for line in lines[:2]
        )
        machine = "; ".join(measured.hardware(row))
        texts.append(
            f"{setting + ': ' if setting else ''}{values} (n = {lines[0].ours.n}), {lines[0].train_seconds:.3g} s, "
            f"{machine}"
        )
    return texts

"""Writes the comparison as Markdown and CSV, and as ``ours:`` lines in the headers of the recipes."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from digitlab.config.compose import CONF
from digitlab.core.files import write_atomically
from digitlab.reproduce.registry import rows
from digitlab.reproduce.table import FigureLine, Measured
from digitlab.reproduce.verdicts import Sample

_COLUMNS = ("recipe", "", "metric", "report", "ours", "n", "difference", "verdict", "seconds", "parameters")
_RULES = """\
Accuracies and F1 are in per cent; "ours" is mean ± standard deviation (n - 1) over n runs. Training and validation
metrics are those of the last epoch in every row; test metrics are those of the tested checkpoint. `reached` means as
good as the report, or worse by at most half the 95 % confidence interval of our mean (Student's t). The difference is
ours less the report's figure, or for a `wish_` row less the row that it names. Seconds count training alone; the
report's, in brackets, are from another machine. Findings compare the mean of the validation accuracy over the last five
epochs; volatility is the standard deviation over the same epochs. A finding `holds` if the 95 % confidence interval
(Welch) of every difference lies on the claimed side of the margin, `fails` if one lies on the other side, and is
`undecided` otherwise. Findings about time use only runs that had the machine to themselves. `?` stands for a difference
of which one side is not measured."""


def write_tables(root: Path, measured: Measured) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``findings.csv`` into ``root``; returns their paths."""
    contents = {
        "table.md": markdown(measured),
        "table.csv": figures_csv(measured),
        "findings.csv": findings_csv(measured),
    }
    for name, content in contents.items():
        write_atomically(root / name, content.encode())
    return [root / name for name in contents]


def markdown(measured: Measured) -> str:
    """Both tables in Markdown, and below them how to read them."""
    figures = [_cells(line) for line in measured.figure_lines()]
    for cells, above in reversed(list(zip(figures[1:], figures, strict=False))):
        if cells[0] == above[0]:
            # Columns that belong to the whole row are filled only in its first line.
            cells[0] = cells[1] = cells[-1] = cells[-2] = ""
    found = [
        [
            line.report,
            line.text,
            ", ".join("?" if math.isnan(each) else f"{each:+.4g}" for each in line.differences),
            line.verdict,
        ]
        for line in measured.finding_lines()
    ]
    parts = [
        _table(_COLUMNS, figures),
        _table(("report", "finding", "differences", "verdict"), found),
        _RULES,
        "Machines: " + ("; ".join(measured.hardware()) or "none yet") + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    every = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in every)


def _cells(line: FigureLine) -> list[str]:
    row, percent = line.row, is_share(line.figure.metric)
    notes = [row.note, f"against {row.against}" if row.against else ""]
    if line.diverged:
        notes.append(f"{line.diverged} diverged")
    seconds = "" if math.isnan(line.train_seconds) else f"{line.train_seconds:.3g}"
    return [
        f"`{row.name}`",
        "; ".join(filter(None, [f"{row.report}: {row.what}", *notes])),
        line.figure.metric,
        _number(line.figure.reported, percent=percent),
        spread(line.ours, percent=percent),
        str(line.ours.n or ""),
        _number(line.difference, percent=percent, signed=True),
        line.verdict,
        seconds + (f" ({row.reported_seconds:g})" if row.reported_seconds else ""),
        "" if line.parameters is None else f"{line.parameters:,}",
    ]


def is_share(metric: str) -> bool:
    """Whether a metric is a share in [0, 1], which is shown in per cent. All metrics but losses are."""
    return "loss" not in metric


def spread(sample: Sample, *, percent: bool) -> str:
    """Mean ± standard deviation as text; only the mean if there is one value, empty if there is none."""
    parts = [_number(sample.mean, percent=percent), _number(sample.sd, percent=percent)]
    return " ± ".join(filter(None, parts))


def _number(value: float | None, *, percent: bool, signed: bool = False) -> str:
    if value is None or math.isnan(value):
        return ""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.2f}" if percent else f"{value:{sign}.4f}"


def figures_csv(measured: Measured) -> str:
    """All metrics of all rows as CSV, unrounded."""
    return _csv(
        {
            "row": line.row.name, "report": line.row.report, "what": line.row.what, "metric": line.figure.metric,
            "reported": line.figure.reported, "mean": line.ours.mean, "sd": line.ours.sd, "n": line.ours.n,
            "difference": line.difference, "verdict": line.verdict, "against": line.row.against,
            "train_seconds": line.train_seconds, "reported_seconds": line.row.reported_seconds,
            "parameters": line.parameters, "diverged": line.diverged, "note": line.row.note,
        }
        for line in measured.figure_lines()
    )  # fmt: skip


def findings_csv(measured: Measured) -> str:
    """All findings as CSV; the differences of a finding's claims are separated by semicolons."""
    return _csv(
        {
            "report": line.report, "finding": line.text, "verdict": line.verdict,
            "differences": "; ".join(map(str, line.differences)),
        }
        for line in measured.finding_lines()
    )  # fmt: skip


def _csv(lines: Iterable[dict[str, str | int | float | None]]) -> str:
    text = io.StringIO()
    every = [{name: _blank(value) for name, value in line.items()} for line in lines]
    writer = csv.DictWriter(text, list(every[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(every)
    return text.getvalue()


def _blank(value: str | int | float | None) -> str | int | float | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def write_headers(measured: Measured, folder: Path = CONF / "experiment") -> list[Path]:
    """Replace the ``ours:`` lines in the headers of the recipes by what was measured; returns the changed files.

    A recipe without a finished run keeps its header.
    """
    written = []
    for path in sorted(folder.glob("*.yaml")):
        lines = [f"#   ours:   {text}" for text in _ours(measured, path.stem)]
        before = path.read_text(encoding="utf-8")
        if lines and (after := re.sub(r"(^#   ours:.*\n)+", "\n".join(lines) + "\n", before, flags=re.M)) != before:
            write_atomically(path, after.encode())
            written.append(path)
    return written


def _ours(measured: Measured, experiment: str) -> list[str]:
    """One text for each row that runs this experiment through Lightning, alone or as one setting of a sweep."""
    texts = []
    for row in rows().values():
        if (row.experiment or row.name) != experiment or row.executor != "lightning" or not measured.outcomes[row.name]:
            continue
        lines = [line for line in measured.figure_lines() if line.row is row]
        setting = ", ".join(override.partition("=")[2] for override in row.overrides)
        values = ", ".join(
            f"{spread(line.ours, percent=is_share(line.figure.metric))}{' %' * is_share(line.figure.metric)} "
            f"{line.figure.metric}"
            for line in lines[:2]
        )
        machine = "; ".join(measured.hardware(row))
        texts.append(
            f"{setting + ': ' if setting else ''}{values} (n = {lines[0].ours.n}), {lines[0].train_seconds:.3g} s, "
            f"{machine}"
        )
    return texts

"""The two pages, a run and many runs, from records and templates to one HTML document that needs nothing else.

Jinja2 escapes whatever a template is given. Beyond that the document's own content security policy lets no script run
but the page's, known by its hash, and nothing be fetched.
"""

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from digitlab.core.errors import show
from digitlab.report.charts import Line, line_chart
from digitlab.report.confusion import heat_map, most_confused
from digitlab.report.records import GROUPS, ReportedRun, by_monitored, differing_settings
from digitlab.report.tables import Table

# What is drawn of a run, and what lies on the vertical axis.
_CHARTS = {"accuracy": "accuracy", "loss": "loss (mean over images)", "f1": "F1 (mean over classes)"}
_SPLITS = {"train": "training", "val": "validation"}
_COLOURED_RUNS = 6  # as many as one tells apart; the others are thin and grey
_CONFUSED_PAIRS = 6


@dataclass(frozen=True, slots=True)
class Picture:
    """An image for the page: ``png`` its bytes, ``text`` what one reads where it can't be seen."""

    title: str
    text: str
    png: bytes

    @property
    def address(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def run_page(record: ReportedRun, *, pictures: Sequence[Picture] = (), left_out: Sequence[str] = ()) -> str:
    """The report of one run; ``left_out`` says in a line each which pictures there are none of, and why."""
    charts = [
        (
            label.partition(" (")[0],
            line_chart(lines, x_label="epoch", y_label=label, best_x=record.best_epoch),
            [(line.name, line.look) for line in lines],
        )
        for name, label in _CHARTS.items()
        if (lines := _run_lines(record, name))
    ]
    metrics = _by_split(record.metrics)
    columns = list(dict.fromkeys(name for row in record.epochs for name in row))
    return _render(
        "run.html", title=record.name, record=record, charts=charts, metrics=metrics,
        splits=[split for split in ("train", "val", "test") if any(split in row for row in metrics.values())],
        heat=None if record.confusion is None else heat_map(record.confusion),
        confused=[] if record.confusion is None else most_confused(record.confusion, pairs=_CONFUSED_PAIRS),
        pictures=pictures, left_out=left_out, columns=columns,
    )  # fmt: skip


def _run_lines(record: ReportedRun, metric: str) -> list[Line]:
    lines = []
    for split, name in _SPLITS.items():
        points = [(row["epoch"], row[f"{split}/{metric}"]) for row in record.epochs if f"{split}/{metric}" in row]
        if points:
            lines.append(Line(name, points, split))
    return lines


def _by_split(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """``{"accuracy": {"val": …, "test": …}, …}``."""
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        split, _, name = key.partition("/")
        rows.setdefault(name, {})[split] = value
    return rows


def runs_page(
    records: Sequence[ReportedRun],
    *,
    title: str,
    beside: Path,
    tables: Sequence[Table] = (),
    winner: ReportedRun | None = None,
) -> str:
    """The report of several runs, the best by what they were selected by first; links start from folder ``beside``.

    ``winner`` is the run to name as the best where a sweep has chosen one by more than its own value.
    """
    ranked = by_monitored(records)
    charts = [
        (f"{_SPLITS[split]} {name}", line_chart(lines, x_label="epoch", y_label=_CHARTS[name]))
        for name in ("accuracy", "loss")
        for split in ("val", "train")
        if (lines := _overlaid(ranked, f"{split}/{name}"))
    ]
    settings = differing_settings(ranked)
    return _render(
        "runs.html", title=title, records=ranked, tables=tables, charts=charts, show=show,
        winner=_best(ranked) if winner is None else winner, chosen=winner is not None,
        settings=settings, common={name: ranked[0].setting(name) for name in GROUPS if name not in settings},
        coloured=ranked[:_COLOURED_RUNS], metrics=_shown_metrics(ranked),
        statuses=Counter(record.status for record in ranked),
        links={each.name: _link(each, beside) for each in ranked}, facts_of_all=_common_facts(ranked),
    )  # fmt: skip


def _best(ranked: Sequence[ReportedRun]) -> ReportedRun | None:
    """The first, where all runs can be compared: on one data set, by one metric."""
    alike = len({(record.setting("data"), record.monitor) for record in ranked}) == 1
    return ranked[0] if alike and ranked[0].monitored is not None else None


def _overlaid(records: Sequence[ReportedRun], metric: str) -> list[Line]:
    lines = []
    for place, record in enumerate(records):
        points = [(row["epoch"], row[metric]) for row in record.epochs if metric in row]
        if points:
            lines.append(Line(record.name, points, f"run c{place}" if place < _COLOURED_RUNS else "run", place))
    return lines[::-1]  # the best is drawn last, on top of the others


def _shown_metrics(records: Sequence[ReportedRun]) -> list[str]:
    """The columns of metrics: what the runs were selected by first, which decides their order, then the usual ones."""
    usual = ("val/accuracy", "val/loss", "test/accuracy", "test/f1")
    there = {name for record in records for name in record.metrics}
    return [name for name in dict.fromkeys([*(record.monitor for record in records), *usual]) if name in there]


def _link(record: ReportedRun, beside: Path) -> str:
    """Where the run lies as seen from ``beside``: its own report where it has one, else its folder."""
    own = record.folder.path / "report.html"
    return quote(os.path.relpath(own if own.exists() else record.folder.path, beside))


def _common_facts(records: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """Versions, commits and hardware, each with all values that occur."""
    facts: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in _facts(record).items():
            facts.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in facts.items()}


def _facts(record: ReportedRun) -> dict[str, str]:
    nested = {**(record.result.get("hardware") or {}), **(record.result.get("versions") or {})}
    return {"commit": str(record.result.get("git_commit") or "none")} | {
        name: str(value) for name, value in nested.items()
    }


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values, number=_number, facts=_facts, **_assets())


def _number(value: Any, digits: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("digitlab.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


@cache
def _assets() -> dict[str, Markup | str]:
    """The style sheet and the script, which are ours and trusted, and the policy that lets these two be used."""
    folder = files("digitlab.report") / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return {"style": Markup(style), "script": Markup(script), "policy": policy}

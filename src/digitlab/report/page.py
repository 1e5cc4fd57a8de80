"""Renders the two pages, one run and many runs, as self-contained HTML documents.

Jinja2 escapes all values. In addition, the content security policy of the page allows only its own script, identified
by its hash, and forbids all network access.
"""

import base64
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from digitlab.core.errors import show
from digitlab.core.html_page import security_policy, template_environment
from digitlab.figures.formatting import is_percentage
from digitlab.report.charts import Line, line_chart
from digitlab.report.confusion import confused_pairs, heat_map
from digitlab.report.images import ImageBrowser
from digitlab.report.records import GROUPS, ReportedRun, differing_settings, rank_runs
from digitlab.report.tables import Table

# By metric, for each chart: the label of the vertical axis, and the factor by which the values are multiplied.
_CHARTS = {"accuracy": ("accuracy in %", 100), "loss": ("loss (mean over images)", 1), "f1": ("F1 (macro) in %", 100)}
_SPLITS = {"train": "training", "val": "validation"}
_COLOURED_RUNS = 6  # more colours are hard to tell apart; the other runs are thin and grey
_CONFUSED_PAIRS = 6
# Explanations that the page shows as tooltips and in a list.
_NOTES = {
    "accuracy": "share of the images whose predicted class is the true class",
    "balanced_accuracy": "the mean of the accuracies of all classes, each class with the same weight",
    "loss": "mean over the images of what training minimises, label smoothing included, weight decay excluded",
    "f1": "macro F1: the mean of the F1 scores of all classes, each class with the same weight",
    "f1_weighted": "the mean of the F1 scores of all classes, weighted by the number of their images",
    "calibration_error": "mean absolute difference between confidence and accuracy in 15 bins of the confidence",
    "train": "measured during the training passes: with augmentation and dropout, while the weights change",
    "val": "measured on the validation images after an epoch, without augmentation and dropout",
    "test": "measured on the official test set, once, after training",
    "training time": "for a member of a population its share of the time that the whole population took",
    "images per second": "for a member of a population the speed of the whole population",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An image on the page: ``png`` holds its bytes, ``text`` the description for screen readers."""

    title: str
    text: str
    png: bytes

    @property
    def address(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def run_page(
    record: ReportedRun, *, pictures: Sequence[Picture] = (), browser: ImageBrowser | None = None,
    skipped: Sequence[str] = (),
) -> str:  # fmt: skip
    """Render the page of one run; ``skipped`` holds one line for each figure that could not be drawn."""
    charts = [
        (
            label.partition(" in %")[0].partition(" (mean")[0],  # the heading: the name without the unit
            line_chart(lines, x_label="epoch", y_label=label, best_x=record.best_epoch),
            [(line.name, line.css_class) for line in lines],
        )
        for name, (label, factor) in _CHARTS.items()
        if (lines := _run_lines(record, name, factor))
    ]
    metrics = _by_split(record.metrics)
    columns = list(dict.fromkeys(name for row in record.epochs for name in row))
    return _render(
        "run.html", title=record.title, record=record, charts=charts, metrics=metrics,
        splits=[split for split in ("train", "val", "test") if any(split in row for row in metrics.values())],
        heat=None if record.confusion is None else heat_map(record.confusion),
        confused=[] if record.confusion is None else confused_pairs(record.confusion, pairs=_CONFUSED_PAIRS),
        pictures=pictures, skipped=skipped, columns=columns, browser=browser,
    )  # fmt: skip


def _run_lines(record: ReportedRun, metric: str, factor: int) -> list[Line]:
    """Return the lines of a metric of one run: training and validation, as far as they were measured."""
    lines = []
    for split, name in _SPLITS.items():
        key = f"{split}/{metric}"
        points = [(row["epoch"], factor * row[key]) for row in record.epochs if key in row]
        if points:
            lines.append(Line(name, points, split))
    return lines


def _by_split(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Turn ``{"val/accuracy": …}`` into ``{"accuracy": {"val": …, "test": …}, …}``."""
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        split, _, name = key.partition("/")
        rows.setdefault(name, {})[split] = value
    return rows


def runs_page(
    records: Sequence[ReportedRun],
    *,
    title: str,
    links_from: Path,
    tables: Sequence[Table] = (),
    winner: ReportedRun | None = None,
    pictures: Sequence[Picture] = (),
    skipped: Sequence[str] = (),
    browsers: Mapping[str, ImageBrowser] = {},
) -> str:
    """Render the page of several runs, sorted by the monitored metric; links are relative to ``links_from``.

    ``pictures`` show a whole sweep; ``skipped`` holds one line for each analysis that does not apply to it.
    ``winner`` is the winner of a sweep: the best run of the setting with the best mean, which need not be the best run.
    """
    by_data: dict[str, list[ReportedRun]] = {}
    for record in rank_runs(records):
        by_data.setdefault(record.data_title, []).append(record)
    groups, start = [], 0
    for name, ranked in by_data.items():
        groups.append(_group(name, ranked, winner if winner in ranked else None, start))
        start += len(ranked)
    return _render(
        "runs.html", title=title, count=len(records), groups=groups, tables=tables, show=show,
        statuses=Counter(record.status for record in records),
        links={each.name: _link(each, links_from) for each in records}, facts_of_all=_common_facts(records),
        all_records=records, pictures=pictures, browsers=browsers, skipped=skipped,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The runs on one data set, best first. Values on different data sets can't be compared, so each set has a group.

    ``numbers`` are the indices of the runs on the whole page, ``labels`` their names in the legend of the charts,
    ``charts`` pairs of a heading and a chart, ``settings`` the keys whose values differ between runs,
    ``common`` the data set and the model if they do not differ, and ``coloured`` the number of lines with a colour.
    ``winner_of_sweep`` says that ``winner`` is the best run of the best setting of a sweep, not the run with the best
    value.
    """

    data: str
    records: Sequence[ReportedRun]
    numbers: Sequence[int]
    labels: Sequence[str]
    charts: Sequence[tuple[str, Markup]]
    winner: ReportedRun | None
    winner_of_sweep: bool
    settings: Sequence[str]
    common: Mapping[str, Any]
    metrics: Sequence[str]
    coloured: int


def _group(data: str, ranked: Sequence[ReportedRun], winner: ReportedRun | None, start: int) -> _Group:
    """Return the group of the runs ``ranked``, best first. ``start`` is the index of the first of them on the page.

    ``winner`` is the winner of a sweep if it is one of these runs.
    """
    settings = differing_settings(ranked)
    labels = _labels(ranked, settings)
    charts = [
        (f"{_SPLITS[split]} {name}", line_chart(lines, x_label="epoch", y_label=_CHARTS[name][0]))
        for name in ("accuracy", "loss")
        for split in ("val", "train")
        if (lines := _runs_lines(ranked, labels, f"{split}/{name}", start=start, factor=_CHARTS[name][1]))
    ]
    return _Group(
        data=data, records=ranked, numbers=range(start, start + len(ranked)), labels=labels, charts=charts,
        winner=_best(ranked) if winner is None else winner, winner_of_sweep=winner is not None,
        settings=settings, common={name: ranked[0].setting(name) for name in GROUPS if name not in settings},
        metrics=_shown_metrics(ranked), coloured=min(_COLOURED_RUNS, len(ranked)),
    )  # fmt: skip


def _labels(records: Sequence[ReportedRun], settings: Sequence[str]) -> list[str]:
    """Name each run by its differing settings, ``lr=0.1, seed=1``; add its folder if the name is not unique.

    The legend shows only the first runs, so their names leave out the settings that are the same in all of them.
    """
    differing_in_legend = differing_settings(records[:_COLOURED_RUNS])
    labels = []
    for rank, record in enumerate(records):
        keys = [key for key in settings if rank >= _COLOURED_RUNS or key in differing_in_legend]
        labels.append(", ".join(f"{key.rpartition('.')[2]}={show(record.setting(key))}" for key in keys))
    count = Counter(labels)
    return [
        label if label and count[label] == 1 else f"{label} ({record.name})" if label else record.name
        for label, record in zip(labels, records, strict=True)
    ]


def _best(ranked: Sequence[ReportedRun]) -> ReportedRun | None:
    """Return the first run, which is the best one, unless the runs monitor different metrics or it has no value."""
    same_metric = len({record.monitor for record in ranked}) == 1
    return ranked[0] if same_metric and ranked[0].monitored is not None else None


def _runs_lines(
    records: Sequence[ReportedRun], labels: Sequence[str], metric: str, *, start: int, factor: int
) -> list[Line]:
    """Return one line of a metric per run. The indices of the runs on the page begin with ``start``."""
    lines = []
    for rank, (record, label) in enumerate(zip(records, labels, strict=True)):
        points = [(row["epoch"], factor * row[metric]) for row in record.epochs if metric in row]
        if points:
            lines.append(Line(label, points, f"run c{rank}" if rank < _COLOURED_RUNS else "run", start + rank))
    return lines[::-1]  # draw the best run last, on top of the others


def _shown_metrics(records: Sequence[ReportedRun]) -> list[str]:
    """Return the metric columns: the monitored metric, by which the runs are sorted, then the usual ones."""
    usual = ("val/accuracy", "val/loss", "test/accuracy", "test/f1")
    available = {name for record in records for name in record.metrics}
    return [name for name in dict.fromkeys([*(record.monitor for record in records), *usual]) if name in available]


def _link(record: ReportedRun, links_from: Path) -> str:
    """Return the link from ``links_from`` to the run's own report if it exists, else to its folder."""
    run_report = record.folder.path / "report.html"
    return quote(os.path.relpath(run_report if run_report.exists() else record.folder.path, links_from))


def _common_facts(records: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """Collect versions, commits and hardware of all runs, each with all values that occur."""
    facts: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in _facts(record).items():
            facts.setdefault(name, {})[value] = None
    return {name: list(values) for name, values in facts.items()}


def _facts(record: ReportedRun) -> dict[str, str]:
    """Return the commit, the hardware and the versions of a run."""
    nested = {**(record.result.get("hardware") or {}), **(record.result.get("versions") or {})}
    return {"commit": str(record.result.get("git_commit") or "none")} | {
        name: str(value) for name, value in nested.items()
    }


def _render(template: str, **values: Any) -> str:
    return (
        template_environment("digitlab.report")
        .get_template(template)
        .render(**values, number=_number, metric_text=_metric_text, notes=_NOTES, facts=_facts, **_assets())
    )


def _number(value: Any, digits: int = 4) -> str:
    """Format a float with ``digits`` decimals; None becomes a dash."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _metric_text(metric: str, value: float | None) -> str:
    """Format the value of a metric: in per cent if it is a percentage, else with four decimals."""
    if value is None or not is_percentage(metric):
        return _number(value)
    return f"{100 * value:.2f} %"


@cache
def _assets() -> dict[str, Markup | str]:
    """Return the style sheet, the script, and the content security policy that allows them."""
    folder = files("digitlab.report") / "templates"
    style, script = (
        "".join((folder / name).read_text(encoding="utf-8") for name in names)
        for names in (("style.css", "images.css"), ("page.js", "images.js"))
    )
    return {"style": Markup(style), "script": Markup(script), "policy": security_policy(script)}

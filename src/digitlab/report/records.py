"""What a report says of a run, read from its folder. Nothing here needs torch, so a hundred runs are read in a second.

Values of the configuration are taken as they are written, interpolations and all: a ``${oc.env:…}`` stays one, so that
nothing of the environment reaches a page.
"""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import show
from digitlab.results.folder import RunFolder

GROUPS = ("data", "model")  # what one wants to know of any run
_NUMBERS = ("best_epoch", "parameters", "train_seconds")
_NO_SETTINGS = ("trainer.progress_bar", "data.root", "hydra.", "sweep")  # typed, but not about the experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """One run: ``name`` is its folder as seen from the user's, ``epochs`` the rows of ``metrics.csv``.

    ``result`` is empty for a run that is still going on or was killed; ``confusion`` and ``summary`` are None where the
    run did not come so far.
    """

    folder: RunFolder
    name: str
    choices: Mapping[str, str]
    config: Mapping[str, Any]
    config_text: str
    overrides: Sequence[str]
    result: Mapping[str, Any]
    epochs: Sequence[Mapping[str, float]]
    confusion: "Confusion | None"
    summary: str | None

    @property
    def status(self) -> str:
        return str(self.result.get("status", "unfinished"))

    def fact(self, name: str) -> Any:
        """An entry of ``result.json``; None where there is none yet."""
        return self.result.get(name)

    @property
    def best_epoch(self) -> int | None:
        """The epoch that validation chose; None where there was no validation, as it chose nothing."""
        chosen = any(name.startswith("val/") for row in self.epochs for name in row)
        best: int | None = self.fact("best_epoch") if chosen else None
        return best

    @property
    def error(self) -> str | None:
        error: str | None = self.fact("error")
        return error

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of ``result.json`` that could be measured, without those of single classes."""
        metrics = self.result.get("metrics") or {}
        return {name: value for name, value in metrics.items() if value is not None and "class_accuracy" not in name}

    @property
    def monitor(self) -> str:
        """The metric that the run was selected by."""
        return str(self.setting("monitor.metric"))

    @property
    def monitored(self) -> float | None:
        """Its value at the best epoch; of a run without a result, that of the best epoch so far."""
        if self.monitor in self.metrics:
            return self.metrics[self.monitor]
        values = [row[self.monitor] for row in self.epochs if self.monitor in row]
        return (min if metric_direction(self.monitor) == "min" else max)(values, default=None)

    def setting(self, key: str) -> Any:
        """The value of a dotted key: of a group the name that was chosen, None where the configuration lacks it."""
        if key in self.choices:
            return self.choices[key]
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node


@dataclass(frozen=True, slots=True)
class Confusion:
    """``counts`` has a row a true class and a column a predicted one."""

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]


def read_record(run: RunFolder, *, named_from: Path) -> ReportedRun:
    """The run in a folder, named as one sees it from the folder ``named_from``.

    Raises ``ConfigError`` where it is no run folder, ``OSError`` or ``ValueError`` where a file of it can't be read.
    """
    config = run.read_plain_config()
    result = run.read_result() if run.result.exists() else {}
    if not _is_result(result):
        raise ValueError("result.json is not one of digitlab's")
    name = os.path.relpath(run.path, named_from)
    return ReportedRun(
        folder=run,
        name=run.path.name if name == "." else name,
        choices=run.read_choices(),
        config=config,
        config_text=run.config.read_text(encoding="utf-8"),
        overrides=run.read_overrides(),
        result=result,
        epochs=_read_epochs(run.metrics),
        confusion=_read_confusion(run.confusion),
        summary=run.summary.read_text(encoding="utf-8") if run.summary.exists() else None,
    )


def _is_result(result: Any) -> bool:
    """Whether what a page computes with are numbers: a file can hold anything."""
    if not isinstance(result, dict):
        return False
    metrics, nested = result.get("metrics", {}), [result.get(name) or {} for name in ("versions", "hardware")]
    if not all(isinstance(each, dict) for each in (metrics, *nested)):
        return False
    numbers = [*metrics.values(), *(result.get(name) for name in _NUMBERS)]
    return all(number is None or (isinstance(number, int | float) and math.isfinite(number)) for number in numbers)


def _read_epochs(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _read_confusion(path: Path) -> Confusion | None:
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        (_, *names), *rows = csv.reader(file)
    counts = [[int(value) for value in row[1:]] for row in rows]
    if [len(row) for row in counts] != [len(names)] * len(names):
        raise ValueError(f"{path.name} is no square")
    return Confusion(names, counts)


def by_monitored(records: Sequence[ReportedRun]) -> list[ReportedRun]:
    """For each data set the best runs first, by their monitored metric; runs without a value last."""

    def rank(record: ReportedRun) -> tuple[str, bool, float]:
        value = record.monitored
        return (
            str(record.setting("data")),
            value is None,
            0.0 if value is None else value if metric_direction(record.monitor) == "min" else -value,
        )

    return sorted(records, key=rank)


def differing_settings(records: Sequence[ReportedRun]) -> list[str]:
    """Of data set, model and the keys that were typed for any of the runs those that are not the same in all."""
    typed = [override.lstrip("+").partition("=") for record in records for override in record.overrides]
    keys = dict.fromkeys([*GROUPS, *(key for key, equals, _ in typed if equals and not key.startswith(_NO_SETTINGS))])
    return [key for key in keys if len({show(record.setting(key)) for record in records}) > 1]

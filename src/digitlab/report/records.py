"""Reads the data of a report from run folders, without torch: a hundred runs take less than a second.

All modules that make parts of the page use it. Interpolations in the configuration are not resolved: a ``${oc.env:…}``
stays as it is, so that no value of an environment variable gets into a page.
"""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digitlab.config.metrics import metric_direction
from digitlab.config.overrides import split_override
from digitlab.core.errors import show
from digitlab.results.checkpoint_name import tested_checkpoint
from digitlab.results.data_set import data_set_name
from digitlab.results.folder import RunFolder
from digitlab.results.history import read_history

GROUPS = ("data", "model")  # config groups that the page always shows
# The entries of result.json, besides metrics, that must be numbers.
_NUMBERS = ("best_epoch", "parameters", "train_seconds")
_DATA_TITLES = {
    "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100",
    "kmnist": "KMNIST", "qmnist": "QMNIST", "svhn": "SVHN",
}  # fmt: skip
# Overrides whose keys begin like this do not change the experiment.
_IGNORED_OVERRIDES = ("trainer.progress_bar", "data.root", "hydra.", "sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """The data of one run.

    ``name`` is the relative path of its folder; ``choices`` are the names of the chosen config groups; ``epochs`` are
    the rows of ``metrics.csv``. ``result`` is empty if the run is unfinished or was killed. ``confusion`` and
    ``summary`` are None if the run has not written them.
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
        """Return an entry of ``result.json``; None if it is missing."""
        return self.result.get(name)

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best validation; None if the run had no validation."""
        has_validation = any(name.startswith("val/") for row in self.epochs for name in row)
        best: int | None = self.fact("best_epoch") if has_validation else None
        return best

    @property
    def tested(self) -> str:
        """The checkpoint and epoch to which ``metrics`` belong: ``best checkpoint, epoch 4``. Empty without metrics."""
        if not self.metrics:
            return ""
        checkpoint: str = tested_checkpoint(self.setting("test"))
        epoch = self.fact("epochs" if checkpoint == "last" else "best_epoch")
        tested = self.fact("tested")
        if isinstance(tested, Mapping):
            checkpoint, epoch = tested.get("checkpoint", checkpoint), tested.get("epoch", epoch)
        return f"{checkpoint} checkpoint" + ("" if epoch is None else f", epoch {epoch}")

    @property
    def data_title(self) -> str:
        """The usual name of the data set, such as ``Fashion-MNIST``; otherwise the one that ``data_set_name`` gives."""
        node = self.config.get("data")
        name = data_set_name(str(self.setting("data")), node if isinstance(node, Mapping) else {})
        return _DATA_TITLES.get(name, name)

    @property
    def title(self) -> str:
        """The network, the data set and the accuracy: ``MLP on MNIST, 98.00 % test accuracy``."""
        model = self.setting("model._target_") or self.setting("model")
        text = f"{str(model).rpartition('.')[2]} on {self.data_title}"
        for split, name in (("test", "test"), ("val", "validation")):
            if (accuracy := self.metrics.get(f"{split}/accuracy")) is not None:
                return f"{text}, {100 * accuracy:.2f} % {name} accuracy"
        return text

    @property
    def error(self) -> str | None:
        error: str | None = self.fact("error")
        return error

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of ``result.json`` that have a value, without those of single classes."""
        metrics = self.result.get("metrics") or {}
        return {name: value for name, value in metrics.items() if value is not None and "class_accuracy" not in name}

    @property
    def monitor(self) -> str:
        """The name of the monitored metric, which selects the best epoch."""
        return str(self.setting("monitor.metric"))

    @property
    def monitored(self) -> float | None:
        """The monitored metric from the result; for a run without a result, the best value so far."""
        if self.monitor in self.metrics:
            return self.metrics[self.monitor]
        values = [row[self.monitor] for row in self.epochs if self.monitor in row]
        return (min if metric_direction(self.monitor) == "min" else max)(values, default=None)

    def setting(self, key: str) -> Any:
        """Return the value of a dotted key, or for a config group the chosen name; None if there is no such key."""
        if key in self.choices:
            return self.choices[key]
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node


@dataclass(frozen=True, slots=True)
class Confusion:
    """``counts`` has one row per true class and one column per predicted class."""

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]


def read_record(run: RunFolder, *, names_relative_to: Path) -> ReportedRun:
    """Read a run folder; the run's name is its path relative to ``names_relative_to``.

    Raises ``ConfigError`` if it is not a run folder, ``OSError``, ``ValueError`` or ``RunError`` for a damaged file.
    """
    config = run.read_plain_config()
    result = run.read_result() if run.result.exists() else {}
    if not _is_result(result):
        raise ValueError("result.json was not written by digitlab")
    name = os.path.relpath(run.path, names_relative_to)
    return ReportedRun(
        folder=run,
        name=run.path.name if name == "." else name,
        choices=run.read_choices(),
        config=config,
        config_text=run.config.read_text(encoding="utf-8"),
        overrides=run.read_overrides(),
        result=result,
        epochs=[row.columns for row in read_history(run)],
        confusion=_read_confusion(run.confusion),
        summary=run.summary.read_text(encoding="utf-8") if run.summary.exists() else None,
    )


def _is_result(result: Any) -> bool:
    """Check that all values with which the page calculates are finite numbers."""
    if not isinstance(result, dict):
        return False
    metrics, nested = result.get("metrics", {}), [result.get(name) or {} for name in ("versions", "hardware")]
    if not all(isinstance(each, dict) for each in (metrics, *nested)):
        return False
    numbers = [*metrics.values(), *(result.get(name) for name in _NUMBERS)]
    return all(number is None or (isinstance(number, int | float) and math.isfinite(number)) for number in numbers)


def _read_confusion(path: Path) -> Confusion | None:
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            (_, *names), *rows = csv.reader(file)
        counts = [[int(value) for value in row[1:]] for row in rows]
        if [len(row) for row in counts] != [len(names)] * len(names):
            raise ValueError("it is not a square matrix")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path.name} is damaged ({error}); resume={path.parent} tests the run again") from error
    return Confusion(names, counts)


def rank_runs(records: Sequence[ReportedRun]) -> list[ReportedRun]:
    """Sort runs by data set and then by their monitored metric, best first; runs without a value come last.

    The monitored metric never comes from the test set.
    """

    def rank(record: ReportedRun) -> tuple[str, bool, float]:
        value = record.monitored
        return (
            record.data_title,
            value is None,
            0.0 if value is None else value if metric_direction(record.monitor) == "min" else -value,
        )

    return sorted(records, key=rank)


def differing_settings(records: Sequence[ReportedRun]) -> list[str]:
    """Return the keys among data set, model and all overrides whose values differ between the runs."""
    overridden = (split_override(override)[0] for record in records for override in record.overrides)
    keys = dict.fromkeys([*GROUPS, *(key for key in overridden if not key.startswith(_IGNORED_OVERRIDES))])
    return [key for key in keys if len({show(record.setting(key)) for record in records}) > 1]

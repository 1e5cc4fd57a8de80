"""Reads the runs that a comparison is about and sorts them into groups: one for each folder or value of a key.

``digitlab compare`` uses it. Only finished runs count, with the metrics of the checkpoint that each run tested. Nothing
here imports torch.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digitlab.config.fingerprint import with_effect
from digitlab.config.suggestions import nearest
from digitlab.core.errors import ConfigError, show
from digitlab.results.folder import RunFolder, find_runs
from digitlab.results.outcome import UNREADABLE
from digitlab.results.table import run_limits

Value = str | int | float | bool | None

# More groups would make hundreds of pairs, and some of these would differ by chance.
_MAX_GROUPS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One finished run: all settings that affect it by dotted key, its config groups, its metrics."""

    folder: RunFolder
    settings: Mapping[str, Value]
    choices: Mapping[str, str]
    metrics: Mapping[str, float | None]

    @property
    def monitor(self) -> str:
        """The metric that the run monitored."""
        return str(self.settings["monitor.metric"])

    def value(self, metric: str) -> float | None:
        """The value of a metric; None if it is missing, not finite, or was measured on a part of the test set."""
        value = self.metrics.get(metric)
        if metric.startswith("test/") and self.settings.get("trainer.limit_test_batches") is not None:
            return None
        return value if value is not None and math.isfinite(value) else None

    def value_of(self, key: str) -> Value:
        """The value of a key, or the chosen option of a config group; None if there is no such key."""
        return self.choices[key] if key in self.choices else self.settings.get(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that are compared with those of other groups under the name ``name``.

    ``left_out`` says why other runs do not count, with their number: ``{"failed": 2}``. They are in the folder
    ``source`` of several groups if that is given.
    """

    name: str
    runs: Sequence[ComparedRun]
    left_out: Mapping[str, int] = field(default_factory=dict)
    source: str | None = None


def read_groups(folders: Sequence[Path], *, key: str | None = None, where: Sequence[str] = ()) -> list[Group]:
    """One group for each folder, or with ``key`` one for each value of it in all folders together.

    A folder is a run, a sweep, or any folder with runs at any depth. ``where`` keeps the runs that have these settings,
    each ``KEY=VALUE``. Raises ``ConfigError`` for fewer than two groups, and for a group without a finished run.
    """
    conditions = [_condition(text) for text in where]
    names = _names(folders)
    groups = [_read(folder, names[folder], conditions) for folder in folders]
    if key is not None:
        groups = _by_value(groups, key)
    elif len(groups) < 2:
        raise ConfigError("FOLDER", folders[0], "one folder is no comparison: give two, or --key for one sweep")
    for group in groups:
        if not group.runs:
            reasons = ", ".join(f"{count} {reason}" for reason, count in group.left_out.items())
            raise ConfigError("FOLDER", group.name, f"no run to compare ({reasons or 'no runs'})")
    return groups


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that differ: ``adam`` and ``sgd``, or ``first/adam`` and ``second/adam``."""
    full = {folder: folder.expanduser().resolve() for folder in folders}
    if len(set(full.values())) < len(folders):
        raise ConfigError("FOLDER", folders[0], "the same folder is given twice")
    for depth in range(1, max(len(path.parts) for path in full.values()) + 1):
        names = {folder: "/".join(path.parts[-depth:]) for folder, path in full.items()}
        if len(set(names.values())) == len(folders):
            return names
    return {folder: str(path) for folder, path in full.items()}


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError("--where", text, "must be KEY=VALUE, for example optimizer.lr=0.1")
    return key, value


def _read(folder: Path, name: str, conditions: Sequence[tuple[str, str]]) -> Group:
    path = folder.expanduser().resolve()
    if not path.is_dir():
        raise ConfigError("FOLDER", folder, "there is no such folder")
    found = find_runs(path)
    if not found:
        raise ConfigError("FOLDER", folder, "contains no run folder")
    runs, left_out = [], dict[str, int]()
    for run in found:
        read = read_run(run)
        if isinstance(read, ComparedRun):
            read = _unmet(read, conditions) or read
        if isinstance(read, str):
            left_out[read] = left_out.get(read, 0) + 1
        else:
            runs.append(read)
    _check_keys(runs, [key for key, _ in conditions], "--where")
    return Group(name=name, runs=runs, left_out=left_out)


def read_run(run: RunFolder) -> ComparedRun | str:
    """The run, or why it does not count."""
    try:
        result = run.read_result()
        if result["status"] != "finished":
            return str(result["status"])
        # Its value comes from fewer epochs than that of the others.
        if result.get("halved_after_epoch") is not None:
            return "ended early by halving"
        limits = (run_limits(run) or "").split()
        # A test on some mini-batches matters only for metrics of the test set (see ``ComparedRun.value``).
        if any(not limit.startswith("limit_test_batches=") for limit in limits):
            return "limited to some mini-batches"
        config = run.read_plain_config()
        return ComparedRun(
            folder=run, settings=dict(_leaves(with_effect(config))), choices=run.read_choices(),
            metrics={name: None if value is None else float(value) for name, value in result["metrics"].items()},
        )  # fmt: skip
    except FileNotFoundError:
        return "unfinished"
    except UNREADABLE:
        return "unreadable"


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Value]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node if node is None or isinstance(node, str | int | float | bool) else json.dumps(node)


def _unmet(run: ComparedRun, conditions: Sequence[tuple[str, str]]) -> str | None:
    """Why the run does not meet the conditions; None if it does."""
    for key, wanted in conditions:
        if not _equal(run.value_of(key), wanted):
            return f"without {key}={wanted}"
    return None


def _equal(value: Value, text: str) -> bool:
    """Whether the user, typing ``text``, means ``value``: 0.1 and 1e-1 are the same number."""
    if show(value) == text:
        return True
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isclose(value, float(text))
    except ValueError:
        return False


def _check_keys(runs: Sequence[ComparedRun], keys: Sequence[str], option: str) -> None:
    known = {name for run in runs for name in (*run.settings, *run.choices)}
    for key in keys:
        if runs and key not in known:
            raise ConfigError(option, key, f"no run has this key{nearest(key, known)}")


def _by_value(groups: Sequence[Group], key: str) -> list[Group]:
    """Groups of all runs with the same value of ``key``."""
    runs = [run for group in groups for run in group.runs]
    _check_keys(runs, [key], "--key")
    by_value: dict[Value, list[ComparedRun]] = {}
    for run in runs:
        by_value.setdefault(run.value_of(key), []).append(run)
    if len(by_value) < 2:
        have = ", ".join(f"{key}={show(value)}" for value in by_value) or "there is no finished run"
        raise ConfigError("--key", key, f"must have at least two values in finished runs ({have})")
    if len(by_value) > _MAX_GROUPS:
        raise ConfigError("--key", key, f"has {len(by_value)} values; at most {_MAX_GROUPS} can be compared")
    left_out: dict[str, int] = {}
    for group in groups:
        for reason, count in group.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    # Which value a failed run had is not counted apart, so all groups have the same ones; the notes show them once.
    source = ", ".join(group.name for group in groups)
    return [
        Group(name=f"{key}={show(value)}", runs=own, left_out=left_out, source=source)
        for value, own in by_value.items()
    ]

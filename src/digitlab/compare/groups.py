"""Reads the runs of a comparison and sorts them into groups: one for each folder, or one for each value of a key.

``digitlab compare`` and ``digitlab.compare_runs`` use it. Only finished runs count, with the metrics of the checkpoint
that each run tested. This module does not import torch, so the command starts quickly.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digitlab.compare.conditions import Condition
from digitlab.config.fingerprint import with_effect
from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.config.suggestions import full_keys, nearest
from digitlab.config.values import Value
from digitlab.core.errors import ConfigError, listed, show
from digitlab.core.files import expand_home
from digitlab.results.folder import RunFolder, find_runs
from digitlab.results.outcome import UNREADABLE, unreadable_reason
from digitlab.results.run_hints import require_folder, why_no_runs
from digitlab.results.table import run_limits

# 12 groups make 66 comparisons. With more, the correction for their number would hide most differences.
_MAX_GROUPS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One finished run.

    ``settings`` has the settings that affect its numbers, by dotted key, such as ``optimizer.lr``. ``choices`` has the
    chosen option of each config group, such as ``model: mlp``.
    """

    folder: RunFolder
    settings: Mapping[str, Value]
    choices: Mapping[str, str]
    metrics: Mapping[str, float | None]

    @property
    def monitor(self) -> str:
        """The metric that the run monitored."""
        return str(self.settings["monitor.metric"])

    def value(self, metric: str) -> float | None:
        """Return the value of a metric; None if it is missing, not finite, or from only a part of the test set."""
        value = self.metrics.get(metric)
        if metric.startswith("test/") and self.settings.get("trainer.limit_test_batches") is not None:
            return None
        return value if value is not None and math.isfinite(value) else None

    def value_of(self, key: str) -> Value:
        """Return the chosen option if ``key`` is a config group, else the setting; None if there is neither."""
        return self.choices[key] if key in self.choices else self.settings.get(key)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run that is not compared.

    ``reason`` can be the same for several runs, such as ``failed``; ``detail`` says more about this run. If the reason
    is a condition of ``--where``, ``setting`` is what the run has instead.
    """

    reason: str
    detail: str = ""
    setting: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The runs of one folder, or with one value of a key, which are compared with the runs of other groups.

    ``left_out`` are the runs that are not compared. These are runs of this group, or, if ``source`` is given, of all
    groups together; then ``source`` names the folders that the groups were made from.
    """

    name: str
    runs: Sequence[ComparedRun]
    left_out: Sequence[LeftOut] = ()
    source: str | None = None

    @classmethod
    def of(cls, name: str, outcomes: Iterable[ComparedRun | LeftOut]) -> "Group":
        """Make the group of the runs in ``outcomes``."""
        runs, left_out = list[ComparedRun](), list[LeftOut]()
        for each in outcomes:
            if isinstance(each, LeftOut):
                left_out.append(each)
            else:
                runs.append(each)
        return cls(name=name, runs=runs, left_out=left_out)

    def reasons(self, *, with_settings: bool = False) -> dict[str, int]:
        """Return how many runs are left out for each reason: ``{"failed": 2}``. The reason contains a few details.

        ``with_settings`` adds the settings that these runs have instead of the wanted ones.
        """
        by_reason: dict[str, list[LeftOut]] = {}
        for each in self.left_out:
            by_reason.setdefault(each.reason, []).append(each)
        counts = {}
        for reason, runs in by_reason.items():
            texts = dict.fromkeys(each.detail or (each.setting if with_settings else "") for each in runs)
            details = listed([text for text in texts if text], most=3, separator="; ")
            counts[f"{reason}: {details}" if details else reason] = len(runs)
        return counts


def read_groups(folders: Sequence[Path], *, key: str | None = None, where: Sequence[str] = ()) -> list[Group]:
    """Return one group for each folder; with ``key``, one group for each of its values in all folders together.

    A folder is a run, a sweep, or any folder with runs at any depth. ``where`` is a list of conditions ``KEY=VALUE``;
    only runs that meet all of them are compared. Raises ``ConfigError`` for fewer than two groups, and for a group
    without a finished run.
    """
    conditions = [Condition.parse(text) for text in where]
    names = _names(folders)
    groups = [_read(folder, names[folder], conditions) for folder in folders]
    if key is not None:
        groups = _by_value(groups, key)
    elif len(groups) < 2:
        raise ConfigError("FOLDER", folders[0], "one folder is no comparison: give two, or one sweep and --key KEY")
    for group in groups:
        if not group.runs:
            reasons = _left_out_text([group]) or "no runs"
            raise ConfigError("FOLDER", group.name, f"contains no run to compare ({reasons})")
    return groups


def _left_out_text(groups: Sequence[Group]) -> str:
    """Return how many runs are left out, and why, for an error message."""
    return ", ".join(
        f"{count} {reason}" for group in groups for reason, count in group.reasons(with_settings=True).items()
    )


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return a short name for each folder: its last parts, as few as make all names different.

    For example ``adam`` and ``sgd``, or ``first/adam`` and ``second/adam``.
    """
    resolved = {folder: expand_home(folder).resolve() for folder in folders}
    if len(set(resolved.values())) < len(folders):
        raise ConfigError("FOLDER", folders[0], "is given twice: give each folder once")
    for depth in range(1, max(len(path.parts) for path in resolved.values()) + 1):
        names = {folder: "/".join(path.parts[-depth:]) for folder, path in resolved.items()}
        if len(set(names.values())) == len(folders):
            return names
    return {folder: str(path) for folder, path in resolved.items()}


def _read(folder: Path, name: str, conditions: Sequence[Condition]) -> Group:
    """Return the group of all runs in ``folder``. Raises ``ConfigError`` if there are none, or for unknown keys."""
    # In a longer path, "=" belongs to the name of a run of a sweep.
    if not folder.exists() and "=" in str(folder) and len(folder.parts) == 1:
        raise ConfigError("FOLDER", folder, "is no folder: settings in one folder are compared with --key KEY")
    path = require_folder(folder, "FOLDER")
    unreadable: list[OSError] = []
    run_folders = find_runs(path, unreadable=unreadable.append)
    if not run_folders:
        raise ConfigError("FOLDER", folder, why_no_runs(path))
    # A folder that this user may not read counts as one run.
    left_out = [LeftOut("unreadable", f"{Path(error.filename).name}: {error.strerror}") for error in unreadable]
    outcomes = [*(read_run(run) for run in run_folders), *left_out]
    # All readable runs are checked, because the conditions leave out all runs if none has the key.
    readable = [each for each in outcomes if isinstance(each, ComparedRun)]
    _check_keys(readable, [condition.key for condition in conditions], "--where")
    # A condition that a run does not meet is a reason to leave it out.
    return Group.of(
        name, (each if isinstance(each, LeftOut) else _unmet_condition(each, conditions) or each for each in outcomes)
    )


def read_run(run: RunFolder) -> ComparedRun | LeftOut:
    """Return the run, or the reason why it is not compared, such as ``failed`` or ``unfinished``."""
    if not run.result.exists():
        return LeftOut("unfinished")
    try:
        result = run.read_result()
        if result["status"] != "finished":
            return LeftOut(str(result["status"]))
        # Halving, which ends the worse runs of a sweep early, ended this one. It trained for fewer epochs than others.
        if result.get("halved_after_epoch") is not None:
            return LeftOut("ended early by halving")
        limits = (run_limits(run) or "").split()
        # A limit of the test affects only metrics of the test set: ``ComparedRun.value`` leaves these out.
        if any(not limit.startswith("limit_test_batches=") for limit in limits):
            return LeftOut("limited to some mini-batches")
        config = run.read_plain_config()
        return ComparedRun(
            folder=run, settings=dict(_leaves(with_effect(config))), choices=run.read_choices(),
            metrics={name: None if value is None else float(value) for name, value in result["metrics"].items()},
        )  # fmt: skip
    except UNREADABLE as error:
        return LeftOut("unreadable", f"{run.path.name}: {unreadable_reason(error)}")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield the dotted key and the value of each setting; lists become text, as a user types them."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node if node is None or isinstance(node, str | int | float | bool) else show(node)


def _unmet_condition(run: ComparedRun, conditions: Sequence[Condition]) -> LeftOut | None:
    """Return the first condition that the run does not meet, as a reason to leave it out; None if it meets all."""
    for condition in conditions:
        value = run.value_of(condition.key)
        if not condition.holds(value):
            return LeftOut(f"without {condition.key}={condition.text}", setting=f"{condition.key}={show(value)}")
    return None


def _check_keys(runs: Sequence[ComparedRun], keys: Sequence[str], option: str) -> None:
    """Raise ``ConfigError``, which names ``option``, if no run has one of the keys."""
    known = {name for run in runs for name in (*run.settings, *run.choices)}
    for key in keys:
        if runs and key not in known:
            meant_keys = full_keys(key, sorted(known))
            hint = f"; write {' or '.join(meant_keys)}" if meant_keys else nearest(key, known)
            raise ConfigError(option, key, f"no run has this key{hint}")


def _by_value(groups: Sequence[Group], key: str) -> list[Group]:
    """Regroup the runs of all groups by their value of ``key``."""
    if key in REPLICATE_KEYS:
        allowed = "only repeats a setting: runs of the two sides with the same value are compared as pairs"
        raise ConfigError("--key", key, allowed)
    runs = [run for group in groups for run in group.runs]
    _check_keys(runs, [key], "--key")
    by_value: dict[Value, list[ComparedRun]] = {}
    for run in runs:
        by_value.setdefault(run.value_of(key), []).append(run)
    if len(by_value) < 2:
        settings = ", ".join(f"{key}={show(value)}" for value in by_value)
        settings = settings or _left_out_text(groups) or "there is no finished run"
        raise ConfigError("--key", key, f"must have at least two values in finished runs ({settings})")
    if len(by_value) > _MAX_GROUPS:
        allowed = f"has {len(by_value)} values; at most {_MAX_GROUPS} can be compared: digitlab sweep shows all values"
        raise ConfigError("--key", key, allowed)
    # It is not known which value a left-out run had. So all new groups get the same runs and the same ``source``, which
    # makes their notes equal, and equal notes are shown once.
    left_out = [each for group in groups for each in group.left_out]
    source = ", ".join(group.name for group in groups)
    return [
        Group(name=f"{key}={show(value)}", runs=same_value, left_out=left_out, source=source)
        for value, same_value in by_value.items()
    ]

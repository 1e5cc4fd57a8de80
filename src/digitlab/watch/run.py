"""Follows one run folder for the page of ``digitlab watch``: its state, its metrics so far, the time left."""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import RunError
from digitlab.results.config_scan import scan_config
from digitlab.results.folder import RunFolder
from digitlab.results.history import EpochRow, GrowingHistory
from digitlab.results.outcome import UNREADABLE, measured_metric
from digitlab.sweeps.manifest import Entry
from digitlab.watch.tree import is_settled

# The name of the report that ``digitlab report`` writes into a folder.
REPORT = "report.html"
_KEYS = ("monitor.metric", "trainer.max_epochs", "data.val_size", "seed")
# On another machine, or without a list of locks, a run counts as training for this long after its last sign of life.
_SILENT_SECONDS, _SILENT_EPOCHS = 90.0, 3.0
_SMALL_POINTS = 60  # of a curve in the overview
_LAST_EPOCHS = 5  # whose median says how long an epoch takes, before this page has seen two of them end

# The time of change in ns, the size and the inode of a file; None if it does not exist.
_Signature = tuple[int, int, int] | None


class WatchedRun:
    """One run folder. ``update`` looks at it again, and ``record`` describes it for the page.

    ``name`` is the path of the folder relative to the root, with slashes; ``parent`` is the folder around it.
    ``entry`` is its entry in the manifest of its sweep, if it has one. ``version`` is for the owner, who notes there
    when the record last changed.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.folder, self.name, self.parent = RunFolder(path), name, str(path.parent)
        self.history = GrowingHistory(self.folder)
        self.entry: Entry | None = None
        self.status = "unfinished"
        self.result: Mapping[str, Any] = {}
        self.result_seconds: float | None = None
        self.version = 0
        self.record: dict[str, Any] = {}
        self._settings: dict[str, str] = {}
        self._choices: Mapping[str, str] = {}
        self._overrides: Sequence[str] = ()
        self._note: str | None = None
        self._changed_ns: int | None = None
        self._settled = False
        self._signatures: dict[str, _Signature] = {}
        self._seen_locked = False
        # The number of epochs and the time of their last one when this page first saw the run in this state.
        self._first_seen: tuple[int, float] | None = None
        self._read_history_generation = -1

    @property
    def ended(self) -> bool:
        """Whether no process trains the run, as far as it is known."""
        return self.status != "running"

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return int(self.result.get("epochs") or 0) if self.ended and self.result else len(self.history.rows)

    @property
    def max_epochs(self) -> int | None:
        text = self._settings.get("trainer.max_epochs", "")
        return int(text) if text.isdecimal() else None

    @property
    def trained_part(self) -> float:
        """The trained part of the run in [0, 1]. Early stopping can end a run before it reaches 1."""
        return min(self.epochs / self.max_epochs, 1.0) if self.max_epochs else 0.0

    @property
    def metric(self) -> str:
        """The metric that the run monitors, or would without a validation set."""
        metric = self._settings.get("monitor.metric", "val/accuracy")
        if metric in self.result.get("metrics", {}):
            return metric
        return measured_metric(metric, val_size=0 if self._settings.get("data.val_size") == "0" else None)

    def update(self, locked: frozenset[int] | None, now: float) -> bool:
        """Look at the folder again; return whether ``record`` has changed.

        ``locked`` are the inodes of locked files, None if they are not known; ``now`` is in seconds since 1970. Raises
        ``FileNotFoundError`` if the folder is gone.
        """
        changed_ns = os.stat(self.folder.path).st_mtime_ns
        # Every file that matters is replaced by a rename, made or removed: all of these change the folder's own time.
        looked = changed_ns != self._changed_ns or not self._settled
        if looked:
            self._changed_ns, self._settled = changed_ns, is_settled(changed_ns)
            self._read_changes()
        status, self.status = self.status, self._status(locked, now)
        if self.ended:
            self._first_seen = None
        elif self._first_seen is None:
            self._first_seen = (self.epochs, self._changed_at("metrics") or now)
        return (looked or status != self.status) and self._describe()

    def assign(self, entry: Entry | None) -> bool:
        """Set the entry of the run in the manifest of its sweep; return whether ``record`` has changed."""
        if entry == self.entry:
            return False
        self.entry = entry
        return self._describe()

    def _read_changes(self) -> None:
        """Read those files that are not as they were."""
        run = self.folder
        if self._is_new("config", run.config):
            self._read_configuration()
        self._is_new("lock", run.lock)
        self._is_new("report", run.path / REPORT)
        if self._is_new("result", run.result):
            self._read_result()
        # The curves of a finished run are read when somebody looks at them, or when it is made longer.
        finished = self.result.get("status") == "finished" and self._signatures["lock"] is None
        if not finished and self._is_new("metrics", run.metrics):
            self.read_history()

    def _is_new(self, name: str, path: Path) -> bool:
        """Whether a file has changed since the last call with the same ``name``."""
        try:
            found = os.stat(path)
            signature: _Signature = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            signature = None
        same = name in self._signatures and self._signatures[name] == signature
        self._signatures[name] = signature
        return not same

    def _changed_at(self, name: str) -> float | None:
        signature = self._signatures.get(name)
        return None if signature is None else signature[0] / 1e9

    def _read_configuration(self) -> None:
        try:
            self._settings = scan_config(self.folder.config.read_text(encoding="utf-8"), _KEYS)
            self._choices = self.folder.read_choices()
            self._overrides = self.folder.read_overrides()
        except UNREADABLE:
            self._signatures.pop("config", None)  # Hydra may be writing these files at this moment

    def _read_result(self) -> None:
        try:
            result = self.folder.read_result()
            self.result = result if isinstance(result.get("metrics"), dict) else {}
        except UNREADABLE:
            self.result = {}
        self.result_seconds = self._changed_at("result") if self.result else None

    def read_history(self) -> None:
        """Read the rows of epochs that are new in ``metrics.csv``; a damaged line becomes a note in the record."""
        self._note = None
        try:
            self.history.update()
        except (OSError, RunError) as error:
            self._note = str(error)
        if self.history.generation != self._read_history_generation:
            # Rows were taken back, so what was seen before says nothing about the pace.
            self._read_history_generation, self._first_seen = self.history.generation, None

    def _status(self, locked: frozenset[int] | None, now: float) -> str:
        alive = self._is_alive(locked, now)
        # A population holds the folders of its members locked until all of them have ended, so a result that is newer
        # than the lock says that the run has ended. An older one belongs to an earlier attempt.
        current = self.result and (self._changed_at("result") or 0.0) >= (self._changed_at("lock") or 0.0)
        if self.result and (current or not alive):
            return str(self.result.get("status", "unfinished"))
        return "running" if alive else "unfinished"

    def _is_alive(self, locked: frozenset[int] | None, now: float) -> bool:
        """Whether a process works on the run; if only another machine could tell, whether it did a short while ago."""
        lock = self._signatures.get("lock")
        if lock is None:
            return False
        if locked is not None and lock[2] in locked:
            self._seen_locked = True
            return True
        if self._seen_locked:
            return False
        silent = max(_SILENT_SECONDS, _SILENT_EPOCHS * (self._epoch_seconds() or 0.0))
        return now - (self._changed_ns or 0) / 1e9 < silent

    # What the page shows ----------------------------------------------------------------------------------------------

    def _epoch_seconds(self) -> float | None:
        """How long an epoch takes, everything included; None before the first one has ended."""
        rows, ended_at = self.history.rows, self._changed_at("metrics")
        if not rows or ended_at is None:
            return None
        if self._first_seen is not None and len(rows) > self._first_seen[0] > 0:
            return (ended_at - self._first_seen[1]) / (len(rows) - self._first_seen[0])
        # The training time leaves out validation and checkpoints, and in a population it is only the member's share.
        trained = statistics.median(row.values.get("train_seconds", 0.0) for row in rows[-_LAST_EPOCHS:])
        locked_at = self._changed_at("lock")
        return max(trained, 0.0 if locked_at is None else (ended_at - locked_at) / len(rows))

    def ends_at(self) -> float | None:
        """When a running run will end at its pace, in seconds since 1970; early stopping can end it before."""
        seconds, ended_at = self._epoch_seconds(), self._changed_at("metrics")
        if self.ended or seconds is None or ended_at is None or self.max_epochs is None:
            return None
        return ended_at + seconds * (self.max_epochs - self.epochs)

    @property
    def value(self) -> float | None:
        """The monitored value of the result, or else the best one so far."""
        measured = self.result.get("metrics", {}).get(self.metric)
        if measured is not None and self.ended:
            return float(measured)
        values = [value for _, value in self.monitored_curve() if value == value]  # nan differs from itself
        return (min if metric_direction(self.metric) == "min" else max)(values, default=None)

    def monitored_curve(self) -> list[tuple[int, float]]:
        """The monitored metric by epoch."""
        metric = self.metric
        return [(row.epoch, row.values[metric]) for row in self.history.rows if metric in row.values]

    def _describe(self) -> bool:
        """Build ``record`` again; return whether it differs from the one before."""
        before, self.record = self.record, self._record()
        return before != self.record

    def _record(self) -> dict[str, Any]:
        result, last = self.result, self.history.rows[-1].values if self.history.rows else {}
        overrides = list(self.entry.overrides if self.entry is not None else self._overrides)
        seconds = result.get("train_seconds")
        if seconds is None:
            seconds = sum(row.values.get("train_seconds", 0.0) for row in self.history.rows)
        return {
            "id": self.name,
            "number": None if self.entry is None else self.entry.number,
            "status": self.status,
            "error": result.get("error") if self.ended else None,
            "note": self._note,
            "data": self._choices.get("data"),
            "model": self._choices.get("model"),
            "population": self.entry is not None and self._choices.get("hydra/launcher") == "vectorized",
            "seed": self._settings.get("seed"),
            "overrides": overrides,
            "epochs": self.epochs,
            "max_epochs": self.max_epochs,
            "metric": self.metric,
            "direction": metric_direction(self.metric),
            "value": self.value,
            "test": result.get("metrics", {}).get("test/accuracy"),
            "lr": None if self.ended else last.get("lr"),
            # The overview draws single runs that train. The curves of a sweep are sent to pages that show the sweep.
            "curve": [] if self.ended or self.entry is not None else thinned(self.monitored_curve(), _SMALL_POINTS),
            "train_seconds": seconds,
            "best_epoch": result.get("best_epoch"),
            "halved_after_epoch": result.get("halved_after_epoch"),
            "ends_at": self.ends_at(),
            "changed_at": self._changed_at("result") or self._changed_at("metrics") or self._changed_at("config"),
            "report": self._signatures.get("report") is not None,
        }


def thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Return at most ``most`` points: the means of as many neighbours as it takes; each has the x of its last one."""
    size = -(-len(points) // most)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def row_record(row: EpochRow) -> dict[str, float]:
    """The metrics of an epoch for the page."""
    return {"epoch": row.epoch, "step": row.step} | dict(row.values)

"""Follows one run folder for the page of ``digitlab watch``: its state, its metrics so far, the time left.

``watch.laboratory`` has one ``WatchedRun`` for each run folder.
"""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import RunError
from digitlab.results.config_scan import scan_config
from digitlab.results.folder import RunFolder
from digitlab.results.history import GrowingHistory
from digitlab.results.outcome import UNREADABLE, measured_metric, unreadable_reason
from digitlab.sweeps.manifest import Entry
from digitlab.watch.curves import thinned
from digitlab.watch.tree import is_settled

# The name of the report that ``digitlab report`` writes into a folder.
REPORT = "report.html"
_KEYS = ("monitor.metric", "trainer.max_epochs", "data.val_size", "seed")
# If the system does not list its locks, or the run trains on another machine, a run counts as training until its folder
# has not changed for this many seconds, or for the time of this many epochs if that is longer.
_SILENT_SECONDS, _SILENT_EPOCHS = 90.0, 3.0
_SMALL_POINTS = 60  # The number of points of a curve in the overview.
_LAST_EPOCHS = 5  # The training time of an epoch is the median over this many epochs.

# The time of change of a file in ns since 1970, its size and its inode; None if it does not exist.
_Signature = tuple[int, int, int] | None


class WatchedRun:
    """One run folder. ``update`` reads what has changed in it, and ``record`` describes it for the page.

    ``name`` is the path of the folder relative to the root, with slashes; ``parent`` is the folder around it.
    ``entry`` is its entry in the manifest, the list of the runs of its sweep, or None. The laboratory sets ``version``
    to its own version when the record changes.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.folder, self.name, self.parent = RunFolder(path), name, str(path.parent)
        self.history = GrowingHistory(self.folder)
        self.entry: Entry | None = None
        self.status = "unfinished"
        self.result: Mapping[str, Any] = {}
        self.result_written_at: float | None = None
        self.version = 0
        self.record: dict[str, Any] = {}
        self._settings: dict[str, str] = {}
        self._choices: Mapping[str, str] = {}
        self._overrides: Sequence[str] = ()
        self._notes: dict[str, str] = {}  # what is wrong with a file, by its name; empty if nothing
        # The time of change of the folder when it was last read, in ns since 1970, and the result of ``is_settled``.
        self._changed_ns: int | None = None
        self._settled = False
        # The signatures of the files when they were last read, by a short name.
        self._signatures: dict[str, _Signature] = {}
        self._seen_locked = False  # whether this machine has listed the lock of the run
        # The number of epochs when the run was first seen to train, and when the last of them ended (s since 1970).
        self._first_seen: tuple[int, float] | None = None
        # The generation of ``history`` to which ``_first_seen`` belongs.
        self._history_generation = -1

    @property
    def ended(self) -> bool:
        """Whether no process seems to train the run."""
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
        """The metric that the run monitors; without a validation set, the one that takes its place."""
        metric = self._settings.get("monitor.metric", "val/accuracy")
        if metric in self.result.get("metrics", {}):
            return metric
        return measured_metric(metric, val_size=0 if self._settings.get("data.val_size") == "0" else None)

    def update(self, locked: frozenset[int] | None, now: float) -> bool:
        """Read what has changed in the folder; return whether ``record`` has changed.

        ``locked`` are the inodes of locked files, None if they are not known; ``now`` is in seconds since 1970. Raises
        ``FileNotFoundError`` if the folder is gone.
        """
        changed_ns = os.stat(self.folder.path).st_mtime_ns
        # The files that matter change only by being created, removed, or replaced by a new file. Each of these changes
        # the folder's own time, so one system call finds out that nothing is new.
        folder_changed = changed_ns != self._changed_ns or not self._settled
        if folder_changed:
            self._changed_ns, self._settled = changed_ns, is_settled(changed_ns)
            self._read_changes()
        status_before, self.status = self.status, self._status(locked, now)
        if self.ended:
            self._first_seen = None
        elif self._first_seen is None:
            self._first_seen = (self.epochs, self._changed_at("metrics") or now)
        return (folder_changed or status_before != self.status) and self._describe()

    def assign(self, entry: Entry | None) -> bool:
        """Set the entry of the run in the manifest of its sweep; return whether ``record`` has changed."""
        if entry == self.entry:
            return False
        self.entry = entry
        return self._describe()

    def _read_changes(self) -> None:
        """Read the files that have changed."""
        run = self.folder
        if self._update_signature("config", run.config):
            self._read_configuration()
        # The contents of these two files are not needed.
        self._update_signature("lock", run.lock)
        self._update_signature("report", run.path / REPORT)
        if self._update_signature("result", run.result):
            self._read_result()
        # The curves of a finished run are read when a page shows them, or when another command trains it further.
        finished = self.result.get("status") == "finished" and self._signatures["lock"] is None
        if not finished and self._update_signature("metrics", run.metrics):
            self.read_history()

    def _update_signature(self, name: str, path: Path) -> bool:
        """Store the signature of a file under ``name``; return whether the file has changed since the last call."""
        try:
            stat = os.stat(path)
            signature: _Signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            signature = None
        changed = name not in self._signatures or self._signatures[name] != signature
        self._signatures[name] = signature
        return changed

    def _changed_at(self, name: str) -> float | None:
        """Return when a file last changed, in seconds since 1970; None if it does not exist."""
        signature = self._signatures.get(name)
        return None if signature is None else signature[0] / 1e9

    def _read_configuration(self) -> None:
        try:
            self._settings = scan_config(self.folder.config.read_text(encoding="utf-8"), _KEYS)
            self._choices = self.folder.read_choices()
            self._overrides = self.folder.read_overrides()
        except UNREADABLE:
            self._signatures.pop("config", None)  # Hydra may be writing the files, so the next update reads them again

    def _read_result(self) -> None:
        try:
            result = self.folder.read_result()
            self.result, self._notes["result"] = result | {"metrics": dict(result["metrics"])}, ""
        except UNREADABLE as error:
            exists = self.folder.result.exists()  # a run that resumes removes the result of its last attempt
            self.result, self._notes["result"] = {}, unreadable_reason(error) if exists else ""
        self.result_written_at = self._changed_at("result") if self.result else None

    def read_history(self) -> None:
        """Read the new rows of ``metrics.csv``, one for each epoch. A damaged line becomes a note in the record."""
        self._notes["metrics"] = ""
        try:
            self.history.update()
        except (OSError, RunError) as error:
            self._notes["metrics"] = str(error)
        if self.history.generation != self._history_generation:
            # The run has resumed from an earlier epoch or started again, so the pace is measured anew.
            self._history_generation, self._first_seen = self.history.generation, None

    def _status(self, locked: frozenset[int] | None, now: float) -> str:
        alive = self._is_alive(locked, now)
        # Runs that are trained together (a population) keep their folders locked until all of them have ended, so a
        # result that is newer than the lock says that the run has ended. An older one belongs to an earlier attempt.
        is_current = self.result and (self._changed_at("result") or 0.0) >= (self._changed_at("lock") or 0.0)
        if self.result and (is_current or not alive):
            return str(self.result.get("status", "unfinished"))
        return "running" if alive else "unfinished"

    def _is_alive(self, locked: frozenset[int] | None, now: float) -> bool:
        """Whether a process works on the run.

        This machine knows only its own locks. If it has never seen the run locked, the run may train on another
        machine. Then it counts as alive if its folder has changed a short while ago.
        """
        lock = self._signatures.get("lock")
        if lock is None:
            return False
        if locked is not None and lock[2] in locked:
            self._seen_locked = True
            return True
        if self._seen_locked:
            return False
        allowed_seconds = max(_SILENT_SECONDS, _SILENT_EPOCHS * (self._epoch_seconds() or 0.0))
        return now - (self._changed_ns or 0) / 1e9 < allowed_seconds

    # What the page shows ----------------------------------------------------------------------------------------------

    def _epoch_seconds(self) -> float | None:
        """Return how long an epoch takes with validation and checkpoints; None before the first one has ended."""
        rows, last_epoch_at = self.history.rows, self._changed_at("metrics")
        if not rows or last_epoch_at is None:
            return None
        if self._first_seen is not None and len(rows) > self._first_seen[0] > 0:
            return (last_epoch_at - self._first_seen[1]) / (len(rows) - self._first_seen[0])
        # The training time leaves out validation and checkpoints, and in a population it is only the share of this run.
        # The mean time since the run was locked includes everything, but is too short if the run has resumed.
        training_seconds = statistics.median(row.values.get("train_seconds", 0.0) for row in rows[-_LAST_EPOCHS:])
        locked_at = self._changed_at("lock")
        return max(training_seconds, 0.0 if locked_at is None else (last_epoch_at - locked_at) / len(rows))

    def ends_at(self) -> float | None:
        """Return when a run that trains will end, in seconds since 1970; None if that is not known.

        The estimate assumes that all epochs take the same time. Early stopping can end the run sooner.
        """
        epoch_seconds, last_epoch_at = self._epoch_seconds(), self._changed_at("metrics")
        if self.ended or epoch_seconds is None or last_epoch_at is None or self.max_epochs is None:
            return None
        return last_epoch_at + epoch_seconds * (self.max_epochs - self.epochs)

    @property
    def value(self) -> float | None:
        """The monitored value in the result of a run that has ended, or else the best one so far."""
        final_value = self.result.get("metrics", {}).get(self.metric)
        if final_value is not None and self.ended:
            return float(final_value)
        values = [value for _, value in self.monitored_curve() if not math.isnan(value)]
        return (min if metric_direction(self.metric) == "min" else max)(values, default=None)

    def monitored_curve(self) -> list[tuple[int, float]]:
        """Return the epochs, counted from 1, and the values of the monitored metric."""
        metric = self.metric
        return [(row.epoch, row.values[metric]) for row in self.history.rows if metric in row.values]

    def _describe(self) -> bool:
        """Make ``record`` again; return whether it has changed."""
        record_before, self.record = self.record, self._record()
        return record_before != self.record

    def _record(self) -> dict[str, Any]:
        result, last_epoch = self.result, self.history.rows[-1].values if self.history.rows else {}
        overrides = list(self.entry.overrides if self.entry is not None else self._overrides)
        seconds = result.get("train_seconds")
        if seconds is None:
            seconds = sum(row.values.get("train_seconds", 0.0) for row in self.history.rows)
        return {
            "id": self.name,
            "number": None if self.entry is None else self.entry.number,
            "status": self.status,
            "error": result.get("error") if self.ended else None,
            "note": "; ".join(filter(None, self._notes.values())) or None,
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
            "lr": None if self.ended else last_epoch.get("lr"),
            # The overview draws single runs that train. The curves of a sweep are sent to pages that show the sweep.
            "curve": [] if self.ended or self.entry is not None else thinned(self.monitored_curve(), _SMALL_POINTS),
            "train_seconds": seconds,
            "best_epoch": result.get("best_epoch"),
            "halved_after_epoch": result.get("halved_after_epoch"),
            "ends_at": self.ends_at(),
            "changed_at": self._changed_at("result") or self._changed_at("metrics") or self._changed_at("config"),
            "report": self._signatures.get("report") is not None,
        }

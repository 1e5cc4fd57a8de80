"""Follows one sweep for the page of ``digitlab watch``: its manifest, the number of runs to come, the time left.

``watch.laboratory`` has one ``WatchedSweep`` for each sweep.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digitlab.core.errors import DigitlabError
from digitlab.sweeps.manifest import Entry, Manifest, manifest_file
from digitlab.sweeps.planned import command_file, planned_jobs
from digitlab.sweeps.session import LOCK_NAME
from digitlab.watch.run import REPORT, WatchedRun


class WatchedSweep:
    """One sweep. ``read_manifest`` and ``update`` read what has changed, and ``record`` describes it for the page.

    The manifest is the file that lists the runs of the sweep; ``entries`` are its entries, by the names of the run
    folders. ``version`` is the number of the scan in which ``record`` last changed; the laboratory sets it, so that a
    page can ask for what is newer.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.entries: dict[str, Entry] = {}
        self.version = 0
        self.record: dict[str, Any] = {}
        self._keys: Sequence[str] = ()
        self._halving = False
        self._note: str | None = None
        # The time of change of the manifest that was read last, in ns since 1970.
        self._manifest_changed_ns: int | None = None
        # The start of the last command in seconds since 1970, and what it plans: the overrides of each job, or, for a
        # search, the number of runs; None if that is not known. Both are read only while the sweep runs.
        self._planned: tuple[float, set[tuple[str, ...]] | int | None] | None = None

    @property
    def running(self) -> bool:
        return bool(self.record.get("running"))

    def read_manifest(self) -> bool:
        """Read the manifest if it has changed; return whether the entries or the note on an error have changed."""
        try:
            changed_ns = os.stat(manifest_file(self.path)).st_mtime_ns
            if changed_ns == self._manifest_changed_ns:
                return False
            manifest = Manifest.read(self.path)
        except (OSError, DigitlabError) as error:
            note_changed, self._note = self._note != str(error), str(error)
            return note_changed
        self._manifest_changed_ns, self._note = changed_ns, None
        self.entries = {entry.folder: entry for entry in manifest.runs}
        self._keys, self._halving = manifest.keys, manifest.halving
        return True

    def update(self, runs: Sequence[WatchedRun], locked: frozenset[int] | None, now: float) -> bool:
        """Describe the sweep with its ``runs``; return whether ``record`` has changed.

        Call ``read_manifest`` before. ``locked`` are the inodes of locked files, None if they are not known: a running
        command locks a file of its sweep. ``now`` is in seconds since 1970.
        """
        running = [run for run in runs if not run.ended]
        alive = bool(running) or self._is_locked(locked)
        to_come = len(self.entries.keys() - {run.folder.path.name for run in runs})
        if alive:
            to_come += self._not_in_manifest()
        record = {
            "id": self.name,
            "running": alive,
            "keys": list(self._keys),
            "halving": self._halving,
            "waiting": to_come,
            "ends_at": self._ends_at(runs, running, to_come, now) if alive else None,
            "report": (self.path / REPORT).exists(),
            "note": self._note,
        }
        changed, self.record = record != self.record, record
        return changed

    def _is_locked(self, locked: frozenset[int] | None) -> bool:
        try:
            return locked is not None and os.stat(self.path / LOCK_NAME).st_ino in locked
        except OSError:
            return False

    def _started_at(self) -> float | None:
        """Return when the last command of the sweep started, in seconds since 1970; None if its file is missing."""
        try:
            return os.stat(command_file(self.path)).st_mtime
        except OSError:
            return None

    def _not_in_manifest(self) -> int:
        """Return how many runs the running command plans that are not in the manifest yet."""
        started_at = self._started_at()
        if started_at is None:
            return 0
        if self._planned is None or self._planned[0] != started_at:
            self._planned = started_at, planned_jobs(self.path)
        planned = self._planned[1]
        # A search plans a number of runs; it has not chosen their overrides yet.
        if isinstance(planned, int):
            return max(planned - len(self.entries), 0)
        known = {tuple(entry.overrides) for entry in self.entries.values()}
        return 0 if planned is None else len(planned - known)

    def _ends_at(
        self, runs: Sequence[WatchedRun], running: Sequence[WatchedRun], to_come: int, now: float
    ) -> float | None:
        """Return when the sweep will end, in seconds since 1970; None if that is not known.

        If all runs that are left are training, the sweep ends with the last of them. Otherwise the estimate assumes
        that the runs to come take as long as those that this command has trained.
        """
        started_at = self._started_at()
        ends = [run.ends_at() for run in running]
        if not to_come and ends and None not in ends:
            return max(end for end in ends if end is not None)
        if started_at is None:
            return None
        # A result that was written before the command started belongs to an earlier command.
        ended = sum(run.ended and (run.result_written_at or 0.0) >= started_at for run in runs)
        parts = [run.trained_part for run in running]
        # Both are in runs. A run that trains counts with its trained part in the first and with the rest in the second.
        trained_runs, runs_left = ended + sum(parts), to_come + sum(1 - part for part in parts)
        return now + (now - started_at) / trained_runs * runs_left if trained_runs > 0 else None

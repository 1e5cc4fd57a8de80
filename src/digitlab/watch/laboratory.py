"""Follows all runs and sweeps under a folder, and says what has changed since a page asked last."""

import math
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from digitlab.core.locks import locked_inodes
from digitlab.results.growing_losses import GrowingLosses
from digitlab.watch.run import WatchedRun, row_record, thinned
from digitlab.watch.sweep import WatchedSweep
from digitlab.watch.tree import RunTree

# No look at the folders comes sooner after the last one, however many pages are open. After a look that took long,
# the pause is longer, so that looking takes at most this part of a processor core.
_PAUSE_SECONDS, _LOOKING_PART = 0.5, 0.03
# Reading many runs for the first time is divided into looks of this length, so that the page shows the first ones soon.
_FIRST_READ_SECONDS = 0.25
# Runs that have ended change seldom: all of them are looked at within this many looks, or this many in each.
_ENDED_LOOKS, _ENDED_RUNS = 10, 100
# More points would not be visible in a chart with the curves of a whole sweep, or in that of the losses.
_CURVE_POINTS, _LOSS_POINTS = 100, 400


class Laboratory:
    """All runs and sweeps under ``root``. It looks at the folders only while somebody asks.

    ``version`` counts the looks that found a change; each run and sweep notes the version of its last change.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.version = 0
        self._tree = RunTree(root)
        self._runs: dict[str, WatchedRun] = {}
        self._sweeps: dict[str, WatchedSweep] = {}
        self._removed: dict[str, int] = {}
        self._unread: list[str] = []
        self._next_ended = 0
        self._losses: tuple[str, GrowingLosses] | None = None
        self._next_look = 0.0
        self._lock = threading.Lock()

    # Looking at the folders -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look for changes, unless the last look was a moment ago."""
        if time.monotonic() < self._next_look and not self._unread:
            return
        begun = time.thread_time()
        self.version += 1
        self._find()
        locked, now = locked_inodes(), time.time()
        for path in self._due():
            self._look_at(path, locked, now)
        spent = time.thread_time() - begun
        # New runs are read only once, so the time for them does not delay the next look.
        self._read_new(locked, now)
        begun = time.thread_time()
        self._look_at_sweeps(locked, now)
        spent += time.thread_time() - begun
        self._next_look = time.monotonic() + max(_PAUSE_SECONDS, spent / _LOOKING_PART)

    def _find(self) -> None:
        """Note the runs and sweeps that have come or gone since the last look."""
        tree = self._tree
        tree.update()
        gone = self._runs.keys() - tree.runs
        for path in gone:
            self._forget(path)
        self._unread = [path for path in self._unread if path in tree.runs]
        known = self._runs.keys() | set(self._unread)
        # The newest folders are read first: their names begin with the date.
        self._unread += sorted(tree.runs - known)
        for path in self._sweeps.keys() - set(tree.sweeps):
            self._removed[self._sweeps.pop(path).name] = self.version
        for path in tree.sweeps:
            if path not in self._sweeps:
                self._sweeps[path] = WatchedSweep(Path(path), self._name(path))

    def _forget(self, path: str) -> None:
        self._removed[self._runs.pop(path).name] = self.version

    def _name(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def _due(self) -> list[str]:
        """Return the runs to look at now: all that train, and some of those that have ended."""
        ended = [path for path, run in self._runs.items() if run.ended]
        count = max(-(-len(ended) // _ENDED_LOOKS), _ENDED_RUNS)
        start = self._next_ended if self._next_ended < len(ended) else 0
        self._next_ended = start + count
        return [path for path, run in self._runs.items() if not run.ended] + ended[start : start + count]

    def _read_new(self, locked: frozenset[int] | None, now: float) -> None:
        until = time.monotonic() + _FIRST_READ_SECONDS
        while self._unread and time.monotonic() < until:
            self._look_at(self._unread.pop(), locked, now)

    def _look_at(self, path: str, locked: frozenset[int] | None, now: float) -> None:
        run = self._runs.get(path)
        if run is None:
            run = self._runs[path] = WatchedRun(Path(path), self._name(path))
        try:
            if run.update(locked, now):
                run.version = self.version
        except OSError:
            self._forget(path)

    def _look_at_sweeps(self, locked: frozenset[int] | None, now: float) -> None:
        members: dict[str, list[WatchedRun]] = {}
        for run in self._runs.values():
            members.setdefault(run.parent, []).append(run)
        for path, sweep in self._sweeps.items():
            runs, changed = members.get(path, []), sweep.read_manifest()
            changed = changed or any(run.version == self.version for run in runs)
            if not (changed or sweep.running or self.version % _ENDED_LOOKS == 0):
                continue
            for run in runs:
                if run.assign(sweep.entries.get(run.folder.path.name)):
                    run.version = self.version
            if sweep.update(runs, locked, now):
                sweep.version = self.version

    # Answering a page -------------------------------------------------------------------------------------------------

    def changes(
        self,
        *,
        since: int = 0,
        run: str = "",
        rows: int = 0,
        generation: int = -1,
        losses: int = 0,
        sweep: str = "",
        drawn: int = 0,
    ) -> dict[str, Any]:
        """Look for changes, and return those after version ``since`` as plain values for JSON.

        ``run`` is the run whose curves the page shows: the answer holds the epochs after the first ``rows``, or all if
        rows of ``generation`` have changed, and the losses unless there are still ``losses`` of them. ``sweep`` is the
        sweep whose curves the page shows: the answer holds those that have changed after version ``drawn``.
        """
        with self._lock:
            self.look()
            answer: dict[str, Any] = {
                "version": self.version, "now": time.time(), "root": str(self.root), "unread": len(self._unread),
                "runs": [self._run_record(each) for each in self._runs.values() if each.version > since],
                "sweeps": [each.record for each in self._sweeps.values() if each.version > since],
                "removed": [name for name, version in self._removed.items() if version > since],
            }  # fmt: skip
            if run:
                answer["run"] = self._run_curves(run, rows, generation, losses)
            if sweep:
                answer["curves"] = self._sweep_curves(sweep, drawn)
            finite: dict[str, Any] = _finite(answer)
            return finite

    def _run_record(self, run: WatchedRun) -> dict[str, Any]:
        sweep = self._sweeps.get(run.parent)
        return run.record | {"sweep": None if sweep is None else sweep.name}

    def _run_curves(self, name: str, rows: int, generation: int, losses: int) -> dict[str, Any] | None:
        run = next((each for each in self._runs.values() if each.name == name), None)
        if run is None:
            return None
        if run.ended:
            run.read_history()
        if self._losses is None or self._losses[0] != name:
            self._losses = name, GrowingLosses(run.folder)
        reader = self._losses[1]
        with suppress(OSError):  # a run that starts again removes its files
            reader.update()
        first = rows if generation == run.history.generation else 0
        return {
            "id": name, "generation": run.history.generation, "first": first,
            "rows": [row_record(row) for row in run.history.rows[first:]],
            "losses": None if len(reader.losses) == losses else thinned(list(reader.losses.items()), _LOSS_POINTS),
            "loss_count": len(reader.losses),
        }  # fmt: skip

    def _sweep_curves(self, name: str, drawn: int) -> dict[str, Any]:
        path = next((path for path, sweep in self._sweeps.items() if sweep.name == name), None)
        curves = {}
        for run in self._runs.values():
            if run.parent == path and run.version > drawn:
                if run.ended and not run.history.rows:
                    run.read_history()
                curves[run.name] = thinned(run.monitored_curve(), _CURVE_POINTS)
        return {"id": name, "curves": curves}


def _finite(value: Any) -> Any:
    """Return ``value`` with None for each number that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Follows all runs and sweeps under a folder, and tells pages what has changed since they asked last.

``watch.server`` calls ``Laboratory.changes`` for each question of a page in a browser, about once a second.
"""

import math
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from digitlab.core.locks import locked_inodes
from digitlab.results.growing_losses import GrowingLosses
from digitlab.watch.curves import row_record, thinned
from digitlab.watch.run import WatchedRun
from digitlab.watch.sweep import WatchedSweep
from digitlab.watch.tree import RunTree

# A scan reads what is new in the folders. The next one starts after this pause at the earliest, however many pages are
# open. If a scan takes long, the pause is longer, so that scans use at most this part of the time of a processor core.
_PAUSE_SECONDS, _SCANNING_PART = 0.5, 0.03
# A scan reads new runs for this long at most, and the next scans read the others, so a page shows the first ones soon.
_FIRST_READ_SECONDS = 0.25
# Runs that have ended seldom change. Each scan checks at least this many of them, or more if all of them could not be
# checked within ten scans.
_MIN_ENDED_RUNS, _SCANS_FOR_ENDED_RUNS = 100, 10
# More points would not be visible in the chart with all curves of a sweep, or in the chart with the losses of a run.
_CURVE_POINTS, _LOSS_POINTS = 100, 400


class Laboratory:
    """All runs and sweeps under ``root``. It scans the folders only when a page asks for changes.

    ``version`` counts the scans. Each run and sweep stores the version in which it last changed. A page sends the
    version of its data and gets only what has changed since.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.version = 0
        self._tree = RunTree(root)
        self._runs: dict[str, WatchedRun] = {}
        self._sweeps: dict[str, WatchedSweep] = {}
        # The versions in which runs and sweeps were removed, by name.
        self._removed: dict[str, int] = {}
        # The paths of runs that no scan has read yet; the last one is read first.
        self._unread: list[str] = []
        # The number of the first run that the next scan checks, in the list of runs that have ended.
        self._next_ended = 0
        # The run whose losses were asked for last, with their reader. Only one is stored, because each takes memory.
        self._losses: tuple[str, GrowingLosses] | None = None
        self._next_scan_at = 0.0
        self._lock = threading.Lock()

    # Scanning the folders ---------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        """Look for changes, unless the last scan was a moment ago."""
        if time.monotonic() < self._next_scan_at and not self._unread:
            return
        started = time.thread_time()  # seconds of processor time
        self.version += 1
        self._find_folders()
        locked, now = locked_inodes(), time.time()
        for path in self._runs_to_check():
            self._update_run(path, locked, now)
        seconds = time.thread_time() - started
        # New runs are read only once, so the time for them does not delay the next scan.
        self._read_new_runs(locked, now)
        started = time.thread_time()
        self._update_sweeps(locked, now)
        seconds += time.thread_time() - started
        self._next_scan_at = time.monotonic() + max(_PAUSE_SECONDS, seconds / _SCANNING_PART)

    def _find_folders(self) -> None:
        """Add the runs and sweeps that are new since the last scan, and remove those whose folders are gone."""
        tree = self._tree
        tree.update()
        gone = self._runs.keys() - tree.runs
        for path in gone:
            self._forget(path)
        self._unread = [path for path in self._unread if path in tree.runs]
        known = self._runs.keys() | set(self._unread)
        # In ascending order, because the last one is read first: the names begin with the date, so it is the newest.
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

    def _runs_to_check(self) -> list[str]:
        """Return the runs that this scan checks: all that train, and some of those that have ended."""
        ended = [path for path, run in self._runs.items() if run.ended]
        count = max(math.ceil(len(ended) / _SCANS_FOR_ENDED_RUNS), _MIN_ENDED_RUNS)
        start = self._next_ended if self._next_ended < len(ended) else 0
        self._next_ended = start + count
        return [path for path, run in self._runs.items() if not run.ended] + ended[start : start + count]

    def _read_new_runs(self, locked: frozenset[int] | None, now: float) -> None:
        deadline = time.monotonic() + _FIRST_READ_SECONDS
        while self._unread and time.monotonic() < deadline:
            self._update_run(self._unread.pop(), locked, now)

    def _update_run(self, path: str, locked: frozenset[int] | None, now: float) -> None:
        run = self._runs.get(path)
        if run is None:
            run = self._runs[path] = WatchedRun(Path(path), self._name(path))
        try:
            if run.update(locked, now):
                run.version = self.version
        except OSError:
            self._forget(path)  # the folder was removed during this scan

    def _update_sweeps(self, locked: frozenset[int] | None, now: float) -> None:
        runs_by_folder: dict[str, list[WatchedRun]] = {}
        for run in self._runs.values():
            runs_by_folder.setdefault(run.parent, []).append(run)
        for path, sweep in self._sweeps.items():
            runs, changed = runs_by_folder.get(path, []), sweep.read_manifest()
            changed = changed or any(run.version == self.version for run in runs)
            # A sweep that does not run seldom changes, for example when its report is written.
            if not (changed or sweep.running or self.version % _SCANS_FOR_ENDED_RUNS == 0):
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

        A page that shows the curves of a run gives its name as ``run`` and says what it has of them: the first
        ``rows`` epochs, the ``generation`` of the history from which they came, and a number of ``losses``. A history
        gets a new generation if the run resumes from an earlier epoch or starts again. The answer has only the epochs
        after these rows, or all of them if the generation has changed; it has no losses if their number is the same.

        A page that shows the curves of a sweep gives its name as ``sweep``, and ``drawn``, the version of its curves.
        The answer has the curves that have changed since then.
        """
        with self._lock:
            self._scan()
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
            finite_answer: dict[str, Any] = _without_infinities(answer)
            return finite_answer

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


def _without_infinities(value: Any) -> Any:
    """Return ``value`` with None for each infinity and nan, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_infinities(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

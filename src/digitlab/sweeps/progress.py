"""The progress line of a running sweep: runs done, failed and left, the best run so far, the time left.

``sweeps.session`` shows it. It reads the run folders, so it works with every launcher and for runs in other processes.
The manifest, the list of the sweep's runs, says which folders these are.
"""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from digitlab.config.metrics import metric_direction
from digitlab.core.durations import duration
from digitlab.core.errors import DigitlabError
from digitlab.core.notebook import NotebookLine, in_notebook
from digitlab.results.config_scan import scan_config
from digitlab.results.folder import RunFolder
from digitlab.sweeps.manifest import Manifest
from digitlab.sweeps.state import SweepRun, read_run

if TYPE_CHECKING:
    from rich.console import Console

_REFRESH_SECONDS = 0.5
# At most this part of the time is spent on reading: with thousands of unfinished runs, or on a slow file system, the
# line is drawn less often.
_READING_PART = 0.05
_MAX_EPOCHS = "trainer.max_epochs"


class SweepProgress:
    """Counts the runs of the sweep in ``path`` that have ended.

    ``jobs`` are the overrides of the runs in the command. For a search they are None, because it has not chosen them
    yet; then all runs of the sweep count and ``planned_runs`` is their planned number. Call ``update`` first; the
    properties then describe the sweep as it was at the last update.
    """

    def __init__(self, path: Path, jobs: Sequence[Sequence[str]] | None, planned_runs: int | None = None) -> None:
        self.path = path
        self.jobs = None if jobs is None else {tuple(job) for job in jobs}
        self.total = planned_runs if self.jobs is None else len(self.jobs)
        self.started_at = time.time()
        self._ended: dict[int, SweepRun] = {}
        # Both are by run number, with values in [0, 1]: the trained part of each unfinished run, and the part of each
        # run that was trained since this command started. The second gives the pace, so it leaves out earlier commands.
        self._unfinished_parts: dict[int, float] = {}
        self._trained_since_start: dict[int, float] = {}
        manifest = Manifest.read(path)
        # The trained part of each run before the first job starts. All later progress is due to this command.
        self._trained_before_start = {entry.number: _trained_part(manifest.folder(entry)) for entry in manifest.runs}

    def update(self) -> None:
        """Read the state of every run that had not ended before."""
        manifest = Manifest.read(self.path)
        for entry in manifest.runs:
            if entry.number in self._ended:
                continue  # each refresh reads only unfinished runs, so it stays fast
            if self.jobs is not None and tuple(entry.overrides) not in self.jobs:
                continue  # the run belongs to another command
            run = read_run(manifest.folder(entry), entry)
            ended_now = self._has_new_result(run)
            before = self._trained_before_start.get(entry.number, 0.0)
            # This command tries a run again that failed in an earlier command, so only a new failure ends it.
            if run.status == "finished" or (run.status == "failed" and ended_now):
                self._ended[entry.number] = run
                self._unfinished_parts.pop(entry.number, None)
                self._trained_since_start[entry.number] = 1 - before if ended_now else 0.0
            else:
                self._unfinished_parts[entry.number] = _trained_part(run.folder)
                self._trained_since_start[entry.number] = self._unfinished_parts[entry.number] - before

    def _has_new_result(self, run: SweepRun) -> bool:
        """Return whether the result was written since this command started."""
        return run.folder.result.exists() and run.folder.result.stat().st_mtime >= self.started_at

    @property
    def done(self) -> int:
        return sum(run.status == "finished" for run in self._ended.values())

    @property
    def failed(self) -> int:
        return len(self._ended) - self.done

    @property
    def left(self) -> int | None:
        return None if self.total is None else max(self.total - len(self._ended), 0)

    @property
    def best(self) -> SweepRun | None:
        """The finished run with the best value of the monitored metric so far."""
        finished = [run for run in self._ended.values() if run.value is not None and run.metric is not None]
        return max(finished, key=_score, default=None)

    def seconds_left(self, now: float) -> float | None:
        """Return the estimated time left at the pace since the command started; None before anything was trained.

        ``now`` is a time of ``time.time``.
        """
        trained_runs = sum(self._trained_since_start.values())
        if self.left is None or trained_runs <= 0:
            return None
        seconds_per_run = (now - self.started_at) / trained_runs
        # Parts of the runs that are left have been trained already.
        return seconds_per_run * (self.left - sum(self._unfinished_parts.values()))

    def text(self) -> str:
        """Return the text of the line, for example ``3 done · 0 failed · 5 left · 2 min 05 s left``."""
        words = [f"{self.done} done", f"{self.failed} failed"]
        words += [] if self.left is None else [f"{self.left} left"]
        if self.best is not None and self.best.value is not None:
            words.append(f"best single run: {self.best.entry.number}, {self.best.metric} {self.best.value:.4f}")
        seconds = self.seconds_left(time.time()) if self.left else None
        return " · ".join(words if seconds is None else [*words, f"{duration(seconds)} left"])


def _trained_part(folder: RunFolder) -> float:
    """Return the trained part of a run in [0, 1], by its epochs. Early stopping can end a run before it reaches 1."""
    try:
        max_epochs = scan_config(folder.config.read_text(encoding="utf-8"), [_MAX_EPOCHS]).get(_MAX_EPOCHS, "")
        # ``metrics.csv`` has a line for each epoch after its header.
        epochs = folder.metrics.read_bytes().count(b"\n") - 1
    except OSError:
        return 0.0
    return min(epochs / int(max_epochs), 1.0) if max_epochs.isdecimal() else 0.0


def _score(run: SweepRun) -> float:
    """Return the monitored value with the sign that makes higher better."""
    assert run.value is not None
    assert run.metric is not None
    return run.value if metric_direction(run.metric) == "max" else -run.value


class ProgressLine:
    """Draws the progress from its own thread: on stderr if that is a terminal, in a notebook below the cell."""

    def __init__(self, counts: SweepProgress) -> None:
        self._counts = counts
        self._stop_requested = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to draw. Nothing is drawn if stderr is neither a terminal nor a notebook."""
        if in_notebook():
            self._draw_in_notebook()
            return
        from rich.console import Console

        console = Console(file=sys.stderr)
        if console.is_terminal:
            # A daemon thread does not keep the process alive if the main thread crashes.
            self._thread = threading.Thread(target=self._draw, args=(console,), daemon=True)
            self._thread.start()

    def _draw(self, console: "Console") -> None:
        """Draw the line on a terminal until ``stop`` is called."""
        from rich.progress import BarColumn, Progress, TextColumn

        counts = self._counts
        # Without markup, because the name of a folder may contain brackets.
        name = TextColumn("{task.description}", markup=False)
        # A transient line disappears at the end. Then the table takes its place.
        columns = (name, BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
            task = progress.add_task(counts.path.name[:30], total=counts.total, text="")
            pause = _REFRESH_SECONDS
            while not self._stop_requested.wait(pause):
                reading_started = time.monotonic()
                try:
                    counts.update()
                except (OSError, DigitlabError):
                    continue  # another process may be writing; the next refresh reads again
                reading_seconds = time.monotonic() - reading_started
                pause = max(_REFRESH_SECONDS, reading_seconds / _READING_PART)
                progress.update(task, completed=counts.done + counts.failed, text=counts.text(), refresh=True)

    def _draw_in_notebook(self) -> None:
        counts, line = self._counts, NotebookLine()
        # Shown first by the thread of the cell, so that the notebook knows where the line belongs.
        line.show(counts.path.name)

        def draw() -> None:
            stop = False
            while not stop:
                # After the last wait, the line is drawn once more, because in a notebook it stays.
                stop = self._stop_requested.wait(_REFRESH_SECONDS)
                try:
                    counts.update()
                except (OSError, DigitlabError):
                    continue
                line.show(f"{counts.path.name}: {counts.text()}")

        self._thread = threading.Thread(target=draw, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop_requested.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

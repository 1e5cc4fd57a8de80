"""The sweep that this process runs: it locks the folder before the first job and prints the table at the end.

``api.preflight`` starts it, and ``cli.train`` or ``api.commands`` ends it. The jobs may run in this process or in
others.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, Timeout

from digitlab.core.errors import RunError
from digitlab.core.exit import ReportedExit
from digitlab.core.locks import acquire_lock
from digitlab.core.notebook import in_notebook
from digitlab.core.signals import RUNS_SAVED, Interrupted
from digitlab.sweeps.job_failures import SweepError
from digitlab.sweeps.manifest import create, run_overrides
from digitlab.sweeps.progress import ProgressLine, SweepProgress
from digitlab.sweeps.state import read_runs

# The file in the folder of a sweep that its command holds locked.
LOCK_NAME = ".running.lock"


class SweepSession:
    """A running sweep in ``path`` over ``keys``; ``jobs`` are the overrides of its jobs.

    For a search, ``jobs`` is None, because it has not chosen them yet, and ``planned_runs`` is the number of its runs.
    With ``halving``, the worse runs end early; the manifest, the file that lists the runs, stores this. With
    ``shared``, other processes may run this sweep too. With ``allow_divergence``, a run that diverges does not make the
    sweep fail.

    Raises ``RunError`` if another process runs this sweep or if its manifest is damaged.
    """

    def __init__(
        self,
        path: Path,
        keys: Sequence[str],
        jobs: Sequence[Sequence[str]] | None,
        *,
        planned_runs: int | None,
        halving: bool,
        shared: bool = False,
        allow_divergence: bool = False,
    ) -> None:
        self.path, self.allow_divergence = path, allow_divergence
        # Without overrides of ``sweep.*``, because the manifest stores jobs without them, and the two are compared.
        self.jobs = None if jobs is None else [tuple(run_overrides(job)) for job in jobs]
        self._lock: BaseFileLock | None = None
        if not shared:
            self._take_lock()
        # The lock comes first, so that a second command does not change the manifest of a running sweep.
        create(path, keys, halving=halving)
        self.line = ProgressLine(SweepProgress(path, self.jobs, planned_runs))

    def _take_lock(self) -> None:
        """Lock the folder of the sweep. Raises ``RunError`` if another process has locked it."""
        path = self.path
        # The kernel releases the lock however this process ends, so a killed sweep can be resumed at once.
        try:
            self._lock, _ = acquire_lock(path / LOCK_NAME, timeout=0)
        except Timeout:
            raise RunError(
                f"{path}: another process is running this sweep: wait for it, or start another with sweep.name=NAME"
            ) from None

    def close(self) -> None:
        self.line.stop()
        if self._lock is not None:
            self._lock.release()


# ``preflight`` starts the sweep and ``cli.train`` or ``api.commands`` ends it. Hydra runs in between and passes no
# object from one to the other, so the sweep is stored here. The list has at most one item.
_running: list[SweepSession] = []


def start_sweep(session: SweepSession) -> None:
    """Make ``session`` the sweep of this process until ``report_sweep_at_end`` ends it."""
    _running.append(session)
    session.line.start()


def running_path() -> list[Path]:
    """Return the folder of the sweep that this process runs as a list of one, or an empty list if there is none."""
    return [session.path for session in _running[:1]]


@contextmanager
def report_sweep_at_end() -> Iterator[None]:
    """Run the command in the ``with`` block. If it was a sweep, write and print its table at the end.

    Raises ``SweepError``, which names the failed runs, after all other runs have ended, and ``Interrupted`` after a
    signal between two runs. A run that receives a signal reports it itself.
    """
    try:
        try:
            yield
        except SweepError:
            # Hydra raises the error of the first failed job. The report below names all failed jobs instead.
            if not _running:
                raise
        except (KeyboardInterrupt, SystemExit) as stop:
            number = _signal_of(stop)
            if number is None or not _running:
                raise
            raise Interrupted(number, RUNS_SAVED) from None
        if _running:
            # The user also wants the table of the finished runs if others have failed.
            _report(_running[0])
    finally:
        while _running:
            # Stop the progress line and release the lock even if the report fails, for example on a full disk.
            _running.pop().close()


def _signal_of(stop: BaseException) -> int | None:
    """Return the number of the signal that raised ``stop``; None if there was none, or if it has been reported."""
    if isinstance(stop, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(stop, SystemExit) and not isinstance(stop, ReportedExit) and stop.code == 128 + signal.SIGTERM:
        return signal.SIGTERM
    return None


def _report(session: SweepSession) -> None:
    """Write and print the table of the sweep. Raises ``SweepError`` if a run of this command has failed."""
    from digitlab.sweeps.report import print_report, write_report
    from digitlab.sweeps.table import SweepTable

    # The progress line would draw over the table.
    session.line.stop()
    # Read from the folders and not from the returns of Hydra's jobs: so the table also has the runs of other processes
    # and of earlier commands, and runs that a launcher of another package trained.
    runs = read_runs(session.path)
    table = SweepTable(session.path.name, runs)
    try:
        write_report(table, session.path)
    finally:
        # Also on a full disk. A notebook shows the returned ``Sweep`` as a table.
        if not in_notebook():
            print_report(table)
            print(session.path)
    # Runs of earlier commands in the same folder may have failed too, but they are no failure of this command.
    command_runs = [run for run in runs if session.jobs is None or tuple(run.entry.overrides) in session.jobs]
    failed = [run for run in command_runs if run.status == "failed" and not (session.allow_divergence and run.diverged)]
    if failed:
        lines = [f"{session.path}: {len(failed)} of {len(command_runs)} jobs failed"]
        raise SweepError("\n  ".join([*lines, *(f"{run.entry.folder}: {run.error}" for run in failed)]))

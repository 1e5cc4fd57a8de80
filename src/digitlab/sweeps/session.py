"""The sweep that this process runs: from before its first job, when it takes hold of the folder, to its table.

``preflight`` begins it, ``train.py`` ends it; the jobs may run in this process or in others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from digitlab.core.errors import RunError
from digitlab.sweeps.job_failures import SweepError
from digitlab.sweeps.manifest import create, run_overrides
from digitlab.sweeps.progress import SweepLine, Tally
from digitlab.sweeps.state import read_runs


class Session:
    """A sweep under way in ``path``, over ``keys``; ``jobs`` are the overrides of its jobs.

    Of a search, whose jobs are not known, they are None, and ``most`` says how many there will be. ``halving`` is
    whether the worse ones are ended early.

    Raises ``RunError`` where another process is at work on the sweep or its manifest is damaged.
    """

    def __init__(
        self,
        path: Path,
        keys: Sequence[str],
        jobs: Sequence[Sequence[str]] | None,
        *,
        most: int | None,
        halving: bool,
    ) -> None:
        self.path = path
        self.jobs = None if jobs is None else [tuple(run_overrides(job)) for job in jobs]
        self._lock = FileLock(path / ".running.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunError(f"{path}: another process is at work on this sweep") from None
        create(path, keys, halving=halving)
        self.line = SweepLine(Tally(path, self.jobs, most))

    def close(self) -> None:
        self.line.stop()
        self._lock.release()


_running: list[Session] = []


def begin(session: Session) -> None:
    """Make this the sweep of the process, up to the table at its end."""
    _running.append(session)
    session.line.start()


@contextmanager
def concluded() -> Iterator[None]:
    """Around what may be a sweep: at its end the table is written and printed.

    Raises ``SweepError``, which names the runs that failed, when the others have come to their end.
    """
    try:
        try:
            yield
        except SweepError:
            if not _running:
                raise
        if _running:
            _conclude(_running[0])
    finally:
        while _running:
            _running.pop().close()


def _conclude(session: Session) -> None:
    from digitlab.sweeps.report import print_report, write_report
    from digitlab.sweeps.table import SweepTable

    session.line.stop()
    runs = read_runs(session.path)
    table = SweepTable(session.path.name, runs)
    write_report(table, session.path)
    print_report(table)
    print(session.path)
    own = [run for run in runs if session.jobs is None or tuple(run.entry.overrides) in session.jobs]
    failed = [run for run in own if run.status == "failed"]
    if failed:
        lines = [f"{session.path}: {len(failed)} of {len(own)} jobs failed"]
        raise SweepError("\n  ".join([*lines, *(f"{run.entry.folder}: {run.error}" for run in failed)]))

"""The work that one process of a sweep is given: one job, or the jobs of one population."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from digitlab.core.errors import RunError
from digitlab.core.processes import time_limit_signal


@dataclass(frozen=True, slots=True)
class JobBatch:
    """The jobs of one process, which is pickled and sent to it.

    ``launcher`` is set up and runs the jobs as it would in the command's own process. ``folders`` are their run
    folders, ``state`` holds Hydra's singletons and resolvers, and ``environment`` is set before anything imports torch.
    """

    numbers: Sequence[int]
    overrides: Sequence[Sequence[str]]
    folders: Sequence[Path]
    launcher: Launcher
    state: Any
    environment: Mapping[str, str] = field(default_factory=dict)

    def with_environment(self, environment: Mapping[str, str]) -> "JobBatch":
        return replace(self, environment=environment)

    def __call__(self) -> Sequence[JobReturn]:
        """Run the jobs and return their outcomes. Raises ``RunError`` if a signal stopped them; the runs are saved."""
        # Before anything imports torch: CUDA reads its list of GPUs only once.
        os.environ.update(self.environment)
        Singleton.set_state(self.state)
        with _saved_on_signal(), _locked_folders(self.folders):
            return self.launcher.launch(self.overrides, self.numbers[0])

    def checkpoint(self) -> Any:
        """What submitit queues again at the time limit of a job: the same work, because runs resume by themselves."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _locked_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Wait until no other process works on these runs, then lock them.

    A job on a cluster outlives its command. If the command is killed and given again, its old jobs may still be
    running. Folders are locked in sorted order so that two processes never wait for each other.
    """
    from digitlab.core.locks import locked_file

    with ExitStack() as stack:
        for folder in sorted(folders):
            # Not inside the run folder, which must stay untouched if the run has finished.
            locks = folder.parent / ".locks"
            locks.mkdir(exist_ok=True)
            stack.enter_context(locked_file(locks / f"{folder.name}.lock"))
        yield


@contextmanager
def _saved_on_signal() -> Iterator[None]:
    """Make signals end the work only after the runs are saved, also between runs, when no run handles them.

    SLURM sends SIGTERM to a job that it preempts or cancels, and submitit's own signal, SIGUSR2, shortly before the
    time limit of a job. A job that was not cancelled returns to the queue, and its runs resume where they were saved.
    """
    from digitlab.core.signals import second_signal_ignored

    time_limit, before = time_limit_signal(), signal.getsignal(signal.SIGTERM)
    # ``obey`` is submitit's handler. It queues the job again and ends the process at once, so it must come last.
    obey = None if time_limit is None else signal.getsignal(time_limit)
    asked: list[tuple[int, FrameType | None]] = []
    in_cluster = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def end(number: int, frame: FrameType | None) -> None:
        if in_cluster:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    def save(number: int, frame: FrameType | None) -> None:
        asked.append((number, frame))
        # Runs handle SIGTERM: they save and then exit, which the ``except`` below notices.
        signal.raise_signal(signal.SIGTERM)

    # The default action of SIGTERM would end the process without unwinding, so no ``finally`` would run.
    signal.signal(signal.SIGTERM, end)
    if time_limit is not None and callable(obey):
        signal.signal(time_limit, save)
    try:
        with second_signal_ignored() if in_cluster else nullcontext():
            yield
    except SystemExit as stop:
        if stop.code not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise
        # The runs are saved now, so submitit may queue the job again and end this process.
        queue_again = partial(obey, *asked[0]) if asked and callable(obey) else None
        _end_after_saving(queue_again, in_cluster=in_cluster)
        raise RunError("stopped by a signal") from stop
    finally:
        signal.signal(signal.SIGTERM, before)
        if time_limit is not None:
            signal.signal(time_limit, obey)


def _end_after_saving(queue_again: Callable[[], object] | None, *, in_cluster: bool) -> None:
    """Call ``queue_again``, which may end the process; a job of a cluster ends in any case."""
    if in_cluster:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if queue_again is not None:
        with suppress(subprocess.SubprocessError):  # the cluster has queued it again, or it ends the job
            queue_again()
    if in_cluster:
        _leave_job()


def _leave_job() -> NoReturn:
    """End the job of a cluster after a signal, without a result: the command asks the cluster what becomes of the job.

    If the signal did not come with an order that the job ends, the job would count as failed; it is queued again.
    """
    from digitlab.sweeps.workers.slurm_queue import own_job_runs, queue_again

    if own_job_runs(os.environ):
        queue_again(os.environ)
    raise SystemExit(128 + signal.SIGTERM)

"""``JobBatch``: the jobs that one process of a sweep runs, which are a single job or the jobs of one population.

``sweeps.workers.launcher`` makes batches, and the pools start a process for each. The process can be on this machine or
a job of the cluster SLURM, where submitit starts it. Most of this module makes sure that runs are saved, and the
process exits correctly, when a signal ends it.
"""

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
    """The jobs of one process. The sweep's command pickles this object, and the process calls it.

    ``numbers`` are the numbers of the jobs in the sweep's command, and ``folders`` their run folders. ``launcher`` is
    set up already and runs the jobs as it would in the process of the command. ``state`` holds Hydra's singletons and
    resolvers, ``environment`` the environment variables of the process.
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
        # The variables must be set before anything imports torch, because CUDA reads its list of GPUs only once.
        os.environ.update(self.environment)
        # Hydra keeps its plugins and configuration in global objects, which a new process does not have.
        Singleton.set_state(self.state)
        with _saved_on_signal(), _locked_folders(self.folders):
            return self.launcher.launch(self.overrides, self.numbers[0])

    def checkpoint(self) -> Any:
        """Return the work for which submitit queues the job again at its time limit. Submitit calls this method.

        It is the same batch, because each run resumes from its own checkpoint.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _locked_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Wait until no other process works on these runs, and lock their folders.

    A job on a cluster continues when the command that submitted it is killed. If the user gives the command again, old
    and new jobs could work on the same runs. All processes lock folders in sorted order, so that two never wait for
    each other.
    """
    from digitlab.core.locks import locked_file

    with ExitStack() as stack:
        for folder in sorted(folders):
            # The lock files are outside of the run folders, because the folder of a finished run must not change.
            locks = folder.parent / ".locks"
            locks.mkdir(exist_ok=True)
            stack.enter_context(locked_file(locks / f"{folder.name}.lock"))
        yield


@contextmanager
def _saved_on_signal() -> Iterator[None]:
    """When a signal arrives, end the work in the with block, but only after the runs are saved.

    SLURM sends SIGTERM to a job that it preempts or cancels. Shortly before the time limit of a job it sends SIGUSR2,
    for which submitit has a handler. Unless the job was cancelled, it returns to the queue and later resumes its runs.

    A run that trains has its own handler of SIGTERM, which saves the run and exits. The handler of SIGTERM here serves
    the time between runs. The handler of SIGUSR2 raises SIGTERM, so that the run is saved, and calls submitit's handler
    only after that.
    """
    from digitlab.core.signals import second_signal_ignored

    time_limit, former_sigterm = time_limit_signal(), signal.getsignal(signal.SIGTERM)
    # Submitit's handler queues the job again and ends the process at once, so it must be called last.
    submitit_handler = None if time_limit is None else signal.getsignal(time_limit)
    # The arguments of each call at the time limit, with which submitit's handler is called later.
    time_limit_calls: list[tuple[int, FrameType | None]] = []
    in_cluster = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"

    def exit_on_sigterm(number: int, frame: FrameType | None) -> None:
        # The cluster may send SIGTERM again, which must not interrupt the steps that follow.
        if in_cluster:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    def save_at_time_limit(number: int, frame: FrameType | None) -> None:
        time_limit_calls.append((number, frame))
        # SIGTERM makes the run save and exit, by its own handler or the one above. The ``except`` below catches this.
        signal.raise_signal(signal.SIGTERM)

    # The default action of SIGTERM ends the process without running any ``finally``.
    signal.signal(signal.SIGTERM, exit_on_sigterm)
    if time_limit is not None and callable(submitit_handler):
        signal.signal(time_limit, save_at_time_limit)
    try:
        with second_signal_ignored() if in_cluster else nullcontext():
            yield
    except SystemExit as stop:
        # Other codes do not come from a signal.
        if stop.code not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise
        # The runs are saved now, so submitit may queue the job again and end this process.
        queue_again: Callable[[], object] | None = None
        if time_limit_calls and callable(submitit_handler):
            queue_again = partial(submitit_handler, *time_limit_calls[0])
        _end_after_saving(queue_again, in_cluster=in_cluster)
        raise RunError("stopped by a signal") from stop
    finally:
        signal.signal(signal.SIGTERM, former_sigterm)
        if time_limit is not None:
            signal.signal(time_limit, submitit_handler)


def _end_after_saving(queue_again: Callable[[], object] | None, *, in_cluster: bool) -> None:
    """Call ``queue_again``, which may end the process. In the job of a cluster, end the process in any case."""
    # When a job is queued again, SLURM sends SIGTERM to its process, which must not stop the lines below.
    if in_cluster:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if queue_again is not None:
        with suppress(subprocess.SubprocessError):  # SLURM refuses if it has requeued or cancelled the job itself
            queue_again()
    if in_cluster:
        _leave_job()


def _leave_job() -> NoReturn:
    """End the job of a cluster after a signal, without a result.

    The command of the sweep waits for a result and asks SLURM for the state of the job. If SLURM neither cancels nor
    requeues the job, it counts this exit as a failure. So in this case the job is put back into the queue here.
    """
    from digitlab.sweeps.workers.slurm_queue import own_job_runs, queue_again

    if own_job_runs(os.environ):
        queue_again(os.environ)
    raise SystemExit(128 + signal.SIGTERM)

"""Pools of processes that run the job batches of a sweep on this machine, with joblib or with submitit.

A batch is the jobs of one process. The launchers in ``hydra_plugins`` make a pool, and ``dispatch`` uses it. The
protocols ``Pool`` and ``Task`` also hold for the pool of a cluster, which is in ``slurm_pool``.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from hydra.core.utils import JobReturn

from digitlab.core.errors import RunError
from digitlab.core.processes import ask_to_stop, end_when_orphaned, ignore_sigint, sigint_blocked
from digitlab.sweeps.workers.job_batch import JobBatch

_POLL_SECONDS = 0.05
# After it is asked to stop, a process has this time to save its runs and end.
_GRACE_SECONDS = 60.0

_PROCESS_DIED = (
    "its process was killed, probably because memory ran out: use fewer processes (hydra.launcher.n_jobs) and give the "
    "same command again, which runs only what is left"
)


class Task(Protocol):
    """A batch that a pool has started in a process."""

    batch: JobBatch

    def done(self) -> bool: ...

    def outcome(self) -> Sequence[JobReturn] | RunError:
        """Return what the jobs of a finished task returned, or the error if its process failed or died before."""


class Pool(Protocol):
    """A number of processes that run batches.

    ``poll_seconds`` is the pause between two checks of the tasks. ``shares_terminal`` says whether the processes print
    to the user's terminal.
    """

    poll_seconds: float
    shares_terminal: bool

    def start(self, waiting: list[JobBatch]) -> Sequence[Task]:
        """Start as many batches of ``waiting`` as the pool has room for, and remove them from the list.

        Raises ``RunError`` if a cluster refuses them.
        """

    def stop(self, running: Sequence[Task]) -> None:
        """Ask the processes to save their runs and end."""

    def close(self) -> None:
        """End the processes that would outlive this pool. Called after the last task, and after errors."""


class _JoblibTask:
    """A batch in the process of ``slot``; ``future`` is the executor's ``Future`` of its returns."""

    def __init__(self, batch: JobBatch, slot: "_Slot", future: Any) -> None:
        self.batch, self.slot, self._future = batch, slot, future

    def done(self) -> bool:
        return bool(self._future.done())

    def outcome(self) -> Sequence[JobReturn] | RunError:
        error = self._future.exception()
        if error is None:
            self.slot.task = None
            returns: Sequence[JobReturn] = self._future.result()
            return returns
        # After an error the process may be dead or in an unknown state; the next batch gets a new one.
        self.slot.shut_down()
        if isinstance(error, RunError):
            return error
        # The operating system kills a process without giving a reason; running out of memory is the usual one.
        if isinstance(error, BrokenProcessPool):
            return RunError(_PROCESS_DIED)
        return RunError(f"its process ended with {type(error).__name__}: {error}")


class _Slot:
    """A place for one process of the joblib pool, with its share of the machine; a new process replaces a dead one.

    The process runs one batch after another, so that it imports torch only once.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._executor: Any = None
        self._process_id: Any = None
        self.task: _JoblibTask | None = None

    def start(self, batch: JobBatch) -> _JoblibTask:
        from joblib.externals.loky import ProcessPoolExecutor

        if self._executor is None:
            # An executor with a single process: if it dies, we know which batch it was running.
            self._executor = ProcessPoolExecutor(max_workers=1, initializer=_start_worker, initargs=(os.getpid(),))
            # A future, because the process is only starting.
            self._process_id = self._executor.submit(os.getpid)
        self.task = _JoblibTask(batch, self, self._executor.submit(batch.with_environment(self._environment)))
        return self.task

    def terminate(self) -> None:
        """Ask the process to save its runs and end; it may take a while."""
        try:
            ask_to_stop(self._process_id.result(timeout=_GRACE_SECONDS))
        except Exception:
            self.shut_down()  # the process has not started, or is dead already

    def shut_down(self) -> None:
        """Kill the process."""
        if self._executor is not None:
            self._executor.shutdown(kill_workers=True)
        self._executor = self.task = None


def _start_worker(parent: int) -> None:
    """Prepare a worker process of joblib. If the process of the command disappears, the worker saves and ends."""
    # Ctrl-C must not reach the process (see ``sigint_blocked``), and joblib would unblock a blocked signal.
    ignore_sigint()
    end_when_orphaned(parent, grace_seconds=_GRACE_SECONDS)


class JoblibPool:
    """A pool with one process for each of ``environments``.

    These are environment variables, which set the GPU and the number of threads of the process.
    """

    poll_seconds = _POLL_SECONDS
    shares_terminal = True

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self._slots = [_Slot(environment) for environment in environments]
        # joblib replaces a process if a job has increased its memory, and the first job does so by importing torch.
        # It warns of this from a thread of its own at any time, so the filter stays in force.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)

    def start(self, waiting: list[JobBatch]) -> Sequence[Task]:
        # A slot gets its next batch only when it is free, so no batch waits for a long run while another slot is idle.
        free = [slot for slot in self._slots if slot.task is None]
        return [slot.start(waiting.pop(0)) for slot in free[: len(waiting)]]

    def stop(self, running: Sequence[Task]) -> None:
        for slot in self._slots:
            if slot.task is not None:
                slot.terminate()

    def close(self) -> None:
        for slot in self._slots:
            slot.shut_down()


class _SubmititTask:
    """A batch whose process is submitit's ``job``."""

    def __init__(self, batch: JobBatch, job: Any) -> None:
        self.batch, self.job = batch, job

    def done(self) -> bool:
        return bool(self.job.done())

    def outcome(self) -> Sequence[JobReturn] | RunError:
        try:
            returns: Sequence[JobReturn] = self.job.result()
        except Exception:
            # Submitit's own message is a traceback and advice about Python objects that the user doesn't have.
            reason = "failed, was cancelled or ran out of time or memory"
            return RunError(f"its job {self.job.job_id} {reason}: see {self.job.paths.stderr}")
        return returns


class SubmititLocalPool:
    """A pool of Submitit's local ``executor``: each of ``environments`` has one process at a time."""

    poll_seconds = _POLL_SECONDS
    shares_terminal = False

    def __init__(self, executor: Any, environments: Sequence[Mapping[str, str]]) -> None:
        self._executor, self._environments = executor, environments
        # The last task of each slot, which is an index of ``environments``.
        self._tasks: dict[int, _SubmititTask] = {}

    def start(self, waiting: list[JobBatch]) -> Sequence[Task]:
        free = [slot for slot in range(len(self._environments)) if slot not in self._tasks or self._tasks[slot].done()]
        started = []
        for slot in free[: len(waiting)]:
            batch = waiting.pop(0)
            # The new process inherits this, so that it gets only one signal after Ctrl-C (see ``sigint_blocked``).
            with sigint_blocked():
                job = self._executor.submit(batch.with_environment(self._environments[slot]))
            self._tasks[slot] = _SubmititTask(batch, job)
            started.append(self._tasks[slot])
        return started

    def stop(self, running: Sequence[Task]) -> None:
        for task in self._tasks.values():
            if not task.done():
                # Submitit's ``Job.cancel`` kills the process after a second, which is too little time to save. Here the
                # id of a job is that of its process, and on SIGTERM submitit passes the signal on to the run.
                ask_to_stop(int(task.job.job_id))

    def close(self) -> None:
        """Do nothing: each batch has a process of its own, which ends with the batch."""

"""Pools of processes on this machine that run job batches: joblib's and submitit's. ``slurm_pool`` has a cluster's."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from hydra.core.utils import JobReturn

from digitlab.core.errors import RunError
from digitlab.core.processes import ask_to_stop, end_when_orphaned, ignore_sigint, sigint_blocked
from digitlab.sweeps.workers.job_batch import JobBatch

_POLL_SECONDS = 0.05
# The time a process has to save its runs and end.
_GRACE_SECONDS = 60.0


_PROCESS_DIED = (
    "its process was killed, probably because memory ran out: use fewer processes (hydra.launcher.n_jobs) and give the "
    "same command again, which runs only what is left"
)


class Task(Protocol):
    """A batch that a process has been given."""

    batch: JobBatch

    def done(self) -> bool: ...

    def outcome(self) -> Sequence[JobReturn] | RunError:
        """The returns of a task that is done, or the error if its process ended without any."""


class Pool(Protocol):
    """Where batches run. ``shares_terminal`` says whether the user sees what its processes print."""

    poll_seconds: float
    shares_terminal: bool

    def start(self, waiting: list[JobBatch]) -> Sequence[Task]:
        """Start as many of ``waiting`` as there is room for, and remove them from the list.

        Raises ``RunError`` if a cluster refuses them.
        """

    def stop(self, running: Sequence[Task]) -> None:
        """Ask the processes to save their runs and end."""

    def close(self) -> None: ...


class _JoblibTask:
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
    """A place for one process at a time. The process runs one batch after another, so it imports torch once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._executor: Any = None
        self._pid: Any = None
        self.task: _JoblibTask | None = None

    def start(self, batch: JobBatch) -> _JoblibTask:
        from joblib.externals.loky import ProcessPoolExecutor

        if self._executor is None:
            # An executor with a single process: if it dies, we know which batch it was running.
            self._executor = ProcessPoolExecutor(max_workers=1, initializer=_start_worker, initargs=(os.getpid(),))
            self._pid = self._executor.submit(os.getpid)
        self.task = _JoblibTask(batch, self, self._executor.submit(batch.with_environment(self._environment)))
        return self.task

    def terminate(self) -> None:
        try:
            ask_to_stop(self._pid.result(timeout=_GRACE_SECONDS))
        except Exception:
            self.shut_down()  # the process has not started, or is dead already

    def shut_down(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(kill_workers=True)
        self._executor = self.task = None


def _start_worker(parent: int) -> None:
    """Prepare a worker process of joblib; it saves its runs and ends if the command's process disappears."""
    # For the reason in ``sigint_blocked``; here, because joblib unblocks the signal when it starts a process.
    ignore_sigint()
    end_when_orphaned(parent, grace_seconds=_GRACE_SECONDS)


class JoblibPool:
    """One process for each of ``environments``, which name its GPU and its number of threads."""

    poll_seconds = _POLL_SECONDS
    shares_terminal = True

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self._slots = [_Slot(environment) for environment in environments]

    def start(self, waiting: list[JobBatch]) -> Sequence[Task]:
        # Batches are handed out one at a time, so a long run in one slot does not hold back the others.
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
    def __init__(self, batch: JobBatch, job: Any, slot: int = 0) -> None:
        self.batch, self.job, self.slot = batch, job, slot

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
    """Submitit's ``executor`` on this machine, with one job at a time for each of ``environments``."""

    poll_seconds = _POLL_SECONDS
    shares_terminal = False

    def __init__(self, executor: Any, environments: Sequence[Mapping[str, str]]) -> None:
        self._executor, self._environments = executor, environments
        self._tasks: dict[int, _SubmititTask] = {}

    def start(self, waiting: list[JobBatch]) -> Sequence[Task]:
        free = [slot for slot in range(len(self._environments)) if slot not in self._tasks or self._tasks[slot].done()]
        started = []
        for slot in free[: len(waiting)]:
            batch = waiting.pop(0)
            with sigint_blocked():
                job = self._executor.submit(batch.with_environment(self._environments[slot]))
            self._tasks[slot] = _SubmititTask(batch, job, slot)
            started.append(self._tasks[slot])
        return started

    def stop(self, running: Sequence[Task]) -> None:
        for task in self._tasks.values():
            if not task.done():
                # Job.cancel() kills after a second, too soon to save. SIGTERM is passed on to the run and nothing more.
                ask_to_stop(int(task.job.job_id))

    def close(self) -> None:
        """Nothing to close: each job has a process of its own."""

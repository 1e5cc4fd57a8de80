"""The engines that run work in other processes: joblib's, and submitit's on this machine and under SLURM."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

from hydra.core.utils import JobReturn

from digitlab.core.errors import RunError
from digitlab.sweeps.workers.job_batch import JobBatch

_POLL_SECONDS = 0.05
# A cluster's file system, and its accounting, are asked less often.
_CLUSTER_POLL_SECONDS = 1.0
_ORPHAN_POLL_SECONDS = 0.5
# To save what is under way, and end.
_GRACE_SECONDS = 60.0


class Task(Protocol):
    """Work that a process has been given."""

    batch: JobBatch

    def done(self) -> bool: ...

    def outcome(self) -> Sequence[JobReturn] | RunError:
        """The returns of a task that is done; an error where its process ended without any."""


class Pool(Protocol):
    """Where work is done. ``shares_terminal``: whether its processes tell of a failed job on the command's terminal."""

    poll_seconds: float
    shares_terminal: bool

    def take(self, waiting: list[JobBatch]) -> Sequence[Task]:
        """Begin with as many of ``waiting`` as there is room for, and remove them from it."""

    def stop(self, running: Sequence[Task]) -> None:
        """Have the processes save the runs under way and end."""

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
        self.slot.end()
        if isinstance(error, RunError):
            return error
        if isinstance(error, BrokenProcessPool):
            return RunError("its process ended without a result: it was killed, or ran out of memory")
        return RunError(f"its process ended with {type(error).__name__}: {error}")


class _Slot:
    """A place for one process at a time, which does one work after another: it imports torch once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._executor: Any = None
        self._pid: Any = None
        self.task: _JoblibTask | None = None

    def begin(self, batch: JobBatch) -> _JoblibTask:
        from joblib.externals.loky import ProcessPoolExecutor

        if self._executor is None:
            # One of a single process: if that dies, it is known which work it took along, and no other.
            self._executor = ProcessPoolExecutor(max_workers=1, initializer=_serve, initargs=(os.getpid(),))
            self._pid = self._executor.submit(os.getpid)
        self.task = _JoblibTask(batch, self, self._executor.submit(batch.within(self._environment)))
        return self.task

    def terminate(self) -> None:
        try:
            os.kill(self._pid.result(timeout=_GRACE_SECONDS), signal.SIGTERM)
        except Exception:
            self.end()  # it has not come to life, or has died

    def end(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(kill_workers=True)
        self._executor = self.task = None


def _serve(parent: int) -> None:
    """In a process of joblib: stop, so that its runs are saved, where the command that it works for is gone."""
    # As in ``_without_interrupts``, but joblib unblocks the signal where it starts a process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class JoblibPool:
    """A process for each of ``environments``, which say what it sees of the machine."""

    poll_seconds = _POLL_SECONDS
    shares_terminal = True

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self._slots = [_Slot(environment) for environment in environments]

    def take(self, waiting: list[JobBatch]) -> Sequence[Task]:
        free = [slot for slot in self._slots if slot.task is None]
        return [slot.begin(waiting.pop(0)) for slot in free[: len(waiting)]]

    def stop(self, running: Sequence[Task]) -> None:
        for slot in self._slots:
            if slot.task is not None:
                slot.terminate()

    def close(self) -> None:
        for slot in self._slots:
            slot.end()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Begun within, a process never sees SIGINT.

    A terminal sends it to all processes, the command sends each SIGTERM, and after a second signal none could save.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _SubmititTask:
    def __init__(self, batch: JobBatch, job: Any, slot: int = 0) -> None:
        self.batch, self.job, self.slot = batch, job, slot

    def done(self) -> bool:
        return bool(self.job.done())

    def outcome(self) -> Sequence[JobReturn] | RunError:
        try:
            returns: Sequence[JobReturn] = self.job.result()
        except Exception:
            # Submitit's message is a traceback, and advice on how to ask its object for the logs.
            return RunError(f"its job {self.job.job_id} ended without a result: see {self.job.paths.stderr}")
        return returns


class SubmititLocalPool:
    """Submitit's ``executor`` on this machine, with a job at a time for each of ``environments``."""

    poll_seconds = _POLL_SECONDS
    shares_terminal = False

    def __init__(self, executor: Any, environments: Sequence[Mapping[str, str]]) -> None:
        self._executor, self._environments = executor, environments
        self._tasks: dict[int, _SubmititTask] = {}

    def take(self, waiting: list[JobBatch]) -> Sequence[Task]:
        free = [slot for slot in range(len(self._environments)) if slot not in self._tasks or self._tasks[slot].done()]
        begun = []
        for slot in free[: len(waiting)]:
            batch = waiting.pop(0)
            with _without_interrupts():
                job = self._executor.submit(batch.within(self._environments[slot]))
            self._tasks[slot] = _SubmititTask(batch, job, slot)
            begun.append(self._tasks[slot])
        return begun

    def stop(self, running: Sequence[Task]) -> None:
        for task in self._tasks.values():
            if not task.done():
                # Job.cancel() would kill after a second what has not saved by then; this is passed on, and no more.
                os.kill(int(task.job.job_id), signal.SIGTERM)

    def close(self) -> None:
        """Nothing is kept between jobs."""


class SlurmPool:
    """Submitit's ``executor`` of a cluster: all work is handed in at once, as one array of jobs."""

    poll_seconds = _CLUSTER_POLL_SECONDS
    shares_terminal = False

    def __init__(self, executor: Any, environment: Mapping[str, str]) -> None:
        self._executor, self._environment = executor, environment

    def take(self, waiting: list[JobBatch]) -> Sequence[Task]:
        if not waiting:
            return []
        batches, waiting[:] = list(waiting), []
        with self._executor.batch():
            jobs = [self._executor.submit(batch.within(self._environment)) for batch in batches]
        return [_SubmititTask(batch, job) for batch, job in zip(batches, jobs, strict=True)]

    def stop(self, running: Sequence[Task]) -> None:
        for task in running:
            assert isinstance(task, _SubmititTask)
            task.job.cancel(check=False)

    def close(self) -> None:
        """A job of the cluster ends by itself."""

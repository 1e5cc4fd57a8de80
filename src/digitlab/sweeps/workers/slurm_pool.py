"""The pool whose processes are jobs of a SLURM cluster. The launcher ``submitit_slurm`` makes it; ``dispatch`` uses it.

A pool starts processes for batches, and tells ``dispatch`` when they have ended and how. A batch is what one job of the
cluster does: one job of the sweep, or the jobs of one population. Submitit submits the jobs as arrays: many jobs with
one command, of which only some run at once.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

from digitlab.core.errors import RunError
from digitlab.core.files import write_atomically
from digitlab.sweeps.workers.job_batch import JobBatch
from digitlab.sweeps.workers.pools import Task
from digitlab.sweeps.workers.slurm_queue import ALIVE, SlurmQueue, array_size, cancel, read_states

_POLL_SECONDS = 1.0
# A file that one machine wrote can appear on another one this much later (the attribute cache of NFS).
_FILE_DELAY_SECONDS = 15.0
# If the queue was full, jobs are submitted again after this time.
_FULL_QUEUE_SECONDS = 60.0

# If a job left no result, this part of the message says how the job ended. The keys are SLURM's states, ``FORGOTTEN``
# of ``slurm_queue``, and two that ``SlurmPool.outcome`` adds. {under} is the key of the launcher's configuration.
_ENDS = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "reached its time limit before it could be queued again: raise {under}.timeout_min",
    "OUT_OF_MEMORY": "ran out of memory: raise {under}.mem_gb",
    "NODE_FAIL": "lost its node",
    "PREEMPTED": "was preempted, and the cluster did not queue it again",
    "FORGOTTEN": "is unknown to the cluster and left no result",
    "COMPLETED": "ended without a result",
    "FAILED_ITSELF": "failed",
    "TIMED_OUT": "reached its time limit more than {under}.max_num_timeout times: raise that or {under}.timeout_min",
}
# The same for all other states.
_DIED = "died ({state}), perhaps because memory ran out ({under}.mem_gb)"
# Submitit writes these words into the log of a job that has reached its time limit more than ``max_num_timeout`` times.
_TIMED_OUT = "timed-out too many times"

# Patterns of SLURM's reasons to refuse a job, and the settings to check. The first pattern that matches counts.
_REFUSALS = {
    r"memory": "mem_gb",
    r"qos|submit limit": "qos and the limits of the cluster",
    r"account": "account and {under}.partition",
    r"partition": "partition",
    r"time limit": "timeout_min",
    r"gres|generic resource|gpu": "gpus_per_node",
    r"feature|constraint": "constraint",
    r"option": "additional_parameters",
    r"cpu count|node configuration": "cpus_per_task, mem_gb, gpus_per_node and constraint",
}
_QUEUE_FULL = re.compile(r"queue full|submit limit|temporarily unable|QOSMaxSubmit|AssocMaxSubmit", re.IGNORECASE)


class _SlurmTask:
    """A batch whose process is the job ``job`` of the cluster."""

    def __init__(self, batch: JobBatch, job: Any, pool: "SlurmPool") -> None:
        self.batch, self.job, self._pool = batch, job, pool
        self.job_id = str(job.job_id)

    def done(self) -> bool:
        return self._pool.has_ended(self.job_id)

    def outcome(self) -> Sequence[JobReturn] | RunError:
        return self._pool.outcome(self)


class SlurmPool:
    """A ``Pool`` that submits all batches at once by submitit's ``executor``, in as few arrays as the cluster allows.

    ``environment`` has the environment variables of all jobs. ``folder`` is where submitit keeps the files of the jobs.
    It also holds ``queue.json``, which says which job works on which run folders. So if the command is killed and given
    again, it finds the jobs that are still in the queue. At most ``parallel`` jobs run at once. ``under`` is the key of
    the launcher's configuration, for messages.
    """

    poll_seconds = _POLL_SECONDS
    shares_terminal = False

    def __init__(
        self, executor: Any, environment: Mapping[str, str], *, folder: Path, parallel: int, under: str
    ) -> None:
        self._executor, self._environment, self._under = executor, environment, under
        self._parallel = parallel
        self._known_jobs = _KnownJobs(folder / "queue.json")
        self._adopted = False
        self._queue = SlurmQueue()
        self._running: dict[str, _SlurmTask] = {}
        self._ended: set[str] = set()
        # The time at which each job was first seen to have ended without a result.
        self._missing_since: dict[str, float] = {}
        # After a full queue, the time at which jobs are submitted again; and the time of the last ``_refresh``.
        self._retry_at = self._refreshed_at = 0.0

    def start(self, waiting: list[JobBatch]) -> Sequence[Task]:
        """Submit all batches, except those whose jobs an earlier command left in the queue."""
        if not waiting or time.monotonic() < self._retry_at:
            return []
        started: list[_SlurmTask] = []
        # Only the first call looks for jobs of an earlier command, because all batches are still waiting then.
        if not self._adopted:
            self._adopted = True
            started = self._adopt(waiting)
        size = array_size()
        # SLURM limits the jobs that run at once in each array, so the limit of the sweep is divided among the arrays.
        parallel = max(self._parallel // -(-len(waiting) // size), 1) if waiting else self._parallel
        while waiting:
            try:
                tasks = self._submit(waiting[:size], parallel)
            except RunError as refused:
                # If the queue is full and has jobs of this sweep, wait: it has room again when they have ended. Any
                # other refusal ends the command, and then none of its jobs may stay in the queue.
                if not (self._running or started) or not _QUEUE_FULL.search(str(refused)):
                    cancel(self._running | {task.job_id: task for task in started})
                    raise
                self._retry_at = time.monotonic() + _FULL_QUEUE_SECONDS
                break
            del waiting[:size]
            started += tasks
            # Saved after each array: if the command is killed now, the next command must not submit these jobs again.
            self._known_jobs.add(started)
        self._running |= {task.job_id: task for task in started}
        self._queue.follow(task.job_id for task in started)
        return started

    def _adopt(self, waiting: list[JobBatch]) -> list[_SlurmTask]:
        """Take over the jobs of an earlier command for ``waiting``, and remove their batches from the list."""
        from submitit.slurm.slurm import SlurmJob

        known = self._known_jobs.read()
        ids = {known[_key(batch)] for batch in waiting if _key(batch) in known}
        # If the controller does not answer, nothing is taken over. New jobs are submitted then, and each waits until
        # the old job has unlocked the run folders (see ``job_batch``).
        states = (read_states(ids) if ids else {}) or {}
        alive = {job_id for job_id, state in states.items() if state in ALIVE}
        adopted = [batch for batch in waiting if known.get(_key(batch)) in alive]
        waiting[:] = [batch for batch in waiting if batch not in adopted]
        return [
            _SlurmTask(batch, SlurmJob(folder=self._executor.folder, job_id=known[_key(batch)]), self)
            for batch in adopted
        ]

    def _submit(self, batches: Sequence[JobBatch], parallel: int) -> list[_SlurmTask]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self._executor.update_parameters(slurm_array_parallelism=parallel)
        try:
            # Submitit prints the lines of sbatch to stderr. The error contains them too, so they are not shown twice.
            with redirect_stderr(StringIO()), self._executor.batch():
                jobs = [self._executor.submit(batch.with_environment(self._environment)) for batch in batches]
        except (FailedJobError, FailedSubmissionError) as error:
            raise RunError(self._refusal(str(error))) from None
        return [_SlurmTask(batch, job, self) for batch, job in zip(batches, jobs, strict=True)]

    def _refusal(self, message: str) -> str:
        """Return one line with SLURM's reason and the setting to change."""
        lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in message.splitlines()]
        # ``dict.fromkeys`` removes repeated lines and keeps their order.
        reason = "; ".join(dict.fromkeys(line for line in lines if line)) or "sbatch gave no reason"
        matching = (names for pattern, names in _REFUSALS.items() if re.search(pattern, reason, re.IGNORECASE))
        settings = next(matching, "partition, account, qos and the resources").format(under=self._under)
        return f"SLURM refused the jobs ({reason}): check {self._under}.{settings}, then give the same command"

    def _refresh(self) -> None:
        """Find out which jobs have ended. All tasks call this, but only the first call in a round does something."""
        # In a round, ``dispatch`` asks all tasks in turn. Then it pauses for ``_POLL_SECONDS``.
        if time.monotonic() - self._refreshed_at < _POLL_SECONDS / 2:
            return
        self._refreshed_at = time.monotonic()
        changed = self._queue.refresh()
        # Look for result files only where something has changed: each look takes time on a network file system.
        for job_id in [*changed, *self._missing_since]:
            task = self._running.get(job_id)
            if task is None:
                continue
            if _result_file(task).exists():
                self._end(job_id)
                # If a job has its result and waits in the queue, the cluster has queued it again after its end. It has
                # nothing left to do.
                if self._queue.state(job_id) in ALIVE - {"RUNNING", "COMPLETING"}:
                    cancel([job_id])
            elif self._queue.has_ended(job_id):
                since = self._missing_since.setdefault(job_id, time.monotonic())
                # A successful job has written its result, but the file may not be visible here yet.
                if self._queue.state(job_id) != "COMPLETED" or time.monotonic() - since > _FILE_DELAY_SECONDS:
                    self._end(job_id)

    def _end(self, job_id: str) -> None:
        self._ended.add(job_id)
        self._missing_since.pop(job_id, None)

    def has_ended(self, job_id: str) -> bool:
        self._refresh()
        return job_id in self._ended

    def outcome(self, task: _SlurmTask) -> Sequence[JobReturn] | RunError:
        """Return what the jobs returned, or an error that says why there is no result, with the end of the log."""
        state = self._queue.state(task.job_id)
        self._queue.forget(task.job_id)
        self._running.pop(task.job_id)
        if _result_file(task).exists():
            try:
                returns: Sequence[JobReturn] = task.job.result()
                return returns
            except Exception:
                # Submitit's own message is a traceback and advice about Python objects that the user doesn't have.
                state = "FAILED_ITSELF"
        path = Path(task.job.paths.stderr)
        last_lines = _last_lines(path)
        # If a job reached its time limit too often, SLURM says only that it failed. Submitit's log has the reason.
        if _TIMED_OUT in last_lines:
            state = "TIMED_OUT"
        end = _ENDS.get(state, _DIED).format(state=state, under=self._under)
        log_end = f" ends with: {last_lines}" if last_lines else " is empty"
        return RunError(f"its job {task.job_id} {end}; {path}{log_end}")

    def stop(self, running: Sequence[Task]) -> None:
        # Cancelling sends SIGTERM first, and the jobs save their runs.
        cancel(self._running)

    def close(self) -> None:
        """Nothing to close: jobs of the cluster end on their own."""


class _KnownJobs:
    """The file ``queue.json``: it says, for a later command, which job of the cluster works on which run folders."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        with suppress(OSError, ValueError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
        return {}  # a missing or damaged file only means that jobs are submitted again

    def add(self, tasks: Sequence[_SlurmTask]) -> None:
        content = self.read() | {_key(task.batch): task.job_id for task in tasks}
        write_atomically(self._path, json.dumps(content, indent=1).encode())


def _key(batch: JobBatch) -> str:
    """Return the names of the run folders. They stay the same, while the numbers of jobs change with the command."""
    return "/".join(folder.name for folder in batch.folders)


def _result_file(task: _SlurmTask) -> Path:
    path: Path = task.job.paths.result_pickle
    return path


def _last_lines(path: Path, *, lines: int = 3, max_characters: int = 300) -> str:
    """Return the last lines of a log as one line, without the lines of SLURM and submitit."""
    try:
        with path.open("rb") as file:
            # The last 4 KiB contain the last lines; a whole log can be large.
            file.seek(max(path.stat().st_size - 4096, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    log_lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("submitit ")]
    # The lines of srun and slurmstepd only repeat SLURM's state, so they are used only if there are no others.
    job_lines = [line for line in log_lines if not line.startswith(("srun:", "slurmstepd:"))]
    return " | ".join((job_lines or log_lines)[-lines:])[-max_characters:]

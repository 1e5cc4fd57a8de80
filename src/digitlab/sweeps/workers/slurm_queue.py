"""Asks SLURM for the states of a sweep's jobs and cancels them. Used by the pool of ``slurm_pool``.

Submitit asks only ``sacct``, which needs accounting, and small clusters have none. ``squeue`` answers everywhere, for
all jobs of the sweep with one call, so no file is read for a job that waits or runs. Jobs are submitted as arrays, many
with one command. The id of such a job is ``12_3``: job 3 of the array 12.
"""

import logging
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

log = logging.getLogger(__name__)

# SLURM's names of the states in which a job has not ended. All others are ends.
ALIVE = frozenset(
    [
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "SUSPENDED",
        "STOPPED",
        "SIGNALING",
        "RESIZING",
        "COMPLETING",
        "STAGE_OUT",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
    ]
)
# The state of a job that neither squeue nor sacct knows. SLURM forgets a job minutes after its end.
FORGOTTEN = "FORGOTTEN"

# A command of SLURM that takes longer counts as not answered.
_COMMAND_SECONDS = 60.0
# The interval between two questions is this part of the time since a state last changed, within the two limits. So a
# long wait costs the controller little.
_INTERVAL_PART = 1 / 30
_MIN_INTERVAL_SECONDS, _MAX_INTERVAL_SECONDS = 2.0, 15.0
# The number of jobs in one array if the cluster does not say: one less than SLURM's default of MaxArraySize.
_DEFAULT_ARRAY_SIZE = 1000
# So many ids fit into one command line, whose length is limited.
_IDS_PER_COMMAND = 1000


class SlurmQueue:
    """The last known states of the jobs that ``follow`` has added.

    ``clock`` gives the time in seconds; only tests replace it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, str] = {}
        # How often in a row the cluster has reported that a job has ended. A job that is queued again may seem to have
        # ended for a short time.
        self._ends_seen: dict[str, int] = {}
        self._asked_at = self._changed_at = clock()
        self._warned = False

    def follow(self, job_ids: Iterable[str]) -> None:
        """Add jobs whose states ``refresh`` asks for."""
        # A job counts as waiting until the first answer, because the controller may not know it yet.
        self._states |= dict.fromkeys(job_ids, "PENDING")
        self._changed_at = self._clock()

    def forget(self, job_id: str) -> None:
        self._states.pop(job_id, None)
        self._ends_seen.pop(job_id, None)

    def state(self, job_id: str) -> str:
        """Return the last known state. Raises ``KeyError`` if the job is not followed."""
        return self._states[job_id]

    def has_ended(self, job_id: str) -> bool:
        """Return whether the cluster has reported twice in a row that the job has ended."""
        return self._ends_seen.get(job_id, 0) >= 2

    def refresh(self) -> set[str]:
        """Ask the cluster, unless it was asked a moment ago.

        Return the jobs whose state has changed, and those whose end has become certain.
        """
        now = self._clock()
        interval = (now - self._changed_at) * _INTERVAL_PART
        if not self._states or now - self._asked_at < min(max(interval, _MIN_INTERVAL_SECONDS), _MAX_INTERVAL_SECONDS):
            return set()
        answer = read_states(self._states)
        self._asked_at = self._clock()
        if answer is None:
            if not self._warned:
                self._warned = True
                log.warning("SLURM's controller does not answer; the jobs continue, and digitlab keeps asking")
            return set()
        self._warned = False
        changed = set()
        for job_id, state in answer.items():
            if state in ALIVE:
                self._ends_seen.pop(job_id, None)
            else:
                # The first report is not certain: SLURM may report an end shortly before it queues the job again.
                self._ends_seen[job_id] = self._ends_seen.get(job_id, 0) + 1
            # The second report of an end makes it certain (see ``has_ended``), so it counts as a change.
            if state != self._states[job_id] or self._ends_seen.get(job_id) == 2:
                changed.add(job_id)
            self._states[job_id] = state
        if changed:
            self._changed_at = self._asked_at
        return changed


def read_states(job_ids: Iterable[str]) -> dict[str, str] | None:
    """Return the state of each job, ``FORGOTTEN`` if SLURM does not know it; None if the controller does not answer."""
    asked_ids = list(job_ids)
    # Ask for whole arrays, because the ids of thousands of jobs would make the command line too long.
    arrays = ",".join(dict.fromkeys(job_id.partition("_")[0] for job_id in asked_ids))
    # With these options there is a line for each job of an array, and for jobs that have ended in the last minutes.
    options = ["--noheader", "--array", "--states=all", "--format=%i|%T"]
    code, out, error = _run(["squeue", *options, f"--jobs={arrays}"])
    # squeue forgets jobs some minutes after their end. For a single forgotten job it reports an invalid id. From an
    # answer about several jobs it leaves out the forgotten ones.
    if code != 0 and "Invalid job id" not in error:
        return None
    states = _parse(out)
    missing = [job_id for job_id in asked_ids if job_id not in states]
    if missing:
        # sacct also answers for other jobs of the same arrays. For them, the answer of squeue counts.
        states = _recorded_ends(missing) | states
    return {job_id: states.get(job_id, FORGOTTEN) for job_id in asked_ids}


def _recorded_ends(job_ids: Sequence[str]) -> dict[str, str]:
    """Return the states in which jobs ended, by SLURM's accounting (``sacct``); nothing if the cluster has none."""
    arrays = ",".join(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))
    code, out, _ = _run(["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", "-j", arrays])
    # A state in which a job has not ended is left out: its end was not recorded, because a job that the controller has
    # forgotten does not run.
    return {job_id: state for job_id, state in _parse(out).items() if state not in ALIVE} if code == 0 else {}


def _parse(text: str) -> dict[str, str]:
    """Return lines such as ``12_3|RUNNING`` or ``12_3|CANCELLED by 0`` as a mapping from job ids to states."""
    lines = [line.split("|") for line in text.splitlines() if "|" in line]
    return {job_id.strip(): state.split()[0] for job_id, state, *_ in lines if state.strip()}


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs. Those that run get SIGTERM, and SIGKILL after the cluster's ``KillWait`` seconds."""
    all_ids = list(job_ids)
    for start in range(0, len(all_ids), _IDS_PER_COMMAND):
        _run(["scancel", "--quiet", *all_ids[start : start + _IDS_PER_COMMAND]])


def array_size() -> int:
    """Return the largest number of jobs that the cluster accepts as one array."""
    _, out, _ = _run(["scontrol", "show", "config"])
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", out, re.MULTILINE)
    # Indices start at 0, and the highest one must be below MaxArraySize. One job less than the limit always fits.
    return max(int(limit[1]) - 1, 1) if limit else _DEFAULT_ARRAY_SIZE


def own_job_runs(environment: Mapping[str, str]) -> bool:
    """Return whether SLURM counts the job of this process as running, although it has received a signal.

    If the cluster cancels the job or has queued it again, the job has another state.
    """
    job_id = _own_job_id(environment)
    if job_id is None:
        return False
    _, out, _ = _run(["scontrol", "--oneliner", "show", "job", job_id])
    return "JobState=RUNNING" in out.split()


def queue_again(environment: Mapping[str, str]) -> None:
    """Put the job of this process back into the queue, which ends the process."""
    job_id = _own_job_id(environment)
    if job_id is not None:
        _run(["scontrol", "requeue", job_id])


def _own_job_id(environment: Mapping[str, str]) -> str | None:
    """Return the id of this process's job; in an array with its index, because ``SLURM_JOB_ID`` can be the array's."""
    if "SLURM_ARRAY_JOB_ID" in environment and "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def _run(command: Sequence[str]) -> tuple[int, str, str]:
    """Run a command of SLURM; return its exit code, stdout and stderr."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        # A controller that hangs is treated like one that does not answer, so the sweep keeps waiting.
        return 1, "", str(error)
    return ended.returncode, ended.stdout, ended.stderr

"""The workers of a shared search: the processes that work on it, on one machine or on several, for ``shared_study``.

Each worker takes trials from the study, which is stored in a database, and runs them. If a worker dies, the others run
its trials again. So each worker shows that it is alive (``Worker``) and finds out which others are dead (``Observer``).

Each worker regularly increases a number in the attributes of the study; this is its heartbeat. A worker is dead if its
number stays the same for a while. The clocks of the machines need not agree, because every observer measures this time
with its own clock. Optuna has heartbeats too, but only for ``Study.optimize``, which digitlab does not use.
"""

import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from optuna.storages import RDBStorage

from digitlab.core.processes import machine_name, process_is_gone

# The name of the study's attribute for a worker is this prefix and the name of the worker.
_PREFIX = "worker:"
# The number that a worker writes when it ends.
_ENDED = -1
# The number of beats in the time after which a worker counts as dead. A few beats can fail without harm.
_BEATS = 6


class Worker:
    """This process as a worker of the study with ``study_id``; ``start`` begins the beats and ``stop`` ends them.

    Observers count a worker as dead after ``dead_after`` seconds without a beat.
    """

    def __init__(self, storage: RDBStorage, study_id: int, *, dead_after: float) -> None:
        # The name has a random part, because the system can give a new worker the process id of a dead one.
        self.name = f"{machine_name()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._storage, self._study_id, self._interval = storage, study_id, dead_after / _BEATS
        self._answering_since = math.inf
        self._stop_requested = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        # The first beat comes before the first trial, so that other workers know the worker of every trial.
        self._write(0)
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        # ``wait`` instead of ``sleep``, because ``stop`` can end it at once.
        while not self._stop_requested.wait(self._interval):
            count += 1
            try:
                self._write(count)
            except Exception:
                continue  # the database restarts; the next beat tries again

    def _write(self, count: int) -> None:
        started, since = time.monotonic(), self._answering_since
        # While the call below waits for an answer, the database counts as not answering. If the call raises an error,
        # this remains so until a later beat succeeds.
        self._answering_since = math.inf
        self._storage.set_study_user_attr(self._study_id, _PREFIX + self.name, count)
        now = time.monotonic()
        # If the last beat failed (``since`` is infinite) or this one was slow, the database answers only from now on.
        last_beat_succeeded, fast = since < started, now - started < self._interval
        self._answering_since = since if last_beat_succeeded and fast else now

    def answering_since(self) -> float:
        """Return the time (of ``time.monotonic``) since which the database has answered every beat of this worker.

        It is infinite while the database does not answer. Then no worker can show that it is alive.
        """
        return self._answering_since

    def stop(self) -> None:
        """End the beats and tell the others that they can take over the trials of this worker."""
        self._stop_requested.set()
        # Wait for a beat that is still being written, because it would overwrite the number for "ended" below.
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._write(_ENDED)
        except Exception:
            return  # the other workers will notice that the beats have stopped


class Observer:
    """Decides which workers are dead, by their numbers in the attributes of the study.

    A worker is silent while its number stays the same, and dead after ``dead_after`` seconds of silence. Silence is
    counted only since the time that ``answering_since`` returns, because before that the database did not answer.
    ``clock`` gives the time in seconds; only tests replace it.
    """

    def __init__(
        self,
        *,
        dead_after: float,
        answering_since: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dead_after, self._answering_since, self._clock = dead_after, answering_since, clock
        # The last number of each worker and the time at which this process first saw it.
        self._last_seen: dict[str, tuple[object, float]] = {}

    def is_dead(self, worker: str, attributes: Mapping[str, Any]) -> bool:
        """Return whether the worker of this name is dead, by the ``attributes`` of the study.

        Call it repeatedly, because silence is measured between two calls.
        """
        count = attributes.get(_PREFIX + worker)
        if count == _ENDED or _process_is_gone(worker):
            return True
        now = self._clock()
        last_seen = self._last_seen.get(worker)
        # Nobody knows how long ago a number was written that is seen for the first time. Only a later call can decide.
        if last_seen is None or last_seen[0] != count:
            self._last_seen[worker] = count, now
            return False
        _, first_seen_at = last_seen
        # While the database did not answer, no worker could write. That time does not count as silence.
        return now - max(first_seen_at, self._answering_since()) > self._dead_after


def _process_is_gone(worker: str) -> bool:
    """Return whether the worker was a process of this machine that has ended. Then nobody needs to wait for beats."""
    # ``Worker`` makes the name: machine/process id/random part.
    machine, _, rest = worker.partition("/")
    process_id = rest.partition("/")[0]
    return machine == machine_name() and process_id.isdecimal() and process_is_gone(int(process_id))

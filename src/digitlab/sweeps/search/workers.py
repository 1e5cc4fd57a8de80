"""The processes that work on one search: each says that it is alive, and each can tell which others are dead.

Optuna has a heartbeat too, but only for ``Study.optimize``, which digitlab does not use. Here each worker counts up a
number in the study's attributes. A worker is dead if its number stays the same for a while. Clocks need not agree,
because every observer measures with its own.
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

# Attributes of the study: this prefix and the id of a worker.
_PREFIX = "worker:"
# A worker that ended by itself.
_GONE = -1
# Beats in the time after which a worker counts as dead, so that a few lost ones do no harm.
_BEATS = 6


class Worker:
    """This process as a worker of the study with ``study_id``; ``start`` begins the beats and ``stop`` ends them."""

    def __init__(self, storage: RDBStorage, study_id: int, *, dead_after: float) -> None:
        # The random part: the system can give a new worker the process id of a dead one.
        self.name = f"{machine_name()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._storage, self._study_id, self._interval = storage, study_id, dead_after / _BEATS
        self._answering_since = math.inf
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        # Before this worker asks for its first trial, so that no other worker finds a trial of an unknown worker.
        self._write(0)
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        # ``wait`` instead of ``sleep``, because ``stop`` can end it at once.
        while not self._over.wait(self._interval):
            count += 1
            try:
                self._write(count)
            except Exception:
                continue  # the database restarts; the next beat tries again

    def _write(self, count: int) -> None:
        begun, since = time.monotonic(), self._answering_since
        # This value holds while the database does not answer: then the next line takes long or raises an error.
        self._answering_since = math.inf
        self._storage.set_study_user_attr(self._study_id, _PREFIX + self.name, count)
        now = time.monotonic()
        # After a failed or slow beat, the database counts as answering only from now on.
        self._answering_since = since if since < begun and now - begun < self._interval else now

    def answering_since(self) -> float:
        """The time (of ``time.monotonic``) since which the database has answered every beat; infinite if it does not.

        While the database is away, no worker can show that it is alive.
        """
        return self._answering_since

    def stop(self) -> None:
        """End the beats and tell the others that the trials of this worker are free."""
        self._over.set()
        # A beat that is still being written would overwrite the value that says that this worker has ended.
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._write(_GONE)
        except Exception:
            return  # the others find out when the beats stay away


class Observer:
    """Tells which workers are dead, from the attributes of the study; ``clock`` gives the time in seconds.

    Silence counts from ``answering_since`` on, the time at which the database has last begun to answer.
    """

    def __init__(
        self,
        *,
        dead_after: float,
        answering_since: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dead_after, self._answering_since, self._clock = dead_after, answering_since, clock
        # The last count of each worker and when it was first seen here.
        self._seen: dict[str, tuple[object, float]] = {}

    def is_dead(self, worker: str, attributes: Mapping[str, Any]) -> bool:
        """Whether ``worker`` is dead; call this again and again, because silence is measured between two calls."""
        count = attributes.get(_PREFIX + worker)
        if count == _GONE or _process_is_gone(worker):
            return True
        now = self._clock()
        known = self._seen.get(worker)
        # A number that is seen for the first time may be old or new. Only a later look at the same number can tell.
        if known is None or known[0] != count:
            self._seen[worker] = count, now
            return False
        # While the database did not answer, no worker could write. That time does not count as silence.
        return now - max(known[1], self._answering_since()) > self._dead_after


def _process_is_gone(worker: str) -> bool:
    """Whether the process of a worker on this machine has ended. Then nobody needs to wait for missing beats."""
    machine, _, rest = worker.partition("/")
    number = rest.partition("/")[0]
    return machine == machine_name() and number.isdecimal() and process_is_gone(int(number))

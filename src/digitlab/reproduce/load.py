"""Measures whether other processes used the machine during a run.

``reproduce.runner`` uses it: if others did, the training time of the run says nothing about the program.
"""

import json
import os
import time
from typing import Self

from digitlab.core.files import write_atomically
from digitlab.core.system import busy_processor_seconds
from digitlab.results.folder import RunFolder

_FILE_NAME = "load.json"
# Other processes may use this share of one processor: an idle system uses about as much.
_ALLOWED_SHARE = 0.05


class LoadMeter:
    """Measures how much processor time other processes use while its ``with`` block runs.

    It counts all processes of the machine; in a container, those of the whole host. Outside Linux it cannot measure
    this, so ``alone`` is always False.
    """

    def __enter__(self) -> Self:
        self._started_at, self._busy_before = time.monotonic(), _other_seconds()
        return self

    def __exit__(self, *exception: object) -> None:
        self.wall_seconds = time.monotonic() - self._started_at
        before, after = self._busy_before, _other_seconds()
        # The system counts in ticks, so rounding can make a difference slightly negative that is really 0.
        self.other_seconds = None if before is None or after is None else max(after - before, 0.0)

    @property
    def alone(self) -> bool:
        """Whether other processes used at most 5 % of one processor."""
        return self.other_seconds is not None and self.other_seconds <= _ALLOWED_SHARE * self.wall_seconds

    def write(self, run: RunFolder) -> None:
        """Write ``load.json`` into the run folder; raises ``OSError`` if the disk refuses it."""
        record = {"wall_seconds": self.wall_seconds, "other_seconds": self.other_seconds, "alone": self.alone}
        write_atomically(run.path / _FILE_NAME, json.dumps(record).encode())


def ran_alone(run: RunFolder) -> bool:
    """Whether ``load.json`` says that the run had the machine to itself; False without the file."""
    path = run.path / _FILE_NAME
    return path.exists() and bool(json.loads(path.read_text(encoding="utf-8"))["alone"])


def _other_seconds() -> float | None:
    """Return the processor seconds of all other processes since the machine started; None outside Linux.

    Children of this process do not count as others once they have ended. Before, ``os.times`` does not include them, so
    they do.
    """
    busy = busy_processor_seconds()
    if busy is None:
        return None
    this_process = os.times()
    children_seconds = this_process.children_user + this_process.children_system
    return busy - (this_process.user + this_process.system + children_seconds)

"""Measures whether a run had the machine to itself; ``runner`` uses it, because a time under load proves nothing."""

import json
import os
import time
from typing import Self

from digitlab.core.files import write_atomically
from digitlab.core.system import busy_processor_seconds
from digitlab.results.folder import RunFolder

_NAME = "load.json"
# Other processes may use this part of one processor: an idle system needs about as much.
_ALLOWED_SHARE = 0.05


class LoadMeter:
    """Measures in a ``with`` block how much processor time other processes use.

    It covers the whole machine, or the whole host in a container. Outside Linux nothing is known, so a run never counts
    as alone.
    """

    def __enter__(self) -> Self:
        self._started_at, self._busy_before = time.monotonic(), _other_seconds()
        return self

    def __exit__(self, *exception: object) -> None:
        self.wall_seconds = time.monotonic() - self._started_at
        before, after = self._busy_before, _other_seconds()
        self.other_seconds = None if before is None or after is None else max(after - before, 0.0)

    @property
    def alone(self) -> bool:
        """Whether other processes used at most 5 % of one processor."""
        return self.other_seconds is not None and self.other_seconds <= _ALLOWED_SHARE * self.wall_seconds

    def write(self, run: RunFolder) -> None:
        """Write ``load.json`` into the run folder; raises ``OSError`` if the disk refuses it."""
        record = {"wall_seconds": self.wall_seconds, "other_seconds": self.other_seconds, "alone": self.alone}
        write_atomically(run.path / _NAME, json.dumps(record).encode())


def ran_alone(run: RunFolder) -> bool:
    """Whether ``load.json`` says that the run had the machine to itself; False without the file."""
    path = run.path / _NAME
    return path.exists() and bool(json.loads(path.read_text(encoding="utf-8"))["alone"])


def _other_seconds() -> float | None:
    """Processor seconds of all processes since boot, without this process and its children; None outside Linux."""
    busy = busy_processor_seconds()
    if busy is None:
        return None
    own = os.times()
    return busy - (own.user + own.system + own.children_user + own.children_system)

"""Notices in the first seconds of a solo run that other programs use the cores, and prints a hint with a command."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from digitlab.core.system import processor_ticks
from digitlab.results import environment
from digitlab.training.classifier import Classifier

log = logging.getLogger(__name__)

# Long enough to measure, short enough that a restart loses little.
_SECONDS = 3.0
# With fewer of its threads at work on average, and fewer idle cores, a run waits for threads that other programs hold.
_BUSY_THREADS, _IDLE_CORES = 0.75, 0.15


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since some moment: of the wall clock, of this process on all cores, and of the whole machine's cores."""

    wall: float
    process: float
    machine: float
    machine_idle: float


def read_cpu_times() -> CpuTimes | None:
    """Return the times so far; None if the system does not tell those of the machine."""
    ticks = processor_ticks()
    return None if ticks is None else CpuTimes(time.perf_counter(), time.process_time(), *ticks)


def is_contended(before: CpuTimes, after: CpuTimes, *, threads: int) -> bool:
    """Return whether ``threads`` threads of this process had to wait for cores that other programs used.

    Both must hold: the process used clearly less than ``threads`` cores, and the machine had hardly any idle time. A
    process that waits for its own Python code leaves cores idle.
    """
    if threads < 2 or after.wall <= before.wall or after.machine <= before.machine:
        return False
    used = (after.process - before.process) / (after.wall - before.wall)
    idle = (after.machine_idle - before.machine_idle) / (after.machine - before.machine)
    return used < _BUSY_THREADS * threads and idle < _IDLE_CORES


class ContentionHint(Callback):
    """Measures the first seconds of training once; if threads wait for cores, logs the command to use one thread."""

    def __init__(self, overrides: Sequence[str], *, read: Callable[[], CpuTimes | None] = read_cpu_times) -> None:
        self._overrides, self._read = overrides, read
        self._before: CpuTimes | None = None
        self._done = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._done:
            return
        now = self._read()
        if now is None:
            self._done = True
        elif self._before is None:
            # After the first chunk, in which libraries start their threads and code may be compiled.
            self._before = now
        elif now.wall - self._before.wall >= _SECONDS:
            self._done = True
            assert isinstance(pl_module, Classifier)
            if is_contended(self._before, now, threads=pl_module.step_threads or 1):
                log.warning(
                    "other programs are using the cores that this run's %d threads need; one thread may be faster: %s",
                    pl_module.step_threads, f"OMP_NUM_THREADS=1 {environment.command(self._overrides)}",
                )  # fmt: skip

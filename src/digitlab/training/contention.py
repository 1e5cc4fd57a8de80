"""Notices in the first seconds of a solo run that other programs use the cores, and logs a command that helps.

``Run`` adds the callback to its Trainer. If several threads compete with other programs for the cores, one thread can
be faster, because no thread then waits for others that have no core.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning.pytorch import Callback, LightningModule, Trainer

from digitlab.core.system import processor_ticks
from digitlab.results import environment
from digitlab.training.classifier import Classifier

log = logging.getLogger(__name__)

# Long enough to measure, short enough that a user who restarts the run loses little.
_SECONDS = 2.0
# A run has to wait for cores if, on average, less than the first share of its threads is working, and less than the
# second share of all cores is idle.
_MAX_BUSY_THREADS, _MAX_IDLE_CORES = 0.75, 0.15


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Times at one moment. Only differences between two moments have a meaning.

    ``wall`` is the time of a clock in seconds, and ``process`` the processor seconds of this process on all cores.
    ``machine`` and ``machine_idle`` are clock ticks of all cores of the machine, busy or idle, and of the idle ones.
    """

    wall: float
    process: float
    machine: float
    machine_idle: float


def read_cpu_times() -> CpuTimes | None:
    """Return the times at this moment; None if the system does not report those of the machine."""
    ticks = processor_ticks()
    return None if ticks is None else CpuTimes(time.perf_counter(), time.process_time(), *ticks)


def is_contended(before: CpuTimes, after: CpuTimes, *, threads: int) -> bool:
    """Return whether ``threads`` threads of this process had to wait for cores that other programs used.

    Both conditions are needed: the process used clearly less than ``threads`` cores, and hardly any core was idle. If
    the threads waited for Python code of their own process, cores would be idle.
    """
    if threads < 2 or after.wall <= before.wall or after.machine <= before.machine:
        return False
    used_cores = (after.process - before.process) / (after.wall - before.wall)
    idle_share = (after.machine_idle - before.machine_idle) / (after.machine - before.machine)
    return used_cores < _MAX_BUSY_THREADS * threads and idle_share < _MAX_IDLE_CORES


class ContentionHint(Callback):
    """Measures once, soon after the start of training. If threads wait for cores, it logs a command with one thread.

    It measures in a separate thread, because the training thread calls callbacks only after the first chunk of
    mini-batches, which can take a minute on a busy machine. It waits for ``seconds``, in which libraries start their
    threads, and then measures for as long. ``overrides`` are those of the run, for the command. ``read`` returns the
    times at a moment.
    """

    def __init__(
        self,
        overrides: Sequence[str],
        *,
        read: Callable[[], CpuTimes | None] = read_cpu_times,
        seconds: float = _SECONDS,
    ) -> None:
        self._overrides, self._read, self._seconds = overrides, read, seconds
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        self._watcher = threading.Thread(target=self._watch, args=(pl_module,), name="contention hint", daemon=True)
        self._watcher.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self, classifier: Classifier) -> None:
        """Wait, measure and perhaps log the command; return early if the training ends."""
        if self._ended.wait(self._seconds):  # true if the training has ended
            return
        before = self._read()
        if before is None or self._ended.wait(self._seconds):
            return
        after = self._read()
        if after is not None and is_contended(before, after, threads=classifier.step_threads or 1):
            log.warning(
                "other programs are using the cores that this run's %d threads need; one thread may be faster: %s",
                classifier.step_threads, f"OMP_NUM_THREADS=1 {environment.command(self._overrides)}",
            )  # fmt: skip

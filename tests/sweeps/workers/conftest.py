"""Batches that need no training: their launchers report where they run, fail, wait for a signal, or die."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.singleton import Singleton

from digitlab.sweeps.workers.job_batch import JobBatch


class Scripted(BasicLauncher):
    """Calls the method that the override of a job names; ``here`` returns the process and its share of the machine."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        return [getattr(self, overrides[0])(*overrides[1:]) for overrides in job_overrides]

    def here(self) -> dict[str, Any]:
        rank_indices = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return {"pid": os.getpid(), "interruptible": signal.SIGINT not in blocked} | rank_indices

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self) -> None:
        raise ValueError("no such luck")

    def train(self, saved: str, started: str) -> str:
        """Behave like a run: wait for SIGTERM, then save. A second signal before that would end it unsaved."""
        received: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        Path(started).touch()
        deadline = time.monotonic() + 600
        while not received and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(0.2)
        Path(saved).touch()
        signal.signal(signal.SIGTERM, before)
        sys.exit(128 + received[0])


@pytest.fixture
def signal_when() -> Callable[[int, Sequence[Path]], None]:
    """``signal_when(number, paths)`` sends this process the signal once all of these files exist."""

    def wait(number: int, paths: Sequence[Path]) -> None:
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    return lambda number, paths: threading.Thread(target=wait, args=(number, paths), daemon=True).start()


@pytest.fixture
def sweep_py(sweep_command: Callable[..., list[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``sweep_py(...)`` runs ``sweep_command(...)`` in a new process: a forked child would run out of memory."""

    def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            sweep_command(*arguments, folder=folder), env=environment, capture_output=True, text=True, timeout=600
        )

    return run


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., JobBatch]:
    """``batch("here")`` is a batch with one job, whose overrides are the arguments."""
    # The worker processes can't import this module, so its classes are pickled whole.
    pytest.importorskip("cloudpickle").register_pickle_by_value(sys.modules[__name__])

    def make(*overrides: str, number: int = 0, **environment: str) -> JobBatch:
        return JobBatch(
            numbers=[number],
            overrides=[list(overrides)],
            folders=[tmp_path / str(number)],
            launcher=Scripted(),
            state=Singleton.get_state(),
            environment=environment,
        )

    return make

"""What a process of a sweep is given to do: one job, or those of one population, in a launcher of its own."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from digitlab.core.errors import RunError


@dataclass(frozen=True, slots=True)
class JobBatch:
    """Jobs that one process does: their overrides, and their run folders, whose numbers are known already.

    ``launcher`` is set up, and runs them as it would in the command's process; ``state`` holds Hydra's singletons and
    the resolvers there. ``environment`` is set before anything imports torch.
    """

    numbers: Sequence[int]
    overrides: Sequence[Sequence[str]]
    folders: Sequence[Path]
    launcher: Launcher
    state: Any
    environment: Mapping[str, str] = field(default_factory=dict)

    def within(self, environment: Mapping[str, str]) -> "JobBatch":
        return replace(self, environment=environment)

    def __call__(self) -> Sequence[JobReturn]:
        """The returns of the jobs. Raises ``RunError`` where a signal stopped them; their runs are saved then."""
        os.environ.update(self.environment)
        Singleton.set_state(self.state)
        with _stoppable(), _reserved(self.folders):
            return self.launcher.launch(self.overrides, self.numbers[0])

    def checkpoint(self) -> Any:
        """What submitit queues again where a job's time is over: the same, as its runs go on by themselves."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _reserved(folders: Sequence[Path]) -> Iterator[None]:
    """Wait until no other process is at work on the runs.

    One of a command that was killed may be: the job of a cluster outlives the command. Sorted, so that two never wait
    for each other.
    """
    from filelock import FileLock

    with ExitStack() as stack:
        for folder in sorted(folders):
            locks = folder.parent / ".locks"
            locks.mkdir(exist_ok=True)
            stack.enter_context(FileLock(locks / f"{folder.name}.lock"))
        yield


@contextmanager
def _stoppable() -> Iterator[None]:
    """Have a signal end the work even where no run listens, and submitit's be obeyed after the runs are saved.

    Submitit itself ignores SIGTERM. Its own signal comes when a job's time is nearly over: the job goes into the queue
    again, and its runs go on from where they were saved.
    """
    obey, before = signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)
    asked: list[tuple[int, FrameType | None]] = []

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    def save(number: int, frame: FrameType | None) -> None:
        asked.append((number, frame))
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    if callable(obey):
        signal.signal(signal.SIGUSR2, save)
    try:
        yield
    except SystemExit as stop:
        if stop.code not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise
        if asked and callable(obey):
            obey(*asked[0])
        raise RunError("stopped by a signal") from stop
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGUSR2, obey)

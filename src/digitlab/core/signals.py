"""Stops a run on SIGINT or SIGTERM: it finishes its current update and is saved before the process ends.

A ``StopSignal`` is active while a run, a population or the jobs of a sweep are trained. The training loops check its
``received`` between updates.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from digitlab.core.errors import DigitlabError

if TYPE_CHECKING:
    # A command that only submits the jobs of a sweep to a cluster also uses this module, and must not import torch.
    from lightning.pytorch import Trainer


# The end of the message of a sweep that a signal stopped.
RUNS_SAVED = ": the unfinished runs are saved; the same command resumes them"


class Interrupted(DigitlabError):
    """Signal ``number`` stopped the run, and the run was saved.

    The message contains ``where``, which says how far the run got, and ``how``, the command that resumes it. The exit
    code is 128 plus the number of the signal: 130 for SIGINT, 143 for SIGTERM. ``folder`` is that of a single run, None
    for several runs.
    """

    def __init__(self, number: int, where: str = "", *, how: str = "", folder: Path | None = None) -> None:
        to_continue = f"; to continue: {how}" if how else ""
        super().__init__(f"stopped by {signal.Signals(number).name}{where}{to_continue}")
        self.number, self.exit_code = number, 128 + number
        self.where, self.folder = where, folder


class Stopper:
    """Stops the training that was started with it, from another thread: ``digitlab.train(..., stopper=stopper)``.

    Python delivers signals to the main thread only, so a training in another thread needs this instead.
    """

    def __init__(self) -> None:
        self._requested = False
        self._listeners: list[StopSignal] = []

    def stop(self) -> None:
        """Let the training finish its current update, save the run, and raise ``Interrupted`` in its thread."""
        self._requested = True
        for listener in self._listeners:
            listener.received = signal.SIGINT

    def add(self, listener: StopSignal) -> None:
        self._listeners.append(listener)
        # ``stop`` may have been called before there was a listener, for example while the data was being downloaded.
        if self._requested:
            listener.received = signal.SIGINT

    def remove(self, listener: StopSignal) -> None:
        self._listeners.remove(listener)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context, ``stop`` reaches every ``StopSignal`` that this thread enters."""
        token = _STOPPER.set(self)
        try:
            yield
        finally:
            _STOPPER.reset(token)


# The stopper whose context is active. Each thread has its own value.
_STOPPER: ContextVar[Stopper | None] = ContextVar("stopper", default=None)

# By default a second signal ends the process at once, so that users can stop a run that does not react.
_SECOND_SIGNAL: ContextVar[signal.Handlers] = ContextVar("what a second signal does", default=signal.SIG_DFL)


@contextmanager
def second_signal_ignored() -> Iterator[None]:
    """Within this context, a second signal does not end the process.

    A cluster can send a warning and SIGTERM at the same moment, and the process must still save its run. If it takes
    too long, the cluster kills it.
    """
    token = _SECOND_SIGNAL.set(signal.SIG_IGN)
    try:
        yield
    finally:
        _SECOND_SIGNAL.reset(token)


class StopSignal:
    """A context manager that stores the first SIGINT or SIGTERM in ``received``.

    A second signal ends the process, except within ``second_signal_ignored``.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        # The handlers before this context, by signal. Empty outside the main thread, where no handler is installed.
        self._previous: dict[int, Any] = {}
        self._stopper: Stopper | None = None

    def __enter__(self) -> StopSignal:
        self._stopper = _STOPPER.get()
        if self._stopper is not None:
            self._stopper.add(self)
        if threading.current_thread() is not threading.main_thread():
            return self  # Python allows signal handlers in the main thread only
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._stopper is not None:
            self._stopper.remove(self)

    def install(self) -> None:
        """Install the handlers. Call this again after Lightning's fit has begun, which installs its own handlers."""
        for number in self._previous:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        # From now on, the next signal is the second one.
        for handled in self._previous:
            signal.signal(handled, _SECOND_SIGNAL.get())

    def obey(self, trainer: Trainer, *, save: Callable[[], None] | None = None) -> None:
        """Call ``save`` and raise ``Interrupted`` if any process of ``trainer`` received a signal.

        Under DDP, every process must call this method, because they wait for each other here. The error says
        nothing about the run. So ``train`` raises it again, with the folder and the command that resumes the run.
        """
        # The processes agree: if only one of them stopped, the others would wait for it forever.
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            if save is not None:
                save()
            # This process may stop only because another one received the signal.
            raise Interrupted(self.received or signal.SIGTERM)

"""Ends the process with a message and an exit code. Used by ``train.py``, the launchers and the check before a run."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import NoReturn

from digitlab.core.errors import DigitlabError


class ReportedExit(SystemExit):
    """Ends the process because of ``error``, which was printed unless the caller catches this exception."""

    def __init__(self, error: DigitlabError) -> None:
        super().__init__(error.exit_code)
        self.error = error


_RAISES: ContextVar[bool] = ContextVar("errors are raised, not printed", default=False)


def exit_with(error: DigitlabError) -> NoReturn:
    """Print ``error`` to stderr and end the process with its exit code. Within ``errors_raised``, raise ``error``."""
    if not _RAISES.get():
        print(error, file=sys.stderr)
    # Hydra turns other exceptions of its callbacks into warnings, and a job's exceptions into a result.
    raise ReportedExit(error)


@contextmanager
def errors_raised() -> Iterator[None]:
    """Within this context, errors reach the caller as exceptions: Python users have no exit code to look at."""
    token = _RAISES.set(True)
    try:
        yield
    except ReportedExit as ended:
        raise ended.error from ended.__cause__
    finally:
        _RAISES.reset(token)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within this context, SIGTERM raises ``SystemExit(143)``, so that ``finally`` blocks run as they do on Ctrl-C.

    In another thread than the main one nothing changes, because Python allows no signal handlers there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def exit_by_signal(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, exit_by_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""Ends the process with a message of one line and an exit code, or raises the error for users of the Python API.

``train.py``, the launchers of sweeps, and the checks before a run use it.
"""

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
    """Ends the process with the exit code of ``error``. ``exit_with`` raises it, and has printed ``error`` before.

    Within ``errors_raised`` nothing is printed, and ``error`` is raised in place of this exception.
    """

    def __init__(self, error: DigitlabError) -> None:
        super().__init__(error.exit_code)
        self.error = error


_RAISES: ContextVar[bool] = ContextVar("errors are raised, not printed", default=False)


def exit_with(error: DigitlabError) -> NoReturn:
    """Print ``error`` to stderr and end the process with its exit code. Within ``errors_raised``, raise ``error``."""
    if not _RAISES.get():
        print(error, file=sys.stderr)
    # A SystemExit, because Hydra turns other exceptions of its callbacks into warnings, and those of a job into a
    # result.
    raise ReportedExit(error)


@contextmanager
def errors_raised() -> Iterator[None]:
    """Within this context, errors reach the caller as exceptions: Python users have no exit code to look at."""
    token = _RAISES.set(True)
    try:
        yield
    except ReportedExit as reported_exit:
        raise reported_exit.error from reported_exit.__cause__
    finally:
        _RAISES.reset(token)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within this context, SIGTERM raises ``SystemExit(143)``, so that ``finally`` blocks run as they do on Ctrl-C.

    In any thread but the main one this does nothing, because Python allows signal handlers only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def exit_by_signal(number: int, frame: FrameType | None) -> NoReturn:
        # Shells report a process that a signal ended with the same exit code.
        sys.exit(128 + number)

    previous_handler = signal.signal(signal.SIGTERM, exit_by_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)

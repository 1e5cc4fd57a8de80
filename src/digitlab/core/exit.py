"""Ends the process with a message and an exit code. Used by ``train.py``, the launchers and the check before a run."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from digitlab.core.errors import DigitlabError


def exit_with(error: DigitlabError) -> NoReturn:
    """Print ``error`` to stderr and end the process with its exit code."""
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within this context, SIGTERM raises ``SystemExit(143)``, so that ``finally`` blocks run as they do on Ctrl-C."""

    def exit_by_signal(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, exit_by_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

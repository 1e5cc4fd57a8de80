"""How a process ends: one line on stderr and the exit code of the error, or the code of a signal."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from digitlab.core.errors import DigitlabError


def exit_with(error: DigitlabError) -> NoReturn:
    """Say in one line what went wrong, and end the process with the exit code that belongs to it."""
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within, SIGTERM ends the process by ``SystemExit``, so that what was begun is cleared away as after Ctrl-C."""

    def exit_by_signal(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, exit_by_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""Provides a terminal while ``bench.py`` measures digitlab, so that its time includes drawing the progress bar."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

_LINES, _COLUMNS = 40, 120


@contextmanager
def terminal() -> Iterator[None]:
    """Connect standard output and error to a terminal and discard what is written to it.

    A child process reads the terminal. Reading it in this process would add time that users do not spend.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (_LINES, _COLUMNS))
    os.environ["TERM"] = "xterm-256color"  # rich draws no progress bar on a dumb terminal
    # The child ends when the last descriptor of its terminal is closed; the with statement waits for that.
    with subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        os.close(ours)
        original = os.dup(sys.stdout.fileno()), os.dup(sys.stderr.fileno())
        _point_to(theirs, theirs)
        os.close(theirs)
        try:
            yield
        finally:
            _point_to(*original)
            for descriptor in original:
                os.close(descriptor)


def _point_to(output: int, error: int) -> None:
    """Connect standard output and standard error to these descriptors."""
    for stream, descriptor in ((sys.stdout, output), (sys.stderr, error)):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
